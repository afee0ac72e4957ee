"""Records become curves: aligned by iteration, mean and band over the seeds of one network and setting."""

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from degrade.analysis.intervals import student_factor
from degrade.config import Experiment
from degrade.errors import ConfigError, did_you_mean
from degrade.metrics import Metrics
from degrade.runs.checked import Status
from degrade.runs.record import Run

Array = npt.NDArray[np.float64]

#: How figures lay out curves; `remedies` with what a probe found in the runs beside them.
STYLES = ("figure1", "figure6", "depth", "remedies")

#: What a band over seeds shows, in words.
BANDS = {"std": "mean ± std", "minmax": "least to greatest", "ci95": "95 % t interval of the mean"}


@dataclass(frozen=True)
class Series:
    """One quantity over iterations, over seeds.

    Attributes:
        iteration: where it was measured; never on fewer seeds than later on, so that the mean does not jump to
            and fro between one seed and many.
        mean, low, high: over the seeds measured there (fractions), and the band; the mean thrice for one seed.
        seeds: how many seeds each point stands on.
    """

    iteration: Array
    mean: Array
    low: Array
    high: Array
    seeds: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """A network's curves over all its seeds.

    Attributes:
        label: family and depth, and whatever else tells it from the other curves.
        family, depth: of the network.
        experiment: of its first seed.
        train, test: running training error, test error.
        seeds: the seeds, and what became of each run.
        clean_train, batch_train, final_test, final_train: last errors of the finished seeds.
        synthetic: made from generated images.
        precision: `fp32`, `bf16`, or `bf16 and fp32` where sessions or seeds differ; empty where no record says.
        folder: the experiment's, resolved.
        extra: settings that not all curves share, as the variant's name tells them.
        paths: the records, by seed.
        parameters: weights and biases of the network; None where the record does not say.
        chance: error of always answering the most frequent class, a fraction.
        data_hashes: of the images that the seeds were trained and tested on, as far as the records say.
        band: a key of `BANDS`.
    """

    label: str
    family: str
    depth: int
    experiment: Experiment
    train: Series
    test: Series
    seeds: dict[int, Status]
    clean_train: list[float]
    batch_train: list[float]
    final_test: list[float]
    final_train: list[float]
    synthetic: bool
    precision: str
    folder: Path
    extra: str
    paths: dict[int, Path]
    parameters: int | None
    chance: float
    data_hashes: frozenset[str]
    band: str

    @property
    def built(self) -> bool:
        """Whether it began as a trained network, deeper or not, and so is not one that the paper's errors are of."""
        return self.experiment.model.start is not None

    @property
    def remark(self) -> str:
        """What a reader must know of unfinished runs: empty if all are complete."""
        counts: dict[str, int] = {}
        for status in self.seeds.values():
            if status is not Status.COMPLETE:
                counts[status] = counts.get(status, 0) + 1
        several = len(self.seeds) > 1
        return ", ".join(f"{n} {status}" if several else status for status, n in sorted(counts.items()))


def error_curves(records: Iterable[Run], *, band: str = "std") -> list[Curve]:
    """Curves of all records, one for each network and setting, sorted by family and depth.

    Args:
        records: runs that were begun.
        band: `std`, `minmax` or `ci95`, over the seeds of one network and setting.

    Raises:
        ConfigError: no such band.
        RunError: a record's config cannot be read.
    """
    if band not in BANDS:
        raise ConfigError(f"band {band}: {did_you_mean(band, BANDS)}")
    groups: dict[tuple[str, str], list[Run]] = {}
    for record in records:
        groups.setdefault(_group(record.path), []).append(record)
    differing = _differing_parts([name for _, name in groups])
    several = len({folder for folder, _ in groups}) > 1
    curves = [
        _curve(group, differing[name], legible(Path(folder).name) if several else "", band)
        for (folder, name), group in groups.items()
    ]
    return sorted(curves, key=lambda c: (c.family, c.depth, c.label))


def legible(text: str) -> str:
    """A path's text without what is no UTF-8, which no file of ours could hold."""
    return os.fsencode(text).decode(errors="replace")


def _differing_parts(variants: list[str]) -> dict[str, str]:
    """Of each variant's name, the settings that not all of them share: what a label must tell."""
    parts = {name: re.split(r",(?![^\[]*\])", name)[1:] for name in variants}  # not at commas inside [a,b]
    shared = set.intersection(*map(set, parts.values())) if parts else set()
    return {name: ", ".join(part for part in own if part not in shared) for name, own in parts.items()}


