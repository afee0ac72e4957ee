"""Each probe against a slow computation of another kind, on small networks; and its command, end to end."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from degrade.analysis import error_curves
from degrade.errors import RunError
from degrade.probes.construct import compare, continuations
from degrade.probes.gradients import gradients
from degrade.probes.kinds import kinds
from degrade.probes.landscape import landscape
from degrade.probes.probe import Row, read, subject, write
from degrade.probes.responses import draw_responses, responses
from degrade.runs import run
from degrade.training import Training
from tests.conftest import Cli, Make, Trained
from tests.test_construct import killed
from tests.test_runs import interrupted_copy


def slow_responses(training: Training) -> list[float]:
    """The forward pass of a residual or plain network written out, one image at a time, from its weights alone."""
    weights = training.engine.model.state_dict()
    pixels, mean = training.test[0], training.batches.mean
    images = pixels.float() / 255 - mean
    residual = training.experiment.model.family == "residual"
    outputs: list[torch.Tensor] = []

    def conv_bn(x: torch.Tensor, conv: str, bn: str, stride: int) -> torch.Tensor:
        x = F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        if f"{bn}.weight" in weights:
            running = weights[f"{bn}.running_mean"], weights[f"{bn}.running_var"]
            x = F.batch_norm(x, *running, weights[f"{bn}.weight"], weights[f"{bn}.bias"], eps=1e-5)
        outputs.append(x)
        return x

    x = conv_bn(images, "conv1", "bn1", 1).relu()
    for stage in (1, 2, 3):
        stride = 2 if stage > 1 else 1
        before, name = x, f"layer{stage}.0"
        x = conv_bn(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
        x = conv_bn(x, f"{name}.conv2", f"{name}.bn2", 1)
        if residual:
            half = (x.shape[1] - before.shape[1]) // 2
            x = x + F.pad(before[:, :, ::stride, ::stride], (0, 0, 0, 0, half, half))
        x = x.relu()
    return [float(output.double().std(correction=0)) for output in outputs]


@pytest.mark.parametrize("family", ["plain", "residual"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_responses_are_those_of_the_network_written_out(trained: Trained, family: str, norm: str) -> None:
    record = trained(f"model={family}", f"model.norm={norm}", "recipe.iterations=2", "eval.batch_size=16")
    rows = responses(record, device="cpu")
    assert [row["layer"] for row in rows] == list(range(1, 8))
    assert [row["std"] for row in rows] == pytest.approx(slow_responses(subject(record, "cpu")), rel=1e-4)


def test_responses_are_kept_beside_the_run_and_measured_again_only_where_they_must(
    small: Make, trained: Trained
) -> None:
    record = trained("recipe.iterations=2")
    all_images = responses(record)
    assert responses(record, limit=10) != all_images
    assert responses(record) == all_images
    (record.path / "checkpoint.pt").unlink()
    (record.path / "checkpoint.prev.pt").unlink(missing_ok=True)
    assert responses(record) == all_images
    assert responses(record, limit=10) == all_images  # what there is
    (record.path / "probes" / "responses.csv").unlink()
    with pytest.raises(RunError, match="no checkpoint"):
        responses(record)
    run(small("recipe.iterations=2"), fresh=True)
    assert responses(record) == all_images


def test_exported_weights_are_measured_where_neither_checkpoint_nor_numbers_are_left(
    cli: Cli, trained: Trained
) -> None:
    record = trained("recipe.iterations=6", "recipe.milestones=[4]")

    def measured() -> list[list[Row]]:
        grid = landscape(record, grid=3, limit=10)
        return [responses(record), gradients(record, limit=10), kinds(record), compare(record, 14, limit=10), grid]

    settings = [own.flat() for own in continuations(record, 14, 5)]
    before = measured()
    assert cli("export", "--weights", str(record.path)).code == 0
    for path in (*record.path.glob("checkpoint*.pt"), *record.path.glob("probes/*.csv")):
        path.unlink()
    assert measured() == before
    assert [own.flat() for own in continuations(record, 14, 5)] == settings
    assert responses(record, limit=5) != before[0]
    assert responses(record) == before[0]
    assert cli("probe", "construct", str(record.path), "--depth", "14", "--continue", "3").code == 0


def test_exported_weights_replace_no_numbers_of_snapshots(cli: Cli, trained: Trained) -> None:
    record = trained("recipe.iterations=6", "checkpoint.snapshots=3")
    along = kinds(record)
    assert len({row["snapshot"] for row in along}) > 2
    assert cli("export", "--weights", str(record.path)).code == 0
    for path in (*record.path.glob("checkpoint*.pt"), *record.path.glob("snapshots/*.pt")):
        path.unlink()
    assert kinds(record, limit=5) == along


def test_after_a_kill_numbers_are_filed_under_the_weights_own_iteration(small: Make) -> None:
    record = interrupted_copy(small, at=6)
    killed(record, 11)
    for rows in (responses(record), gradients(record, limit=10), landscape(record, grid=3, limit=10)):
        assert {row["iteration"] for row in rows} == {6}
    run(small())  # on from 6 to 24
    for rows in (responses(record), gradients(record, limit=10), landscape(record, grid=3, limit=10)):
        assert {row["iteration"] for row in rows} == {24}  # measured again


def test_of_several_seeds_the_median_is_drawn_between_the_least_and_the_greatest(cli: Cli, trained: Trained) -> None:
    records = [trained("recipe.iterations=2", f"seed={seed}") for seed in (0, 1, 2)]
    outcome = cli("probe", "responses", "--limit", "20")
    assert outcome.code == 0, outcome.err
    found = [responses(record, limit=20) for record in records]
    first = sorted(float(rows[0]["std"]) for rows in found)
    greatest = sorted(max(float(row["std"]) for row in rows) for rows in found)
    assert f"{greatest[1]:#.3g} {greatest[0]:#.3g}-{greatest[2]:#.3g}" in outcome.out.splitlines()[2]
    curves = error_curves(records)
    figure = draw_responses(curves, [found])
    ordered, by_size = figure.axes
    (line,), (band,) = ordered.get_lines(), ordered.collections
    assert line.get_ydata()[0] == pytest.approx(first[1])  # type: ignore[index]
    edge = np.asarray(band.get_paths()[0].vertices)[:, 1]
    every = [float(row["std"]) for rows in found for row in rows]
    assert (edge.min(), edge.max()) == pytest.approx((min(every), max(every)))
    assert by_size.get_lines()[0].get_ydata()[0] == pytest.approx(greatest[1])  # type: ignore[index]
    assert "median" in figure.get_suptitle()
    assert "least to greatest seed" in figure.get_supxlabel()


@pytest.mark.parametrize("probe", ["responses", "gradients", "kinds", "landscape"])
def test_absurd_numbers_are_one_line_that_names_them(cli: Cli, trained: Trained, probe: str) -> None:
    trained("recipe.iterations=2")
    for value in ("99999999999999999999", "0", "-1"):
        outcome = cli("probe", probe, "--limit", value)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert re.search(rf"--limit {value}: must be (at least 1|at most 10000000|a whole number)", outcome.err)


def test_fresh_forgets_what_probes_found(small: Make, trained: Trained) -> None:
    record = trained("recipe.iterations=2")
    responses(record)
    run(small("recipe.iterations=2"), fresh=True)
    assert not (record.path / "probes").exists()


def test_the_command_draws_all_networks_and_prints_a_table(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    for family in ("plain", "residual"):
        trained(f"model={family}", "recipe.iterations=2")
    outcome = cli("probe", "responses", "--limit", "20")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "outputs/smoke/responses.png").stat().st_size > 10_000
    assert [line.split()[0] for line in outcome.out.splitlines()[1:3]] == ["plain-8", "residual-8"]
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert len(list(tmp_path.rglob("probes/responses.csv"))) == 2


def test_a_run_without_a_checkpoint_is_one_line(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    trained("recipe.iterations=2")
    for path in tmp_path.rglob("checkpoint*.pt"):
        path.unlink()
    outcome = cli("probe", "responses")
    assert outcome.code == 2
    assert "has no checkpoint to look into" in outcome.err
    assert cli("probe", "responses", "--output", "x.gif").code == 2
    assert cli("probe", "responses", "nowhere").code == 2


def test_damaged_numbers_are_named_and_count_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("degrade"), "propagate", True)
    path = tmp_path / "responses.csv"
    write(path, [{"layer": 1, "std": 0.5}, {"layer": 2, "std": 0.25}])
    whole = path.read_bytes()
    assert read(path) == [{"layer": 1, "std": 0.5}, {"layer": 2, "std": 0.25}]
    for damage in (whole[:-3], whole + b"3\n", whole + b"\xff,\xfe\n", b""):
        path.write_bytes(damage)
        assert read(path) == []
        assert "responses.csv: damaged, left out" in caplog.text
        caplog.clear()
