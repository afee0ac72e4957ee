"""What all probes share: they choose runs, load weights, measure with progress, keep numbers and draw them.

A probe's numbers are kept beside the run that they are about, as `RUN/probes/<probe>.csv`. A probe that finds its
numbers there does not measure again; where the checkpoint is gone, they are what is drawn.
"""

import csv
import io
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from degrade.analysis.curves import Curve, error_curves
from degrade.config import load_config
from degrade.data import load_images
from degrade.data.batches import single_view
from degrade.errors import ConfigError, RunError
from degrade.files import read_bytes, replace_text
from degrade.progress import through
from degrade.runs.evaluation import restored
from degrade.runs.record import RunRecord
from degrade.training import Training, checkpoint

log = logging.getLogger("degrade.run")

Value = int | float | str
Row = dict[str, Value]

#: The most iterations or images that a probe can be asked for, which is far more than any run has.
MOST = 10_000_000


def within(option: str, value: int, low: int, high: int) -> None:
    """Refuse an option's number that lies outside its bounds.

    Raises:
        ConfigError: the number is outside; the message names it and the bounds.
    """
    if not low <= value <= high:
        raise ConfigError(f"{option} {value}: must lie from {low} to {high}")


@dataclass(frozen=True)
class Shown:
    """What a probe has to tell of some runs."""

    text: str
    """This is printed on the terminal."""
    figure: Figure
    name: str
    """The figure's file has this name, unless the user gives another."""


def networks(records: Sequence[RunRecord], probe: str, *, complain: Callable[[str], object] = print) -> list[Curve]:
    """The networks of those runs that have a checkpoint, or numbers that the probe found before.

    `complain` is told of each run that is left out.

    Raises:
        RunError: no run has either.
    """
    found: list[RunRecord] = []
    closed: list[RunRecord] = []
    for record in records:
        seen = checkpoint.candidates(record.path) or [*record.path.glob(f"probes/{probe}*.csv")]
        (found if seen and record.summary.get("iteration") else closed).append(record)
    if not found:
        raise RunError(f"{records[0].path}: has no checkpoint to look into; train it, or again with --fresh")
    for record in closed:
        complain(f"left out: {record.path} has no checkpoint to look into")
    return error_curves(found)


def of_each_seed(curves: Sequence[Curve], measure: Callable[[RunRecord], list[Row]]) -> list[list[list[Row]]]:
    """What a probe measures: one list of rows for each seed of each network."""
    return [[measure(RunRecord(path)) for path in curve.paths.values()] for curve in curves]


class Standing(NamedTuple):
    """How far a run's weights got."""

    iteration: int
    lr: float | None
    """The rate of the last update, which the checkpoint holds; None where no checkpoint is left."""


def standing(record: RunRecord) -> Standing:
    """How far the weights of the newest whole checkpoint got; without one, how far the run got by its summary.

    The summary may be ahead of the checkpoint, where the run was killed between two checkpoints.
    """
    found: list[Standing] = []

    def take(state: dict[str, Any]) -> None:
        found.append(Standing(int(state["iteration"]), float(state["last_lr"])))

    if checkpoint.restore(record.path, torch.device("cpu"), take, complain=log.debug) is not None:
        return found[-1]
    iteration = record.summary.get("iteration")
    return Standing(iteration if isinstance(iteration, int) else 0, None)


def subject(record: RunRecord, device: str = "auto") -> Training:
    """A run as it stands in its checkpoint, on its own images, in fp32, uncompiled.

    Raises:
        RunError: the record has no checkpoint that can be used.
        ConfigError: the device is not there.
    """
    if device == "mps":
        raise ConfigError("runtime.device=mps: probes add up in float64, which Apple's GPUs lack; use --device cpu")
    settings = [f"runtime.device={device}", "runtime.precision=fp32", "runtime.engine=eager"]
    experiment = load_config(record.path / "config.yaml", settings)
    return restored(record, experiment, load_images(experiment.data, say=log.info))


