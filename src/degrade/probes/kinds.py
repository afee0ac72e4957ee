"""The kinds of training error along training, and how far the weights have grown.

The paper does not say how its training error was measured. Running training error mixes the errors of changing
weights; the others are measured with the weights fixed, at each snapshot: batch norm by its running statistics or by
those of each batch, images augmented or not. Batch statistics on augmented images differ from running training error
in that the weights stand still, and otherwise only in the draw of crops and batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from degrade.analysis.curves import Curve, seed_of
from degrade.analysis.facts import RUNNING, TEST, colour, footer, papers
from degrade.analysis.figures import finished, iterations_axis, legend_above, logarithmic, new_figure
from degrade.analysis.layers import looked_at
from degrade.analysis.reference import PAPER_LAST
from degrade.analysis.table import table
from degrade.data import Batches
from degrade.models import build_model
from degrade.probes.gradients import weighted_layers
from degrade.probes.probe import Row, Shown, kept_or_measured, of_first_seed, snapshots
from degrade.runs.record import RunRecord
from degrade.training import Training

#: Columns of training error with fixed weights: their words in the figure, in the table, and how they are drawn.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "train_error_clean": ("clean", "clean%", {"color": colour(0), "linestyle": "-"}),
    "train_error_clean_augmented": ("clean, augmented", "+aug%", {"color": colour(0), "linestyle": "--"}),
    "train_error_batch": ("batch statistics", "batch%", {"color": colour(1), "linestyle": "-"}),
    "train_error_batch_augmented": ("batch statistics, augmented", "+aug%", {"color": colour(1), "linestyle": "--"}),
}


def look(
    records: Sequence[RunRecord],
    *,
    limit: int | None = None,
    device: str = "auto",
    complain: Callable[[str], object] = print,
) -> Shown:
    """Kinds of training error of some runs as a table and a figure; `limit` and `device` as in `kinds`.

    All seeds are measured, and the first of each network is printed and drawn.
    """
    measure = partial(kinds, limit=limit, device=device)
    curves, found = of_first_seed(records, "kinds", measure, complain=complain)
    head = ["network at iteration", "running%", *(short for _, short, _ in KINDS.values()), "test%", "growth"]
    rows = []
    for curve, own in zip(curves, found, strict=True):
        for row in own:
            errors = [_running(curve, int(row["snapshot"])), *(float(row[key]) for key in (*KINDS, "test_error"))]
            shown = ["-" if np.isnan(error) else f"{100 * error:.2f}" for error in errors]
            rows.append([f"{curve.label} at {row['snapshot']:,}", *shown, f"{float(row['growth']):.3g}"])
    note = "running: mean of the updates up to the next row of the record\ngrowth: of a layer's norm, greatest layer"
    return Shown(f"{table(head, rows, 'text')}\n{note}", draw_kinds(curves, found), "kinds.png")


def _running(curve: Curve, iteration: int) -> float:
    """The running training error in the row of metrics at or after an iteration, a fraction; nan without one."""
    place = int(np.searchsorted(curve.train.iteration, iteration)) if iteration else len(curve.train.iteration)
    return float(curve.train.mean[place]) if place < len(curve.train.iteration) else np.nan


def kinds(record: RunRecord, *, limit: int | None = None, device: str = "auto") -> list[Row]:
    """A row for each of a run's snapshots, and for its last checkpoint.

    Columns: `snapshot` (iteration), the errors of `KINDS` on training images and `test_error`, fractions, `growth`,
    the greatest quotient of a layer's norm of weights and the norm that the seed draws, and `count` of training
    images. Neither weights nor running statistics change. Batches are those of the first epoch of training.

    Args:
        record: the run; the rows are kept in its `probes/kinds.csv`.
        limit: use only the first `limit` training images and test images; None uses all.
        device: as `runtime.device`.

    Raises:
        RunError: the run has neither weights to look into nor such rows.
    """

    def measure(training: Training, _: list[Row]) -> Iterator[list[Row]]:
        own, model = training.experiment, training.engine.model
        first = build_model(own.model, generator=torch.Generator().manual_seed(own.seed))
        initial = _norms(first)
        batches = training.batches
        if limit:
            few = {key: getattr(training.images, key)[:limit] for key in ("train_images", "train_labels")}
            images, size, augment = replace(training.images, **few), own.recipe.batch_size, own.data.augment
            batches = Batches(images, batch_size=size, augment=augment, seed=own.seed, device=batches.device)
        rows: list[Row] = []
        for iteration in snapshots(record, training):
            ways = [(statistics, augmented) for statistics in (False, True) for augmented in (False, True)]
            errors = [
                training.evaluate_batches(batches, batch_statistics=statistics, augmented=augmented).error
                for statistics, augmented in ways
            ]
            row: Row = {"snapshot": iteration, **dict(zip(KINDS, errors, strict=True))}
            row["test_error"] = training.evaluate(*(own[:limit] for own in training.test)).error
            row["growth"] = max(now / before for now, before in zip(_norms(model), initial, strict=True))
            rows.append({**row, "count": len(batches.labels)})
        yield rows

    return kept_or_measured(record, "kinds", {"images": limit or 0}, measure, device)


def _norms(model: nn.Module) -> list[float]:
    return [float(weight.detach().double().norm()) for _, weight, _ in weighted_layers(model)]


def draw_kinds(curves: Sequence[Curve], found: Sequence[Sequence[Row]]) -> Figure:
    """Errors (top) and growth of the weights (bottom) along training; each network, of one seed, has a column."""
    figure, axes = new_figure(2, len(curves), (max(5.4, 1.0 + 2.9 * len(curves)), 6.0))
    lowest, highest = 1.0, 0.0
    for curve, rows, upper, lower in zip(curves, found, axes, axes[len(curves) :], strict=False):
        at = [int(row["snapshot"]) for row in rows]
        most = max(int(row["count"]) for row in rows)
        few = [k for k, row in enumerate(rows) if int(row["count"]) < most]
        upper.plot(curve.train.iteration, 100 * curve.train.mean, color="0.6", linewidth=0.8, label=RUNNING)
        for key, (words, _, style) in KINDS.items():
            _points(upper, at, [100 * float(row[key]) for row in rows], few, label=words, **style)
        test = [100 * float(row["test_error"]) for row in rows]
        _points(upper, at, test, few, label=TEST, color=colour(2))
        paper = papers(curve, "train") if curve.follows_paper else None
        if paper is not None:
            end = curve.experiment.recipe.iterations
            style = {"color": "0.2", "linestyle": ":", "label": "the paper's training error"}
            upper.plot([end - PAPER_LAST, end], [100 * paper] * 2, **style)
        lower.plot(at, [float(row["growth"]) for row in rows], color="0.2", marker=".")
        ends = [line.get_ydata() for line in upper.get_lines()]
        shown = np.concatenate([np.asarray(own, dtype=float).ravel() for own in ends])
        lowest, highest = min(lowest, float(shown[shown > 0].min())), max(highest, float(shown.max()))
        upper.set_title(seed_of(curve), fontsize=9)
    last = max(float(row["snapshot"]) for rows in found for row in rows)
    # A run that diverged may have lost its weights.
    growths = [g for rows in found for row in rows if np.isfinite(g := float(row["growth"]))] or [1.0]
    for k, each in enumerate(axes):
        iterations_axis(each, last)
        errors = k < len(curves)
        low, high = (lowest, highest) if errors else (min(growths), max(growths))
        logarithmic(each, low, high)
        each.set_ylim(low / 1.1, 1.1 * high)
        each.tick_params(labelbottom=not errors, labelleft=k % len(curves) == 0)
        if errors:
            each.set_xlabel("")
        if k % len(curves) == 0:
            each.set_ylabel(
                "error (%)" if errors else "norm of a layer's weights over\nthe initial one, greatest layer"
            )
    lines = [line for each in axes[: len(curves)] for line in each.get_lines()]
    handles = {label: line for line in lines if not (label := str(line.get_label())).startswith("_")}
    legend_above(
        figure, list(handles.values()), 3 if len(curves) > 1 else 2, "Kinds of training error along training"
    )
    images = " or ".join(sorted({looked_at([row], "training") for rows in found for row in rows}))
    mixed = any(len({row["count"] for row in rows}) > 1 for rows in found)
    hollow = ", the points of fewer images hollow" if mixed else ""
    text = f"with the weights fixed but for running training error; {images}{hollow}; fp32"
    text = f"{text}\n{footer(curves, banded=False)}"
    return finished(figure, text, None)


def _points(axes: Axes, at: Sequence[int], errors: Sequence[float], few: Sequence[int], **style: Any) -> None:
    """Draw a line through its points; those that were measured on few images are hollow."""
    (line,) = axes.plot(at, errors, marker=".", linewidth=1.1, **style)
    few_at, their = [at[k] for k in few], [errors[k] for k in few]
    axes.plot(few_at, their, ".", color=line.get_color(), markerfacecolor="white", markersize=5)
