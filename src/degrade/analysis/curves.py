"""Curves of networks, from run records: what the seeds measured at each iteration, their mean, and a band."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from degrade.analysis.intervals import student_factor
from degrade.config import Experiment
from degrade.config.identity import differing, follows_paper, result_settings
from degrade.errors import ConfigError, RunError, did_you_mean
from degrade.metrics import ERRORS, Metrics
from degrade.runs.checked import Status
from degrade.runs.record import Run

Array = npt.NDArray[np.float64]

#: Families with shortcuts, for records that were made before they said so themselves.
_WITH_SHORTCUTS = ("residual", "preact", "bottleneck", "wide")

#: What a band over seeds shows, in words.
BANDS = {"std": "mean ± std", "minmax": "least to greatest", "ci95": "95 % t interval of the mean"}


@dataclass(frozen=True)
class Series:
    """The mean and the band of one quantity over seeds, along the iterations.

    Attributes:
        iteration: where it was measured. A point stands on at least as many seeds as the points after it, so that
            the mean doesn't jump between the mean of many seeds and the value of one.
        mean, low, high: mean and edges of the band over the seeds measured there, as fractions; three times the same
            value where there is one seed.
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
        label: family and depth, and whatever else tells this curve from the others.
        family, depth: the network's.
        experiment: the settings of its first seed.
        train, test: running training error, test error.
        seeds: what became of each seed's run.
        final: for each of `ERRORS` the values in the last rows of the finished seeds, as far as they were measured.
        synthetic: whether the images were generated.
        precision: `fp32`, `bf16`, or `bf16 and fp32` where sessions or seeds differ; empty where no record says.
        folder: the experiment's folder, resolved.
        extra: settings that not all curves share, as the variant's name tells them.
        paths: the record of each seed.
        parameters: number of weights and biases of the network; None where the record does not say.
        shortcuts: whether signals can go around the network's layers.
        chance: error of always answering the most frequent class, a fraction.
        data_hashes: hashes of the images that the seeds were trained and tested on, as far as the records say.
        band: a key of `BANDS`.
    """

    label: str
    family: str
    depth: int
    experiment: Experiment
    train: Series
    test: Series
    seeds: dict[int, Status]
    final: dict[str, list[float]]
    synthetic: bool
    precision: str
    folder: Path
    extra: str
    paths: dict[int, Path]
    parameters: int | None
    shortcuts: bool
    chance: float
    data_hashes: frozenset[str]
    band: str

    @property
    def network(self) -> str:
        """Family and depth: `plain-56`."""
        return f"{self.family}-{self.depth}"

    @property
    def clean_train(self) -> list[float]:
        """The clean training errors of the finished seeds' last iterates."""
        return self.final["train_error_clean"]

    @property
    def built(self) -> bool:
        """Whether it began as a trained network; the paper has no errors of such networks."""
        return self.experiment.model.start is not None

    @property
    def diverged(self) -> bool:
        """Whether all its seeds diverged, so that there is nothing to compare and never will be."""
        return set(self.seeds.values()) == {Status.DIVERGED}

    @cached_property
    def follows_paper(self) -> bool:
        """Whether the recipe is the paper's, so that final errors can be compared with the paper's."""
        return follows_paper(self.experiment)

    @property
    def remark(self) -> str:
        """What a reader must know of runs that are not complete; empty if all are."""
        counts = Counter(status for status in self.seeds.values() if status is not Status.COMPLETE)
        return ", ".join(f"{n} {status}" if len(self.seeds) > 1 else status for status, n in sorted(counts.items()))

    @property
    def suffix(self) -> str:
        """The remark as it follows the label; empty if there is none."""
        return f" [{self.remark}]" if self.remark else ""


def error_curves(records: Iterable[Run], *, band: str = "std") -> list[Curve]:
    """Curves of all records, one for each network and setting, sorted by family and depth.

    Args:
        records: runs that were begun.
        band: `std`, `minmax` or `ci95`, over the seeds of one network and setting.

    Raises:
        ConfigError: there is no such band.
        RunError: a record's config cannot be read, or two records are of one seed.
    """
    if band not in BANDS:
        raise ConfigError(f"band {band}: {did_you_mean(band, BANDS)}")
    groups: dict[Path, dict[str, list[tuple[Experiment, Run]]]] = {}  # by variant, then by settings
    known: dict[tuple[Path, str, int], Run] = {}
    for record in records:
        own, variant = record.experiment, record.path.resolve().parent
        settled = repr({"recipe": own.recipe.name, **result_settings(own), "seed": None})
        other = known.setdefault((variant.parent, settled, own.seed), record)
        if other is not record:
            raise RunError(f"{other.path} and {record.path}: both are of seed {own.seed}; move one of them away")
        groups.setdefault(variant, {}).setdefault(settled, []).append((own, record))
    # A variant's name is split at its commas, but for those inside [a,b].
    settings = {variant: re.split(r",(?![^\[]*\])", variant.name)[1:] for variant in groups}
    shared = set.intersection(*map(set, settings.values())) if settings else set()
    folders = told_apart({variant.parent for variant in groups})
    curves = []
    for variant, alike in groups.items():
        named = [setting for setting in settings[variant] if setting not in shared]
        firsts = [group[0][0] for group in alike.values()]
        # A recipe may have been redefined between two seeds.
        pairs = (differing(firsts[0], first) for first in firsts[1:])
        keys = dict.fromkeys(key for pair in pairs for key in pair if key != "seed")
        for group in alike.values():
            apart = [f"{key}={legible(str(group[0][0].flat()[key]))}" for key in keys]
            curves.append(_curve(group, ", ".join([*named, *apart]), folders[variant.parent], band))
    return sorted(curves, key=lambda c: (c.family, c.depth, c.label))


