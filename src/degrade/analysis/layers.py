"""Reads probes' rows: names of columns, growth of weights over snapshots, losses on a plane."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, mean, median

import numpy as np
import numpy.typing as npt

from degrade.runs.numbers import Row

#: Columns of the rows, and the axes of those that are drawn. GROWTH is computed from the rows of several snapshots.
WEIGHTS, RELATIVE, NORM = "weight_gradient", "relative_gradient", "weight_norm"
SIGNALS, FORWARD, GROWTH = "response_gradient", "response_std", "weight_growth"
CORRELATION, DEAD = "gradient_correlation", "dead"
NAMES = {
    FORWARD: "standard deviation\nof the response",
    SIGNALS: "gradient of\nthe response",
    WEIGHTS: "gradient of\nthe weights",
    RELATIVE: "gradient of the weights\nrelative to the weights",
    GROWTH: "norm of the weights\nrelative to the initial one",
    DEAD: "share of ReLUs that\nare zero on every image",
}


#: Losses are drawn no higher than this: ten times the loss of guessing among ten classes, five times among 100.
CEILING = 10 * math.log(10)

#: What the table of networks before their first update is called; it lies beside the runs.
INITIAL = "gradients-initial.csv"


def capped(losses: Sequence[float]) -> npt.NDArray[np.float64]:
    """Losses of at most CEILING, also where they are not finite."""
    known = np.nan_to_num(np.array(losses, np.float64), nan=CEILING, posinf=CEILING)
    return np.minimum(known, CEILING)


def plane(rows: Sequence[Row]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Places along both directions, and the loss there, G x G, of at most CEILING, also where it is not finite.

    A loss of 0, which few images may have, counts as the least one above it, since the logarithm is drawn.
    """
    a, b = (np.array(sorted({float(row[key]) for row in rows})) for key in ("a", "b"))
    loss = capped([float(row["loss"]) for row in rows]).reshape(len(a), len(b))
    return a, b, np.maximum(loss, loss[loss > 0].min(initial=CEILING))


def norm_words(pairs: Iterable[tuple[str, str]]) -> str:
    """What follows a convolution in networks of these families and norms, in the words of a figure."""
    papers = all(family in ("plain", "residual", "vgg") and norm in ("batch", "none") for family, norm in pairs)
    return "batch norm" if papers else "the norm that follows, if any"


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


def stages(rows: Sequence[Row]) -> tuple[list[int], list[list[Row]]]:
    """Iterations of the snapshots, and the rows of each with one column more, `weight_growth`.

    It is the norm of the layer's weights relative to the initial one; nan without a snapshot of iteration 0.
    """
    iterations = sorted({int(row["snapshot"]) for row in rows})
    first = {row["layer"]: weight_norm(row) for row in rows if row["snapshot"] == 0}
    grown = [{**row, GROWTH: weight_norm(row) / (first.get(row["layer"]) or math.nan)} for row in rows]
    return iterations, [[row for row in grown if row["snapshot"] == iteration] for iteration in iterations]


def weight_norm(row: Row) -> float:
    """Norm of a layer's weights; where the record is older than that column, the quotient of two that it has."""
    if NORM in row:
        return float(row[NORM])
    gradient, relative = float(row[WEIGHTS]), float(row[RELATIVE])
    return gradient / relative if relative else math.nan


@dataclass(frozen=True)
class Along:
    """What one run's layers came to at each of its snapshots."""

    iterations: list[int]
    values: dict[str, list[float]]
    """GROWTH is that of the 3x3 convolution that grew most; RELATIVE and CORRELATION are the geometric and the
    arithmetic mean of the first third of these convolutions; DEAD is the mean of all layers with a ReLU. A value is
    nan where the record does not have it."""
    images: str
    """The images that were looked at, in words."""


def summaries(rows: Sequence[Row]) -> Along:
    """Reduce the layers of one run to one value of each quantity at each snapshot.

    The rows are what `gradients` gave; those of earlier versions lack columns.
    """
    iterations, each = stages(rows)
    values: dict[str, list[float]] = {GROWTH: [], RELATIVE: [], CORRELATION: [], DEAD: []}
    for own in each:
        convolutions = [row for row in own if not str(row["name"]).startswith("linear")]
        first = convolutions[: -(-len(convolutions) // 3)]
        values[GROWTH].append(float(np.max([float(row[GROWTH]) for row in convolutions])))
        relative = [float(row[RELATIVE]) for row in first]
        known = all(math.isfinite(value) for value in relative)
        values[RELATIVE].append((geometric_mean(relative) if all(relative) else 0.0) if known else math.nan)
        values[CORRELATION].append(mean(float(row.get(CORRELATION, math.nan)) for row in first))
        values[DEAD].append(mean(float(row.get(DEAD, math.nan)) for row in own[:-1]))
    return Along(iterations, values, looked_at(rows, "training"))


def over_seeds(runs: Sequence[Along], quantity: str) -> tuple[list[int], list[float], list[tuple[float, float]]]:
    """Iterations of the snapshots of some seeds, and there the median of a quantity and its range.

    Values that are not finite or not above 0 are left out, since no logarithm shows them.
    """
    found: dict[int, list[float]] = {}
    for run in runs:
        for iteration, value in zip(run.iterations, run.values[quantity], strict=True):
            if math.isfinite(value) and value > 0:
                found.setdefault(iteration, []).append(value)
    # An unfinished seed ends between the others' snapshots: such a point stands on fewer seeds than a later one.
    iterations = [k for k in sorted(found) if all(len(found[later]) <= len(found[k]) for later in found if later > k)]
    ranges = [(min(found[k]), max(found[k])) for k in iterations]
    return iterations, [median(found[k]) for k in iterations], ranges
