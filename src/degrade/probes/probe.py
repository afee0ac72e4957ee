"""What all probes share: they choose runs, load weights, measure with progress, keep numbers and draw them.

A probe's numbers are kept beside the run that they are about, as `RUN/probes/<probe>.csv`. A probe that finds its
numbers there does not measure again; where the checkpoint is gone, they are what is drawn. Where there are none and
weights were exported from the run, those are measured.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from degrade.analysis.curves import Curve, error_curves, first_seed
from degrade.analysis.layers import looked_at as looked_at
from degrade.config import load_config
from degrade.data import load_images
from degrade.data.batches import single_view
from degrade.errors import ConfigError, RunError
from degrade.files import reason
from degrade.progress import through
from degrade.runs.evaluation import exported, restored
from degrade.runs.numbers import Row as Row
from degrade.runs.numbers import Value as Value
from degrade.runs.numbers import numbers_path as numbers_path
from degrade.runs.numbers import read as read
from degrade.runs.numbers import write as write
from degrade.runs.record import RunRecord
from degrade.runs.trained import NAME as EXPORTED
from degrade.training import Training, checkpoint

log = logging.getLogger("degrade.run")

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
    """The networks of those runs that have weights to look into, or numbers that the probe found before.

    `complain` is told of each run that is left out.

    Raises:
        RunError: no run has either.
    """
    found: list[RunRecord] = []
    closed: list[RunRecord] = []
    for record in records:
        seen = checkpoint.candidates(record.path) or [
            *record.path.glob(EXPORTED),
            *record.path.glob(f"probes/{probe}*.csv"),
        ]
        (found if seen and record.summary.get("iteration") else closed).append(record)
    if not found:
        raise RunError(f"{records[0].path}: has no checkpoint to look into; train it, or again with --fresh")
    for record in closed:
        complain(f"left out: {record.path} has no checkpoint to look into")
    return error_curves(found)


def of_each_seed(curves: Sequence[Curve], measure: Callable[[RunRecord], list[Row]]) -> list[list[list[Row]]]:
    """What a probe measures: one list of rows for each seed of each network."""
    return [[measure(RunRecord(path)) for path in curve.paths.values()] for curve in curves]


def of_first_seed(
    records: Sequence[RunRecord],
    probe: str,
    measure: Callable[[RunRecord], list[Row]],
    *,
    complain: Callable[[str], object] = print,
) -> tuple[list[Curve], list[list[Row]]]:
    """The networks of some runs, each of its first seed, with that seed's rows; all seeds are measured."""
    curves = networks(records, probe, complain=complain)
    seeds = of_each_seed(curves, measure)
    return [first_seed(curve) for curve in curves], [own[0] for own in seeds]


class Standing(NamedTuple):
    """How far a run's weights got."""

    iteration: int
    lr: float | None
    """The rate of the last update, which the checkpoint holds; None where no checkpoint is left."""
    exported: bool = False
    """Whether the weights are those that were exported from the run, since no checkpoint is left."""


def standing(record: RunRecord) -> Standing:
    """How far a run's weights got: its newest whole checkpoint's, else those that were exported from it.

    Without either, it is how far the run got by its summary, which is ahead of a checkpoint where the run was killed.
    """
    found: list[Standing] = []

    def take(state: dict[str, Any]) -> None:
        found.append(Standing(int(state["iteration"]), float(state["last_lr"])))

    if checkpoint.restore(record.path, torch.device("cpu"), take, complain=log.debug) is not None:
        return found[-1]
    if (network := exported(record)) is not None:
        return Standing(network.iteration, None, exported=True)
    iteration = record.summary.get("iteration")
    return Standing(iteration if isinstance(iteration, int) else 0, None)


def subject(record: RunRecord, device: str = "auto") -> Training:
    """A run as it stands in its checkpoint or exported weights, on its own images, in fp32, uncompiled.

    Raises:
        RunError: the record has neither that can be used.
        ConfigError: the device is not there.
    """
    if device == "mps":
        raise ConfigError("runtime.device=mps: probes add up in float64, which Apple's GPUs lack; use --device cpu")
    settings = [f"runtime.device={device}", "runtime.precision=fp32", "runtime.engine=eager"]
    experiment = load_config(record.path / "config.yaml", settings)
    return restored(record, experiment, load_images(experiment.data, say=log.info))


def snapshots(record: RunRecord, training: Training) -> Iterator[int]:
    """Iterations of a run's snapshots and of its checkpoint; meanwhile the run's network has the weights of each.

    Snapshots that are damaged, or not of this network, are left out, and named.
    """
    model, kept = training.engine.model, checkpoint.snapshots(record.path)
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    iterations = sorted({*kept, training.iteration})
    for iteration in through(iterations, str(record.path), total=len(iterations)):
        try:
            own = iteration == training.iteration
            state = last if own else checkpoint.load(kept[iteration], training.engine.device)["engine"]["model"]
            model.load_state_dict(state)
        except checkpoint.NO_DAMAGE:
            raise
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            log.warning("%s: left out, %s", record.path, reason(error))
            continue
        yield iteration
    model.load_state_dict(last)


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
        RunError: the run has neither weights to look into nor numbers.
    """
    path = numbers_path(record, probe)
    kept, weights = read(path), standing(record)
    same = {"iteration": weights.iteration, **made}
    # Files of earlier versions lack columns.
    fitting = [row for row in kept if all(row.get(key, value) == value for key, value in same.items())]
    if fitting and len(fitting) == (whole or len(kept)):
        return fitting
    if weights.lr is None:
        of_snapshots = any(row.get("snapshot", weights.iteration) != weights.iteration for row in kept)
        if kept and not whole and (of_snapshots or not weights.exported):
            log.info("%s: no checkpoint; drawn from %s as it is", record.path, path.name)
            return kept
        if not weights.exported:
            raise RunError(f"{record.path}: has no checkpoint to look into; train it again with --fresh")
    training = subject(record, device)
    rows: list[Row] = []
    for found in measure(training, fitting if whole else []):
        rows = [{**row, **same, "iteration": training.iteration} for row in found]
        write(path, rows)
    return rows
