"""`degrade probe gradients` against finite differences and graphs cut apart; snapshots along training."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from degrade.analysis import error_curves, layers
from degrade.cli import probe as commands
from degrade.config import CheckpointConfig, ModelConfig
from degrade.errors import ConfigError
from degrade.models import CifarNet, build_model
from degrade.probes import gradients as probe
from degrade.probes.gradients import gradients, layer_gradients, weighted_layers
from degrade.probes.probe import read, subject
from degrade.runs import RunRecord, run
from degrade.training import checkpoint
from tests.conftest import SMALL, Cli, Make, Trained
from tests.test_runs import equal, interrupted_copy, rows, weights

NETWORKS = [("plain", "batch"), ("plain", "none"), ("residual", "batch"), ("residual", "none")]
UNSIZED = [word for word in SMALL if not word.startswith("model.")]
SNAPSHOTS = ["checkpoint.snapshots=6"]
KEPT = [0, 1, 2, 5, 11, 24]


def network(family: str, norm: str) -> tuple[CifarNet, Tensor, Tensor]:
    """A network of depth 8 in float64, and images for it."""
    chance = torch.Generator().manual_seed(1)
    model = build_model(ModelConfig(family=family, depth=8, norm=norm), generator=chance).double()
    assert isinstance(model, CifarNet)
    images = torch.randn((4, 3, 32, 32), generator=chance, dtype=torch.float64)
    return model.train(), images, torch.arange(4)


@torch.no_grad()
def slope(loss: Callable[[], Tensor], place: Tensor, direction: Tensor, step: float = 1e-6) -> float:
    """How steeply a loss rises as a tensor moves in a direction, by central differences."""
    place += step * direction
    ahead = float(loss())
    place -= 2 * step * direction
    behind = float(loss())
    place += step * direction
    return (ahead - behind) / (2 * step)


@pytest.mark.parametrize(("family", "norm"), NETWORKS)
def test_along_its_gradient_the_loss_rises_by_the_norm(family: str, norm: str) -> None:
    model, images, labels = network(family, norm)

    def loss() -> Tensor:
        return F.cross_entropy(model(images), labels)

    found = layer_gradients(model, images, labels)
    assert [row["layer"] for row in found] == list(range(1, 9))
    for row, (_, weight, _) in zip(found, weighted_layers(model), strict=True):
        (gradient,) = torch.autograd.grad(loss(), weight)
        assert slope(loss, weight, gradient / gradient.norm()) == pytest.approx(row["weight_gradient"], rel=1e-5)
        length = float(weight.detach().norm())
        assert row["relative_gradient"] == pytest.approx(float(row["weight_gradient"]) / length)
        assert row["weight_norm"] == pytest.approx(length)


def test_the_norm_is_that_of_every_slope_by_itself() -> None:
    model, images, labels = network("plain", "batch")
    images, labels = images[:2], labels[:2]
    first = layer_gradients(model, images, labels)[0]
    units = torch.eye(model.conv1.weight.numel(), dtype=torch.float64).view(-1, *model.conv1.weight.shape)
    slopes = [slope(lambda: F.cross_entropy(model(images), labels), model.conv1.weight, unit) for unit in units]
    assert math.hypot(*slopes) == pytest.approx(first["weight_gradient"], rel=1e-5)


@pytest.mark.parametrize(("family", "norm"), NETWORKS)
def test_responses_and_their_gradients_are_those_of_the_network_cut_there(family: str, norm: str) -> None:
    """The rest of the network as a function of a response: by autograd on a leaf, and by finite differences."""
    model, images, labels = network(family, norm)
    found = layer_gradients(model, images, labels)
    for row, (_, _, module) in zip(found, weighted_layers(model), strict=True):
        seen: list[Tensor] = []
        with torch.no_grad():
            handle = module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.clone()))
            model(images)
            handle.remove()
        leaf = seen[0].requires_grad_()

        def rest(module: torch.nn.Module = module, leaf: Tensor = leaf) -> Tensor:
            handle = module.register_forward_hook(lambda *_: leaf.clone())  # for the ReLU to work in
            loss = F.cross_entropy(model(images), labels, reduction="sum")
            handle.remove()
            return loss

        (gradient,) = torch.autograd.grad(rest(), leaf)
        norm_of_one = float(gradient.norm()) / math.sqrt(len(labels))
        assert row["response_gradient"] == pytest.approx(norm_of_one)
        risen = slope(rest, leaf, gradient / gradient.norm()) / math.sqrt(len(labels))
        assert row["response_gradient"] == pytest.approx(risen, rel=1e-4)
        assert row["response_std"] == pytest.approx(float(leaf.detach().std(correction=0)))


def cut(model: CifarNet, images: Tensor, labels: Tensor, module: torch.nn.Module) -> Tensor:
    """The gradient with respect to a module's output, by autograd on a leaf that stands in for it."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    model(images)
    handle.remove()
    leaf = seen[0].requires_grad_()
    handle = module.register_forward_hook(lambda *_: leaf.clone())  # for the ReLU to work in
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    handle.remove()
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize(("family", "norm"), NETWORKS)
def test_correlation_is_the_cosine_of_gradients_at_neighbours_batch_by_batch(
    family: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, labels = network(family, norm)
    monkeypatch.setattr(probe, "BATCH", 3)
    found = layer_gradients(model, images, labels, noise=0.05)
    chance = torch.Generator().manual_seed(0)
    noise = [torch.randn((count, 3, 32, 32), generator=chance, dtype=torch.float64) for count in (3, 1)]
    near = images + 0.05 * images.std(correction=0) * torch.cat(noise)
    for row, (_, _, module) in zip(found, weighted_layers(model), strict=True):
        cosines: list[float] = []
        for part in (slice(3), slice(3, 4)):
            own, other = (cut(model, own[part], labels[part], module) for own in (images, near))
            cosines += [float(a.ravel() @ b.ravel() / (a.norm() * b.norm())) for a, b in zip(own, other, strict=True)]
        assert row["gradient_correlation"] == pytest.approx(sum(cosines) / 4)
    assert float(found[0]["gradient_correlation"]) < 0.999
    same = layer_gradients(model, images, labels, noise=0)
    assert [row["gradient_correlation"] for row in same] == pytest.approx([1] * 8)
    for key in ("weight_gradient", "response_gradient", "response_std", "dead"):
        assert [row[key] for row in same] == pytest.approx([row[key] for row in found], nan_ok=True)


@pytest.mark.parametrize(("family", "norm"), NETWORKS)
def test_dead_units_are_those_that_the_relus_leave_at_zero(family: str, norm: str) -> None:
    model, images, labels = network(family, norm)
    found = layer_gradients(model, images, labels)
    outputs: list[Tensor] = []

    def relu(values: Tensor) -> Tensor:
        outputs.append(values.clamp(min=0))
        return outputs[-1].clone()

    for module in model.modules():
        for name in ("activate", "activate2"):
            if hasattr(module, name):
                setattr(module, name, relu)
    with torch.no_grad():
        model(images)
    shares = [float((output == 0).all(dim=0).double().mean()) for output in outputs]
    assert [row["dead"] for row in found] == pytest.approx([*shares, math.nan], nan_ok=True)
    assert max(shares) > 0.01


def test_channels_below_zero_are_dead_unless_a_shortcut_lifts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BATCH", 3)  # a unit must be zero in every batch
    for family in ("plain", "residual"):
        model, images, labels = network(family, "batch")
        with torch.no_grad():
            norms = [norm for _, _, norm in list(model.convolutions())[:3]]
            for norm, channels, shift in zip(norms, (0, 4, 8), (0.0, -1.0, -0.5), strict=True):
                assert isinstance(norm, torch.nn.BatchNorm2d)
                norm.weight.zero_()
                norm.bias.fill_(1)
                norm.bias[:channels] = shift
        found = [row["dead"] for row in layer_gradients(model, images, labels)]
        assert found[:3] == [0, 0.25, 0.5 if family == "plain" else 0]


def test_images_pass_in_batches_and_the_network_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, labels = network("residual", "batch")
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = [layer_gradients(model, images[part], labels[part]) for part in (slice(3), slice(3, 4))]
    monkeypatch.setattr(probe, "BATCH", 3)
    found = layer_gradients(model, images, labels)
    for row, three, one in zip(found, *whole, strict=True):
        squares = 3 * float(three["response_gradient"]) ** 2 + float(one["response_gradient"]) ** 2
        assert row["response_gradient"] == pytest.approx(math.sqrt(squares / 4))
    assert equal(model.state_dict(), before)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.recompute = True
    assert layer_gradients(model, images, labels) == found


def test_what_overflows_is_kept_as_it_is_and_drawn(trained: Trained) -> None:
    record = trained("model.norm=none", "optim.lr=1e12", *SNAPSHOTS)
    assert record.status == "diverged"
    found = gradients(record)
    assert not all(math.isfinite(float(row["weight_gradient"])) for row in found)
    assert repr(gradients(record)) == repr(found)  # read again; nan is not equal to nan
    values = [probe._values(rows, layers.WEIGHTS) for rows in probe.stages(found)[1]]
    assert "not finite" in probe._beyond(values, "grey:")


def test_snapshots_are_spaced_in_the_logarithm_from_the_first_weights_to_the_last() -> None:
    def due(snapshots: int | None, last: int) -> list[int]:
        return CheckpointConfig(snapshots=snapshots).snapshot_iterations(last)

    assert due(None, 900) == []
    assert due(2, 900) == [0, 900]
    assert due(3, 900) == [0, 1, 900]
    assert due(6, 10_000) == [0, 1, 10, 100, 1000, 10_000]
    assert due(1000, 3) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"checkpoint\.snapshots=1: must lie from 2"):
        due(1, 900)