def batches(
    training: Training, pixels: Tensor, labels: Tensor, bar: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Un-augmented images as the network takes them, with their labels, as many at a time as an evaluation takes.

    The pixels are uint8. Progress is shown if it is given a name.
    """
    size = training.engine.evaluation_size
    places = range(0, len(labels), size)
    for start in through(places, bar, total=len(places)) if bar else places:
        part = slice(start, start + size)
        yield single_view(pixels[part], training.batches.mean), labels[part]


def kept_or_measured(
    record: RunRecord,
    probe: str,
    made: Mapping[str, Value],
    measure: Callable[[Training, list[Row]], Iterable[Sequence[Row]]],
    device: str = "auto",
    *,
    whole: int | None = None,
) -> list[Row]:
    """A probe's rows for one run: those on disk if they were made in the same way, else measured and written there.

    Args:
        record: the run.
        probe: the name of the probe and of its file.
        made: columns that tell how the rows are made, such as the number of images. The iteration of the weights
            is added to them.
        measure: takes the run as it stands in its checkpoint, and those rows on disk that it need not measure again.
            Whenever it has more rows it yields all of them, without the columns of `made`, and they are written.
        device: where to measure, as `runtime.device`.
        whole: the number of rows of a measurement that can be resumed; None if it can not be.

    Raises:
        RunError: the run has neither a checkpoint nor numbers.
    """
    path = numbers_path(record, probe)
    kept, weights = read(path), standing(record)
    same = {"iteration": weights.iteration, **made}
    # Files of earlier versions lack columns.
    fitting = [row for row in kept if all(row.get(key, value) == value for key, value in same.items())]
    if fitting and len(fitting) == (whole or len(kept)):
        return fitting
    if weights.lr is None:
        if not kept or whole:
            raise RunError(f"{record.path}: has no checkpoint to look into; train it again with --fresh")
        log.info("%s: no checkpoint; drawn from %s as it is", record.path, path.name)
        return kept
    training = subject(record, device)
    rows: list[Row] = []
    for found in measure(training, fitting if whole else []):
        rows = [{**row, **same, "iteration": training.iteration} for row in found]
        write(path, rows)
    return rows


def looked_at(rows: Sequence[Row], kind: str) -> str:
    """The images that rows were measured on, in words: `the first 256 training images`.

    Args:
        rows: with `images`, how many were asked for, 0 for all; and `count`, how many there were, if the record says.
        kind: `training` or `test`.
    """
    asked, count = int(rows[0]["images"]), rows[0].get("count")
    if asked and (count is None or count == asked):
        return f"the first {asked:,} {kind} images"
    return f"all {kind} images" if count is None else f"all {int(count):,} {kind} images"


def numbers_path(record: RunRecord, probe: str) -> Path:
    """The file that holds a probe's numbers of a run."""
    return record.path / "probes" / f"{probe}.csv"


#: The last column, which holds in each row `crc32:` and the CRC-32 of the table without this column.
CHECKSUM = "checksum"
_MARK = "crc32:"


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of equal columns as csv with a checksum, atomically."""
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    checksum = _checksum(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, _text([[*table[0], CHECKSUM], *([*row, checksum] for row in table[1:])]))


def read(path: Path) -> list[Row]:
    """The rows of a csv file, numbers as numbers; none if there is no such file, or it is damaged, which is logged.

    Raises:
        RunFileError: the file cannot be read just now.
    """
    content = read_bytes(path)
    if content is None:
        return []
    table = _table(content.decode(errors="replace"))
    if table is None:
        log.error("%s: damaged, left out", path)
        return []
    head, *rows = table
    return [dict(zip(head, map(_value, row), strict=True)) for row in rows]


def _table(text: str) -> list[list[str]] | None:
    """Head and rows without the checksum, which files of earlier versions lack; None if the file is damaged."""
    try:
        table = list(csv.reader(io.StringIO(text))) or [[]]
    except csv.Error:
        return None
    head, *rows = table
    decoded = text.endswith("\n") and "\ufffd" not in text
    named = len(set(head)) == len(head) and all(name.isidentifier() for name in head)
    if not decoded or not named or any(len(row) != len(head) for row in rows):
        return None
    if CHECKSUM not in head and not any(cell.startswith(_MARK) for row in table for cell in row):
        return table
    bare = [row[:-1] for row in table]
    return bare if all(row[-1] == _checksum(bare) for row in rows) and head[-1:] == [CHECKSUM] else None


def _text(table: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(table)
    return out.getvalue()


def _checksum(table: Sequence[Sequence[str]]) -> str:
    return f"{_MARK}{zlib.crc32(_text(table).encode()):08x}"


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
