"""`degrade probe kinds` against the record's own errors, and against networks evaluated by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from degrade.analysis import error_curves
from degrade.errors import RunError
from degrade.probes.kinds import KINDS, draw_kinds, kinds
from degrade.probes.probe import read, subject
from degrade.runs import RunRecord
from degrade.training import checkpoint
from tests.conftest import Cli, Trained

SNAPSHOTS = ("checkpoint.snapshots=4", "runtime.precision=fp32", "optim.lr=0.1")
KEPT = [0, 1, 5, 24]


def by_hand(record: RunRecord, iteration: int, *, batch: bool, augmented: bool) -> float:
    """The training error at a snapshot: batch norm in train mode, or in eval mode, on the first epoch's batches."""
    training = subject(record)
    model = training.engine.model
    model.load_state_dict(
        checkpoint.load(checkpoint.snapshots(record.path)[iteration], torch.device("cpu"))["engine"]["model"]
    )
    wrong = 0
    model.train(batch)
    with torch.no_grad():
        for images, labels in training.batches.epoch(0, augment=augmented):
            wrong += int((model(images).argmax(1) != labels).sum())
    return wrong / len(training.batches.labels)


def test_at_the_end_they_are_the_records_own_and_before_it_those_of_the_weights_then(trained: Trained) -> None:
    record = trained(*SNAPSHOTS)
    before = (record.path / "checkpoint.pt").read_bytes()
    found = kinds(record)
    assert [row["snapshot"] for row in found] == KEPT
    *_, last = record.rows()
    for key in ("train_error_clean", "train_error_batch", "test_error"):
        assert found[-1][key] == pytest.approx(last[key])
    for row, iteration in zip(found, KEPT, strict=True):
        ways = [(batch, augmented) for batch in (False, True) for augmented in (False, True)]
        for key, (batch, augmented) in zip(KINDS, ways, strict=True):
            expected = by_hand(record, iteration, batch=batch, augmented=augmented)
            assert row[key] == pytest.approx(expected, abs=0.012), (key, iteration)  # an image of ninety may tip over
    assert len({round(float(found[-1][key]), 6) for key in KINDS}) > 1
    assert (record.path / "checkpoint.pt").read_bytes() == before


def test_growth_is_that_of_the_layer_that_grew_most(trained: Trained) -> None:
    record = trained(*SNAPSHOTS)
    found = kinds(record, limit=20)
    states = {k: checkpoint.load(path, torch.device("cpu")) for k, path in checkpoint.snapshots(record.path).items()}
    norms = {
        k: torch.stack([own.norm() for own in state["engine"]["model"].values() if own.dim() > 1])
        for k, state in states.items()
    }
    assert [row["growth"] for row in found] == pytest.approx([float((norms[k] / norms[0]).max()) for k in KEPT])
    assert found[0]["growth"] == pytest.approx(1)
    assert all(row["count"] == row["images"] == 20 for row in found)


def test_a_snapshot_that_is_damaged_or_gone_is_left_out(trained: Trained) -> None:
    record = trained(*SNAPSHOTS)
    (record.path / "snapshots" / "5.pt").write_bytes(b"")
    (record.path / "snapshots" / "1.pt").unlink()
    assert [row["snapshot"] for row in kinds(record, limit=20)] == [0, 24]


def test_the_command_prints_and_draws_and_needs_no_checkpoint_afterwards(
    trained: Trained, cli: Cli, tmp_path: Path
) -> None:
    record = trained(*SNAPSHOTS)
    outcome = cli("probe", "kinds", str(record.path), "--output", "first.png")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    head = next(line for line in lines if line.startswith("network at iteration"))
    assert head.split()[3:] == ["running%", "clean%", "+aug%", "batch%", "+aug%", "test%", "growth"]
    rows = [line.split() for line in lines if line.startswith("plain-8 at ")]
    assert [int(row[2]) for row in rows] == KEPT
    last = read(record.path / "probes" / "kinds.csv")[-1]
    *_, row = record.rows()
    errors = (row["train_error"], *(last[key] for key in KINDS), last["test_error"])
    assert [float(cell) for cell in rows[-1][3:-1]] == pytest.approx(
        [100 * float(error) for error in errors], abs=0.005
    )
    assert rows[0][3] == "-"
    for path in (*record.path.glob("*.pt"), *record.path.glob("snapshots/*.pt")):
        path.unlink()
    again = cli("probe", "kinds", str(record.path), "--output", "second.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert [line for line in again.out.splitlines() if line.startswith("plain-8 at ")] == [
        line for line in lines if line.startswith("plain-8 at ")
    ]
    (record.path / "probes" / "kinds.csv").unlink()
    with pytest.raises(RunError, match="has no checkpoint"):
        kinds(record)


def test_a_network_without_batch_norm_has_one_error_for_both_statistics(trained: Trained) -> None:
    record = trained("model.norm=none")
    (row,) = kinds(record)
    assert row["train_error_clean"] == row["train_error_batch"]
    assert not any(isinstance(own, nn.BatchNorm2d) for own in subject(record).engine.model.modules())


def test_a_network_that_diverged_is_drawn(trained: Trained, cli: Cli) -> None:
    record = trained("model.norm=none", "optim.lr=1e12")
    assert record.status == "diverged"
    done = cli("probe", "kinds", str(record.path))
    assert done.code == 0, done.err
    assert not math.isfinite(float(kinds(record)[-1]["growth"]))


def test_points_of_few_images_are_hollow_and_the_papers_line_is_where_it_was_read() -> None:
    record = RunRecord(Path(__file__).parents[1] / "outputs/reference/paper/plain-56/seed-0")
    rows = kinds(record)
    counts = [int(row["count"]) for row in rows]
    assert set(counts) == {1_000, 50_000}
    figure = draw_kinds(error_curves([record]), [rows])
    lines = figure.axes[0].get_lines()
    hollow = [line for line in lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 5
    assert {np.size(line.get_xdata()) for line in hollow} == {counts.count(1_000)}
    (paper,) = [line for line in lines if line.get_label() == "the paper's training error"]
    assert np.asarray(paper.get_xdata()).tolist() == [50_000, 64_000]
    assert (
        "all 50,000 training images or the first 1,000 training images, the points of fewer images hollow"
        in " ".join(figure.get_supxlabel().split())
    )
    assert not any(text.get_text().startswith("_") for legend in figure.legends for text in legend.get_texts())