def told_apart(folders: Collection[Path]) -> dict[Path, str]:
    """The shortest ends of the folders' paths that tell them apart; of a single one nothing."""
    if len(folders) < 2:
        return dict.fromkeys(folders, "")
    found = {}
    for folder in folders:
        ends = (folder.parts[-count:] for count in range(1, len(folder.parts) + 1))
        own = next(end for end in ends if sum(other.parts[-len(end) :] == end for other in folders) == 1)
        found[folder] = legible("/".join(own))
    return found


def legible(text: str) -> str:
    """The text of a path without what is not UTF-8, which no file of ours could hold."""
    return os.fsencode(text).decode(errors="replace")


def _curve(found: list[tuple[Experiment, Run]], extra: str, folder: str, band: str) -> Curve:
    runs = sorted(found, key=lambda run: run[0].seed)
    own, first = runs[0]
    statuses = [record.status for _, record in runs]
    rows = [record.metrics() for _, record in runs]
    finished = zip(rows, statuses, strict=True)
    last = [measured[-1] for measured, status in finished if measured and status is Status.COMPLETE]
    environments = [record.environment for _, record in runs]

    def told(key: str, otherwise: Any = None) -> Any:
        """What the first record says that says it."""
        return next((each[key] for each in environments if each.get(key) is not None), otherwise)

    model, chance = own.model, told("chance_error")
    name = f"{model.family}-{model.depth}"
    if model.start and "model.start=" not in extra:
        before = re.split("[,.]", model.start)[0]
        name += " trained on" if before == name else f" built from {before}"
    return Curve(
        label=", ".join(part for part in (name, extra, folder) if part),
        family=model.family,
        depth=model.depth,
        experiment=own,
        train=_series(rows, "train_error", band),
        test=_series(rows, "test_error", band),
        seeds={each.seed: status for (each, _), status in zip(runs, statuses, strict=True)},
        final={key: [value for row in last if (value := row.finite(key)) is not None] for key in ERRORS},
        synthetic=own.data.name == "synthetic",
        precision=" and ".join(sorted({precision for _, record in runs for precision in record.precisions})),
        folder=first.path.resolve().parents[1],
        extra=extra,
        paths={each.seed: record.path for each, record in runs},
        parameters=told("parameters"),
        shortcuts=told("shortcuts", model.family in _WITH_SHORTCUTS),
        # An old record does not say; its classes were of one size.
        chance=chance if chance is not None and 0 < chance < 1 else 1 - 1 / max(2, model.classes),
        data_hashes=frozenset(str(each["data_hash"]) for each in environments if each.get("data_hash")),
        band=band,
    )


def seed_of(curve: Curve) -> str:
    """A network's label and the one seed that is looked at, and what became of it if it isn't complete."""
    return seed_name(curve, next(iter(curve.seeds)))


def seed_name(curve: Curve, seed: int) -> str:
    """A network's label and one of its seeds, and what became of that if it isn't complete."""
    status = curve.seeds[seed]
    return f"{curve.label}, seed {seed}" + ("" if status is Status.COMPLETE else f" [{status}]")


def first_seed(curve: Curve) -> Curve:
    """The curve of the first seed alone, under the same label."""
    (own,) = error_curves([Run(next(iter(curve.paths.values())))], band=curve.band)
    return replace(own, label=curve.label, extra=curve.extra)


def _series(runs: list[list[Metrics]], key: str, band: str) -> Series:
    measured = [{row.iteration: value for row in run if (value := row.finite(key)) is not None} for run in runs]
    iterations = sorted(set().union(*measured))
    values = np.array([[run.get(i, np.nan) for i in iterations] for run in measured], dtype=np.float64)
    values = values.reshape(len(measured), len(iterations))
    count = np.isfinite(values).sum(axis=0)
    # A run that diverges measures between the others' rows: such a point stands on fewer seeds than the next.
    steady = count >= np.maximum.accumulate(count[::-1])[::-1]
    low, mean, high = _band(values[:, steady], band)
    return Series(np.array(iterations, np.float64)[steady], mean, low, high, count[steady])


def _band(values: Array, band: str) -> tuple[Array, Array, Array]:
    """Low edge, mean and high edge of each column; a column of one value has no band."""
    if not values.size:
        return np.empty(0), np.empty(0), np.empty(0)
    mean = np.nanmean(values, axis=0)
    if band == "minmax":
        return np.nanmin(values, axis=0), mean, np.nanmax(values, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of the standard deviation of one value
        half = np.nan_to_num(np.nanstd(values, axis=0, ddof=1))
    if band == "ci95":
        count = np.isfinite(values).sum(axis=0)
        half = half * student_factor(np.maximum(count - 1, 1)) / np.sqrt(count)
    return mean - half, mean, mean + half


def edges(values: list[float], band: str) -> tuple[float, float]:
    """Low and high edge of the band around the mean of values, of which each seed has one."""
    low, _, high = _band(np.array(values, np.float64)[:, None], band)
    return float(low[0]), float(high[0])