def test_snapshots_change_no_training_survive_interruption_and_go_with_fresh(small: Make) -> None:
    plain = run(small("name=without"))
    whole = run(small("name=whole", *SNAPSHOTS))
    assert rows(whole) == rows(plain)
    assert equal(weights(whole), weights(plain))
    parts = interrupted_copy(small, "name=parts", *SNAPSHOTS, at=11)  # where a snapshot is due
    assert list(checkpoint.snapshots(parts.path)) == KEPT[:-1]
    run(small("name=parts", *SNAPSHOTS))
    for record in (whole, parts):
        assert list(checkpoint.snapshots(record.path)) == KEPT

    def kept(record: RunRecord, iteration: int) -> dict[str, Tensor]:
        state = checkpoint.load(checkpoint.snapshots(record.path)[iteration], torch.device("cpu"))
        return dict(state["engine"]["model"])

    assert all(equal(kept(whole, iteration), kept(parts, iteration)) for iteration in KEPT)
    assert equal(kept(whole, 24), weights(whole))
    fresh = build_model(small().model, generator=torch.Generator().manual_seed(0))
    assert equal(kept(whole, 0), fresh.state_dict())
    run(small("name=whole"), fresh=True)
    assert checkpoint.snapshots(whole.path) == {}


def test_every_snapshot_is_measured_and_the_last_checkpoint(small: Make, trained: Trained) -> None:
    record = trained(*SNAPSHOTS)
    checkpoint.snapshots(record.path)[24].unlink()  # the checkpoint is there still
    checkpoint.snapshots(record.path)[2].write_bytes(b"damaged")
    found = gradients(record, limit=20)
    iterations, stages = probe.stages(found)
    assert iterations == [0, 1, 5, 11, 24]
    training = subject(record, "cpu")
    last = layer_gradients(training.engine.model, *probe._images(training, 20))
    assert [row["weight_gradient"] for row in stages[-1]] == [row["weight_gradient"] for row in last]
    fresh = probe.initial_gradients(small(), training.images, limit=20)
    assert [row["weight_gradient"] for row in stages[0]] == [row["weight_gradient"] for row in fresh]


