"""Records become curves: aligned by iteration, mean and band over the seeds of one network and setting."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from degrade.runs.record import RunRecord

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One quantity over iterations, over seeds.

    Attributes:
        iteration: where it was measured, by any seed.
        mean, low, high: over the seeds measured there (fractions); the band is mean -+ one standard deviation.
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
        config: the settings of its first seed.
        train, test: running training error, test error.
        seeds: the seeds, and what became of each run.
        clean_train, final_test, final_train: last errors of the finished seeds.
        synthetic: made from generated images.
        precision: `fp32` or `bf16`; empty where the record does not say.
    """

    label: str
    family: str
    depth: int
    config: dict[str, Any]
    train: Series
    test: Series
    seeds: dict[int, str]
    clean_train: list[float]
    final_test: list[float]
    final_train: list[float]
    synthetic: bool
    precision: str

    @property
    def remark(self) -> str:
        """What a reader must know of unfinished runs: empty if all are complete."""
        counts: dict[str, int] = {}
        for status in self.seeds.values():
            if status != "complete":
                counts[status] = counts.get(status, 0) + 1
        several = len(self.seeds) > 1
        return ", ".join(f"{n} {status}" if several else status for status, n in sorted(counts.items()))


def error_curves(records: Iterable[RunRecord]) -> list[Curve]:
    """Curves of all records, one for each network and setting, sorted by family and depth."""
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault(_group(record.path), []).append(record)
    differing = _differing_parts([name for _, name in groups])
    several = len({folder for folder, _ in groups}) > 1
    curves = [
        _curve(group, differing[name], Path(folder).name if several else "")
        for (folder, name), group in groups.items()
    ]
    return sorted(curves, key=lambda c: (c.family, c.depth, c.label))


def _differing_parts(variants: list[str]) -> dict[str, str]:
    """Of each variant's name, the settings that not all of them share: what a label must tell."""
    parts = {name: re.split(r",(?![^\[]*\])", name)[1:] for name in variants}  # not at commas inside [a,b]
    shared = set.intersection(*map(set, parts.values())) if parts else set()
    return {name: ", ".join(part for part in own if part not in shared) for name, own in parts.items()}


def _group(path: Path) -> tuple[str, str]:
    resolved = path.resolve()
    return (str(resolved.parents[1]), resolved.parent.name)


def _curve(records: list[RunRecord], extra: str, experiment: str) -> Curve:
    records = sorted(records, key=lambda r: r.path.name)
    config = records[0].config
    rows = [record.rows() for record in records]
    family, depth = str(config["model"]["family"]), int(config["model"]["depth"])
    finished = [r for record, r in zip(records, rows, strict=True) if r and record.status == "complete"]
    return Curve(
        label=", ".join(part for part in (f"{family}-{depth}", extra, experiment) if part),
        family=family,
        depth=depth,
        config=config,
        train=_series(rows, "train_error"),
        test=_series(rows, "test_error"),
        seeds={int(r.config["seed"]): r.status for r in records},
        clean_train=_last(finished, "train_error_clean"),
        final_test=_last(finished, "test_error"),
        final_train=_last(finished, "train_error"),
        synthetic=config["data"]["name"] == "synthetic",
        precision=str(records[0].environment.get("precision", "")),
    )


def _series(runs: list[list[dict[str, Any]]], key: str) -> Series:
    measured = [{row["iteration"]: row[key] for row in run if _number(row.get(key))} for run in runs]
    iterations = sorted(set().union(*measured)) if measured else []
    values = np.array([[run.get(i, np.nan) for i in iterations] for run in measured], dtype=np.float64)
    values = values.reshape(len(measured), len(iterations))
    count = np.isfinite(values).sum(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a standard deviation of one value: no band there
        mean = np.nanmean(values, axis=0) if iterations else np.empty(0)
        spread = np.nanstd(values, axis=0, ddof=1) if iterations else np.empty(0)
    spread = np.nan_to_num(spread)
    return Series(np.array(iterations, np.float64), mean, mean - spread, mean + spread, count)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _last(runs: list[list[dict[str, Any]]], key: str) -> list[float]:
    """The last iterate's value of each run that has one."""
    return [float(run[-1][key]) for run in runs if _number(run[-1].get(key))]
