"""`degrade probe gradients` against finite differences and graphs cut apart; snapshots along training."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from degrade.config import CheckpointConfig, Experiment, ModelConfig
from degrade.errors import ConfigError
from degrade.models import CifarNet, build_model
from degrade.probes import gradients as probe
from degrade.probes.gradients import gradients, layer_gradients, weighted_layers
from degrade.probes.numbers import subject
from degrade.runs import RunRecord, run
from degrade.training import checkpoint
from tests.conftest import SMALL, Outcome
from tests.test_runs import equal, interrupted_copy, rows, weights

Small = Callable[..., Experiment]
Cli = Callable[..., Outcome]

NETWORKS = [("plain", "batch"), ("plain", "none"), ("residual", "batch"), ("residual", "none")]
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
        relative = float(row["weight_gradient"]) / float(weight.detach().norm())
        assert row["relative_gradient"] == pytest.approx(relative)


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


def test_what_overflows_is_kept_as_it_is_and_drawn(small: Small) -> None:
    record = run(small("model.norm=none", "optim.lr=1e12", *SNAPSHOTS))
    assert record.status == "diverged"
    found = gradients(record)
    assert not all(math.isfinite(float(row["weight_gradient"])) for row in found)
    assert repr(gradients(record)) == repr(found)  # read again; nan is not equal to nan
    values = [probe._values(rows, probe.WEIGHTS) for rows in probe.stages(found)[1]]
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


def test_snapshots_change_no_training_survive_interruption_and_go_with_fresh(small: Small) -> None:
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


def test_every_snapshot_is_measured_and_the_last_checkpoint(small: Small) -> None:
    record = run(small(*SNAPSHOTS))
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


def test_one_command_trains_measures_and_draws(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrunk = [["model=plain", "model.depth=8", "name=gradients", "checkpoint.snapshots=4"]]
    monkeypatch.setattr("degrade.config.network_matrix", lambda _: shrunk)
    monkeypatch.setattr("degrade.config.untrained_matrix", lambda _: [["model=residual", "model.norm=none"]])
    settings = [word for word in SMALL if not word.startswith("model.depth")]
    command = ["probe", "gradients", "experiment=gradients", *settings, "recipe.iterations=3", "--limit", "20"]
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "outputs/gradients"
    for name in ("gradients.png", "gradients-initial.png"):
        assert (folder / name).stat().st_size > 10_000
    assert "plain-8, iteration 3" in outcome.out
    assert "residual, no norm, he, 20" in outcome.out
    table = [line for line in outcome.out.splitlines() if line.startswith("gradient of") or "e-0" in line]
    assert len(table) >= 4
    assert all(len(line) <= 80 for line in table)
    (csv,) = tmp_path.rglob("probes/gradients.csv")
    assert len(csv.read_text().splitlines()) == 1 + 8 * 4
    assert "skipped" in cli(*command).out
    measured = (folder / "gradients-initial.png").read_bytes()
    again = cli("probe", "gradients", str(folder), "-o", "again.png")
    assert again.out.endswith("figure: again.png\nfigure: again-initial.png\n")
    assert (tmp_path / "again-initial.png").read_bytes() == measured
    assert cli("reproduce", "gradients", *settings, "recipe.iterations=3").out.count("degrade probe gradients") == 1


def test_runs_without_snapshots_and_networks_without_runs_are_profiles(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *SMALL, "recipe.iterations=2").code == 0
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
        (["model.depth=9"], "depth is 6n + 2"),
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
def test_a_gpu_gives_the_same_numbers(small: Small) -> None:
    record = run(small("runtime.device=cpu", *SNAPSHOTS))
    there = gradients(record, limit=20, device="cuda")
    (record.path / "probes" / "gradients.csv").unlink()
    here = gradients(record, limit=20, device="cpu")
    for key in (probe.WEIGHTS, probe.SIGNALS, probe.FORWARD):
        assert [row[key] for row in there] == pytest.approx([row[key] for row in here], rel=1e-3)
