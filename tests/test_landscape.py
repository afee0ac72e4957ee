"""The loss around a network against one written out point by point, and its command."""

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from degrade.analysis import error_curves
from degrade.analysis.layers import CEILING, plane
from degrade.data.batches import single_view
from degrade.errors import ConfigError, RunError
from degrade.probes import landscape as probe
from degrade.probes.landscape import direction, draw_landscape, landscape, levels_of, measure_statistics
from degrade.probes.probe import Row, read, subject, write
from tests.conftest import Cli, Trained


def test_a_direction_is_as_long_as_the_weights_filter_by_filter() -> None:
    weights = [torch.randn(4, 3, 3, 3) * torch.arange(1.0, 5).view(4, 1, 1, 1), torch.randn(4), torch.randn(2, 4)]
    found = direction(weights, torch.Generator().manual_seed(0))
    for k in range(4):
        assert math.isclose(found[0][k].norm(), weights[0][k].norm(), rel_tol=1e-5)
    for k in range(2):
        assert math.isclose(found[2][k].norm(), weights[2][k].norm(), rel_tol=1e-5)
    assert not found[1].any()
    assert not torch.equal(found[2], weights[2])


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_losses_are_those_of_networks_moved_one_weight_tensor_at_a_time(trained: Trained, family: str) -> None:
    record = trained(f"model={family}", "recipe.iterations=2", "eval.batch_size=16")
    rows = landscape(record, grid=3, span=0.5, seed=7, limit=20, device="cpu")
    training = subject(record, "cpu")
    images, labels = training.batches.pixels[:20].float() / 255 - training.batches.mean, training.batches.labels[:20]
    generator = torch.Generator().manual_seed(7)
    drawn = [[torch.randn(w.shape, generator=generator) for w in _matrices(training.engine.model)] for _ in range(2)]
    for row in rows:
        model = deepcopy(training.engine.model).eval()
        for k, weight in enumerate(_matrices(model)):
            held = weight.detach().clone()
            for filter_ in range(len(held)):
                for step, along in zip((row["a"], row["b"]), drawn, strict=True):
                    own = along[k][filter_]
                    weight.data[filter_] += float(step) * own / own.norm() * held[filter_].norm()
        logits = torch.cat([model(image[None]).detach() for image in images])
        assert row["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-3)
        assert row["error"] == pytest.approx(float((logits.argmax(1) != labels).float().mean()), abs=0.051)
    assert [(row["a"], row["b"]) for row in rows[:4]] == [(-0.5, -0.5), (-0.5, 0.0), (-0.5, 0.5), (0.0, -0.5)]


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_recalibrated_the_middle_is_an_evaluation_with_statistics_of_the_same_images(
    trained: Trained, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's own `update_bn` gives the statistics, over the images at once and in two parts that are averaged."""
    record = trained(f"model={family}", "recipe.iterations=2", "eval.batch_size=16")
    for parts, together in ((1, 512), (2, 15)):
        monkeypatch.setattr(probe, "TOGETHER", together)
        for path in record.path.glob("probes/*"):
            path.unlink()
        middle = landscape(record, grid=3, limit=30, recalibrate=True, device="cpu")[4]
        training = subject(record, "cpu")
        images, labels = (
            single_view(training.batches.pixels[:30], training.batches.mean),
            training.batches.labels[:30],
        )
        model = training.engine.model
        with torch.no_grad():
            stale = float(F.cross_entropy(model.eval()(images), labels))
            torch.optim.swa_utils.update_bn(images.tensor_split(parts), model)
            logits = model.eval()(images)
        assert middle["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
        assert middle["error"] == pytest.approx(float((logits.argmax(1) != labels).float().mean()))
        assert middle["loss"] != pytest.approx(stale, rel=1e-3)


def test_recalibrated_batch_norm_takes_out_the_scale_of_the_weights(trained: Trained) -> None:
    training = subject(trained("recipe.iterations=2"), "cpu")
    model, pixels, mean = training.engine.model.eval(), training.batches.pixels[:40], training.batches.mean
    images = single_view(pixels, mean)
    with torch.no_grad():
        stale = model(images)
        measure_statistics(model, pixels, mean)
        before = model(images)
        for _, convolution, _ in model.convolutions():
            convolution.weight *= 3
        assert not torch.allclose(model(images), before, rtol=1e-2)
        measure_statistics(model, pixels, mean)
        assert torch.allclose(model(images), before, atol=1e-3)
    assert not torch.allclose(stale, before, rtol=1e-2)
    assert not model.training
    assert {module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}


def test_recalibrated_points_have_a_file_and_a_figure_that_say_so(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    record = trained("recipe.iterations=2", "seed=3")
    plain, anew = (landscape(record, grid=3, limit=100, recalibrate=r) for r in (False, True))
    names = sorted(path.name for path in (record.path / "probes").iterdir())
    kept = "landscape-grid3-span0.5-seed0-images100"
    assert names == [f"{kept}-recalibrated.csv", f"{kept}.csv"]
    assert [row["loss"] for row in plain] != [row["loss"] for row in anew]
    curves = error_curves([record])
    for rows, recalibrate, title, says in (
        (plain, False, "as in the middle", "the running ones of training"),
        (anew, True, "measured anew", "mean and variance measured anew at each point"),
    ):
        figure = draw_landscape(curves, [rows], seed=0, limit=100, recalibrate=recalibrate)
        assert title in figure.get_suptitle()
        below = " ".join(figure.get_supxlabel().split())
        assert says in below
        assert (
            "9 points for each network (3 x 3), of one seed each; loss in eval mode on all 90 training images"
            in below
        )
        assert figure.axes[0].get_title().startswith("plain-8, seed 3\nloss")
    outcome = cli("probe", "landscape", "--grid", "3", "--limit", "10", "--recalibrate")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "outputs/smoke/landscape-recalibrated.png").is_file()


def test_without_batch_norm_there_is_nothing_to_measure_anew(cli: Cli, trained: Trained) -> None:
    record = trained("recipe.iterations=2", "model.norm=none")
    plain = landscape(record, grid=3, limit=10)
    assert landscape(record, grid=3, limit=10, recalibrate=True) == plain
    assert len([*record.path.glob("probes/*")]) == 1
    outcome = cli("probe", "landscape", "--grid", "3", "--limit", "10", "--recalibrate")
    assert outcome.code == 0
    assert "no batch norm, for which --recalibrate changes nothing" in outcome.err
    assert outcome.out.endswith("landscape.png\n")


def _matrices(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]


def test_stopped_it_goes_on_and_other_settings_do_not_overwrite(trained: Trained) -> None:
    record = trained("recipe.iterations=2")
    whole = landscape(record, grid=3, limit=10)
    (path,) = (record.path / "probes").glob("landscape*.csv")
    marked = [{**row, "loss": 5.0} for row in read(path)[:4]]
    write(path, marked)
    assert landscape(record, grid=3, limit=10) == [*marked, *whole[4:]]
    landscape(record, grid=3, limit=20)
    assert landscape(record, grid=3, limit=10)[:4] == marked
    for checkpoint in record.path.glob("checkpoint*.pt"):
        checkpoint.unlink()
    assert landscape(record, grid=3, limit=10)[:4] == marked
    with pytest.raises(RunError, match="no checkpoint"):
        landscape(record, grid=5, limit=10)


def test_grids_without_a_middle_are_refused(trained: Trained) -> None:
    record = trained("recipe.iterations=2")
    with pytest.raises(ConfigError, match="--grid 4"):
        landscape(record, grid=4)
    with pytest.raises(ConfigError, match="--span nan"):
        landscape(record, span=math.nan)
    for seed in (99999999999999999999, -1):
        with pytest.raises(ConfigError, match=f"^--seed {seed}: must lie from 0 to 9223372036854775807$"):
            landscape(record, seed=seed)


def test_points_of_a_record_older_than_the_count_of_images_are_gone_on_with(trained: Trained) -> None:
    record = trained("recipe.iterations=2")
    whole = landscape(record, grid=3, limit=10)
    (path,) = (record.path / "probes").glob("landscape*.csv")
    write(path, [{key: row[key] for key in ("a", "b", "loss", "error", "iteration")} for row in whole[:4]])
    assert landscape(record, grid=3, limit=10) == whole


def test_the_command_draws_all_networks(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    for family in ("plain", "residual"):
        trained(f"model={family}", "recipe.iterations=2")
    outcome = cli("probe", "landscape", "--grid", "3", "--limit", "10")
    assert outcome.code == 0, outcome.err
    assert [line[:18].strip() for line in outcome.out.splitlines()[1:3]] == ["plain-8, seed 0", "residual-8, seed 0"]
    assert (tmp_path / "outputs/smoke/landscape.png").stat().st_size > 10_000


def test_a_loss_of_zero_or_none_is_drawn_within_bounds() -> None:
    losses = {(0, 0): 0.0, (0, 1): 0.5, (1, 0): 1e9, (1, 1): math.nan}
    rows: list[Row] = [{"a": a, "b": b, "loss": loss} for (a, b), loss in losses.items()]
    *_, loss = plane(rows)
    assert loss.ravel().tolist() == [0.5, 0.5, CEILING, CEILING]
    assert np.isfinite(levels_of([plane(rows)])).all()