def test_growth_is_that_of_the_weights_since_the_first_snapshot(small: Make, trained: Trained) -> None:
    record = trained(*SNAPSHOTS)
    found = gradients(record, limit=20)

    def norms(iteration: int) -> list[float]:
        state = checkpoint.load(checkpoint.snapshots(record.path)[iteration], torch.device("cpu"))
        model = build_model(small().model)
        model.load_state_dict(state["engine"]["model"])
        return [float(weight.detach().norm()) for _, weight, _ in weighted_layers(model)]

    grown = [later / first for later, first in zip(norms(24), norms(0), strict=True)]
    assert max(grown) > 1.001
    last = probe.stages(found)[1][-1]
    assert [row[layers.GROWTH] for row in last] == pytest.approx(grown)
    old = [{key: value for key, value in row.items() if key not in ("weight_norm", "count")} for row in found]
    assert [row[layers.GROWTH] for row in probe.stages(old)[1][-1]] == pytest.approx(grown)
    without = probe.stages([row for row in found if row["snapshot"] != 0])[1][-1]
    assert all(math.isnan(float(row[layers.GROWTH])) for row in without)


def test_heat_maps_are_of_all_quantities_that_are_known_and_say_what_they_are(trained: Trained) -> None:
    record = trained(*SNAPSHOTS, "seed=4")
    rows = gradients(record, limit=20)
    curves = error_curves([record])
    figure = probe.draw_heat_maps(curves, [rows])
    names = [axes.get_ylabel().replace("\n", " ") for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert names == [
        "gradient of the response",
        "gradient of the weights",
        "gradient of the weights relative to the weights",
        "norm of the weights relative to the initial one",
        "share of ReLUs that are zero on every image",
    ]
    assert figure.axes[0].get_title().startswith("plain-8, seed 4\n")
    below = " ".join(figure.get_supxlabel().split())
    assert "that of the batch's summed loss in train mode with respect to one image's response" in below
    assert "the first 20 training images" in below
    assert "grey in their row: without a ReLU, or not measured" in below
    dead = figure.axes[4].collections[0].get_array()
    assert isinstance(dead, np.ma.MaskedArray)
    assert dead.mask.sum() == dead.shape[1], "the logits alone are grey"
    old = probe.draw_heat_maps(curves, [[{k: v for k, v in row.items() if k != layers.DEAD} for row in rows]])
    assert len([axes for axes in old.axes if axes.get_label() == "<colorbar>"]) == 4
    less = probe.draw_heat_maps(curves, [[row for row in rows if row["snapshot"] != 0]])
    assert len([axes for axes in less.axes if axes.get_label() == "<colorbar>"]) == 4


def test_one_command_trains_measures_and_draws(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrunk = [["model=plain", "model.depth=8", "name=gradients", "checkpoint.snapshots=4"]]
    monkeypatch.setattr("degrade.config.network_matrix", lambda _: shrunk)
    monkeypatch.setattr("degrade.config.untrained_matrix", lambda _: [["model=residual", "model.norm=none"]])
    command = ["probe", "gradients", "experiment=gradients", *UNSIZED, "recipe.iterations=3", "--limit", "20"]
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "outputs/gradients"
    for name in ("gradients.png", "gradients-initial.png"):
        assert (folder / name).stat().st_size > 10_000
    assert "residual, no norm, he, 20" in outcome.out
    lines = [line for line in outcome.out.splitlines() if not line.startswith("figure:")]
    assert all(len(line) <= 80 for line in lines if ".." in line or line.startswith(("network", "norms")))
    (head,) = [line.split() for line in lines if line.startswith("network at iteration")]
    assert head[3:] == ["responses", "weights", "relative", "growth"]
    (last,) = [line.split() for line in lines if line.startswith("plain-8 at 3 ")]
    blocks = [lines[k : k + 5] for k, line in enumerate(lines) if line.startswith("correlation: ")]
    assert len(blocks) == 2  # before the first update, and along training
    assert all(len(line) <= 80 for block in blocks for line in block)
    assert all(block[2].split() == ["network", "correlation", "dead"] for block in blocks)
    rows = probe.stages(read(next(tmp_path.rglob("probes/gradients.csv"))))[1][-1]
    for cell, key, form in ((last[-2], layers.RELATIVE, ".1e"), (last[-1], layers.GROWTH, ".3g")):
        values = [float(row[key]) for row in rows]
        assert cell == f"{min(values):{form}}..{max(values):{form}}"
    (csv,) = tmp_path.rglob("probes/gradients.csv")
    assert len(csv.read_text().splitlines()) == 1 + 8 * 4
    assert "skipped" in cli(*command).out
    measured = (folder / "gradients-initial.png").read_bytes()
    again = cli("probe", "gradients", str(folder), "-o", "again.png")
    assert again.out.endswith("figure: again.png\nfigure: again-initial.png\n")
    assert (tmp_path / "again-initial.png").read_bytes() == measured
    assert cli("reproduce", "gradients", *UNSIZED, "recipe.iterations=3").out.count("degrade probe gradients") == 1


def test_a_setting_changes_the_untrained_networks_in_which_it_takes_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    networks = [["model=plain"], ["model=plain", "model.norm=none"], ["model=residual"]]
    for own, count in (("model.shortcut=B", 3), ("model.norm=group", 2)):
        commands._before_training([*UNSIZED, "model.depth=8", own], 20, *networks, name="gradients")
        lines = (tmp_path / "outputs/gradients/gradients-initial.csv").read_text().splitlines()
        assert len(lines) == 1 + 8 * count


def test_runs_without_snapshots_and_networks_without_runs_are_profiles(
    cli: Cli, trained: Trained, tmp_path: Path
) -> None:
    trained("recipe.iterations=2")
    assert cli("probe", "gradients", "--limit", "20", "-o", "last.svg").code == 0
    assert (tmp_path / "last.svg").stat().st_size > 10_000
    swept = ["model.init=he,gaussian", "model.norm=batch,none", "seed=0,1", *SMALL]
    outcome = cli("probe", "gradients", *swept, "--limit", "20", "-o", "first.png")
    assert outcome.code == 0, outcome.err
    assert "plain, no norm, gaussian, seed=1, 8" in outcome.out
    assert len((tmp_path / "outputs/gradients/gradients-initial.csv").read_text().splitlines()) == 1 + 8 * 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["outputs", "model.depth=8"], "not both"),
        (["nowhere"], "no such directory"),
        (["experiment=gradient"], "did you mean gradients"),
        (["experiment=figure1"], "checkpoint.snapshots=16"),
        (["experiment=gradients", "model.depth=8"], "the experiment sets it"),
        (["model.dpth=8"], "no such setting"),
        (["model.depth=9"], "has depth 8, 14, 20 ...; nearest: 8 or 14"),
        (["--output", "x.gif"], "use one of these suffixes"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, arguments: list[str], says: str) -> None:
    outcome = cli("probe", "gradients", *arguments)
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers(trained: Trained) -> None:
    record = trained("runtime.device=cpu", *SNAPSHOTS)
    there = gradients(record, limit=20, device="cuda")
    (record.path / "probes" / "gradients.csv").unlink()
    here = gradients(record, limit=20, device="cpu")
    for key in (layers.WEIGHTS, layers.SIGNALS, layers.FORWARD):
        assert [row[key] for row in there] == pytest.approx([row[key] for row in here], rel=1e-3)