def _group(path: Path) -> tuple[str, str]:
    resolved = path.resolve()
    return (str(resolved.parents[1]), resolved.parent.name)


def _curve(records: list[Run], extra: str, experiment: str, band: str) -> Curve:
    runs = [(record, record.experiment, record.status, record.metrics()) for record in records]
    runs.sort(key=lambda run: run[1].seed)
    first, own, _, _ = runs[0]
    rows = [measured for *_, measured in runs]
    name = f"{own.model.family}-{own.model.depth}"
    finished = [measured[-1] for *_, status, measured in runs if measured and status is Status.COMPLETE]
    environments = [record.environment for record in records]
    environment = first.environment
    built = _origin(own.model.start, name) if own.model.start and "model.start=" not in extra else ""
    return Curve(
        label=", ".join(part for part in (f"{name}{built}", extra, experiment) if part),
        family=own.model.family,
        depth=own.model.depth,
        experiment=own,
        train=_series(rows, "train_error", band),
        test=_series(rows, "test_error", band),
        seeds={each.seed: status for _, each, status, _ in runs},
        clean_train=_measured(finished, "train_error_clean"),
        batch_train=_measured(finished, "train_error_batch"),
        final_test=_measured(finished, "test_error"),
        final_train=_measured(finished, "train_error"),
        synthetic=own.data.name == "synthetic",
        precision=" and ".join(sorted({own for record in records for own in record.precisions})),
        folder=first.path.resolve().parents[1],
        extra=extra,
        paths={each.seed: record.path for record, each, _, _ in runs},
        parameters=environment.get("parameters"),
        chance=_chance(environment, own),
        data_hashes=frozenset(str(own["data_hash"]) for own in environments if own.get("data_hash")),
        band=band,
    )


def first_seed(curve: Curve) -> Curve:
    """The same network by the first of its seeds alone, under the same label."""
    (own,) = error_curves([Run(next(iter(curve.paths.values())))], band=curve.band)
    return replace(own, label=curve.label, extra=curve.extra)


def _origin(start: str, network: str) -> str:
    """What a network began as, behind its name."""
    before = re.split("[,.]", start)[0]
    return " trained on" if before == network else f" built from {before}"


def _series(runs: list[list[Metrics]], key: str, band: str) -> Series:
    measured = [{row.iteration: value for row in run if (value := row.finite(key)) is not None} for run in runs]
    iterations = sorted(set().union(*measured))
    values = np.array([[run.get(i, np.nan) for i in iterations] for run in measured], dtype=np.float64)
    values = values.reshape(len(measured), len(iterations))
    count = np.isfinite(values).sum(axis=0)
    # A run that diverges measures between the others' rows: such a point stands on fewer seeds than the next.
    steady = count >= np.maximum.accumulate(count[::-1])[::-1]
    values, count = values[:, steady], count[steady]
    low, mean, high = _band(values, count, band)
    return Series(np.array(iterations, np.float64)[steady], mean, low, high, count)


def _band(values: Array, count: npt.NDArray[np.int64], band: str) -> tuple[Array, Array, Array]:
    """Low edge, mean and high edge of each column; a column of one value has no band."""
    if not values.size:
        return np.empty(0), np.empty(0), np.empty(0)
    mean = np.nanmean(values, axis=0)
    if band == "minmax":
        return np.nanmin(values, axis=0), mean, np.nanmax(values, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a standard deviation of one value
        half = np.nan_to_num(np.nanstd(values, axis=0, ddof=1))
    if band == "ci95":
        half = half * student_factor(np.maximum(count - 1, 1)) / np.sqrt(count)
    return mean - half, mean, mean + half


def edges(values: list[float], band: str) -> tuple[float, float]:
    """The band around the mean of single values, one a seed."""
    low, _, high = _band(np.array(values, np.float64)[:, None], np.array([len(values)]), band)
    return float(low[0]), float(high[0])


def _chance(environment: Mapping[str, Any], experiment: Experiment) -> float:
    """Chance level as the record says; of an old record, that of classes of one size."""
    measured: float | None = environment.get("chance_error")
    return measured if measured is not None and 0 < measured < 1 else 1 - 1 / max(2, experiment.model.classes)


def _measured(rows: list[Metrics], key: str) -> list[float]:
    """The values of those rows that have one."""
    return [value for row in rows if (value := row.finite(key)) is not None]
