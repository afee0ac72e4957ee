"""A probe's numbers, kept beside the run that they are about as `RUN/probes/<probe>.csv`.

A probe that finds its numbers there does not measure again; where the checkpoint is gone, they are what is drawn.
"""

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from degrade.config import load_config
from degrade.data import load_images
from degrade.errors import RunError
from degrade.runs.evaluation import restored
from degrade.runs.record import RunRecord, regular, replace_text
from degrade.training import Training, checkpoint

log = logging.getLogger("degrade.run")

Value = int | float | str
Row = dict[str, Value]


def subject(record: RunRecord, device: str = "auto") -> Training:
    """A run as it stands in its checkpoint, on its own images, in fp32, uncompiled.

    Raises:
        RunError: the record has no checkpoint that can be used.
        ConfigError: the device is not there.
    """
    settings = [f"runtime.device={device}", "runtime.precision=fp32", "runtime.engine=eager"]
    experiment = load_config(record.path / "config.yaml", settings)
    return restored(record, experiment, load_images(experiment.data, say=log.info))


def kept_or_measured(
    record: RunRecord, probe: str, made: Mapping[str, Value], measure: Callable[[], Sequence[Row]]
) -> list[Row]:
    """A probe's rows for one run: those on disk if they were made in the same way, else measured and written there.

    Args:
        record: the run.
        probe: its name, and the file's.
        made: columns that tell how the rows are made, such as the number of images.
        measure: gives the rows, without those columns.

    Raises:
        RunError: the run has neither a checkpoint nor numbers.
    """
    path = numbers_path(record, probe)
    kept = read(path)
    iteration = record.summary.get("iteration")
    made = {"iteration": iteration if isinstance(iteration, int) else 0, **made}
    if kept and all(kept[0].get(key) == value for key, value in made.items()):
        return kept
    if checkpoint.candidates(record.path):
        rows = [{**row, **made} for row in measure()]
        write(path, rows)
        return rows
    if kept:
        log.info("%s: no checkpoint; drawn from %s as it is", record.path, path.name)
        return kept
    raise RunError(f"{record.path}: has no checkpoint to look into; train it again with --fresh")


def numbers_path(record: RunRecord, probe: str) -> Path:
    """Where a probe's numbers lie."""
    return record.path / "probes" / f"{probe}.csv"


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of equal columns as csv, atomically."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, out.getvalue())


def read(path: Path) -> list[Row]:
    """The rows of a csv file, numbers as numbers; none if there is no such file, or it is damaged."""
    try:
        text = regular(path).read_text(errors="replace")
    except OSError:
        return []
    head, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if not text.endswith("\n") or "\ufffd" in text or any(len(row) != len(head) for row in rows):
        log.warning("%s: damaged, left out", path)
        return []
    return [dict(zip(head, map(_value, row), strict=True)) for row in rows]


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
