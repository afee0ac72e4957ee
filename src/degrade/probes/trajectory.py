"""The path of a training on the loss surface, in the plane of its first two principal components.

As in Li et al., Visualizing the Loss Landscape of Neural Nets, 2018, section 7: the differences of a run's snapshots
to its last weights are decomposed into principal components, and the plane through the last weights along the first
two of them is the one that shows most of how the weights moved. All parameters count, batch norm's too.

The plane is one of weights, not of functions. A convolution that batch norm follows computes the same whatever its
scale, so growth of weights that changes nothing is seen as movement, and may be most of it. Batch norm's statistics
are measured anew at each point, since the running ones belong to one end of the path.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from degrade.analysis.curves import Array, Curve, first_seed, seed_of
from degrade.analysis.facts import footer, signs
from degrade.analysis.figures import finished
from degrade.analysis.layers import capped, plane
from degrade.analysis.table import aligned
from degrade.errors import RunError
from degrade.probes.landscape import (
    Weights,
    add_scale,
    contours,
    levels_of,
    loss_of_weights,
)
from degrade.probes.probe import (
    MOST,
    Row,
    Shown,
    kept_or_measured,
    looked_at,
    networks,
    numbers_path,
    read,
    snapshots,
    within,
)
from degrade.progress import through
from degrade.runs.record import RunRecord
from degrade.training import Training, checkpoint

#: How far the grid reaches beyond the path, as a share of the path's extent.
MARGIN = 0.2


class Trajectory(NamedTuple):
    """Weights along a training, and the plane that shows most of how they moved."""

    iterations: list[int]
    """Iterations of the weights, N, of which the last are the centre of the plane."""
    places: Array
    """N x 2: where they are on the plane, in units of the weights; the last at (0, 0)."""
    shares: Array
    """2: the share of the variance of the weights that each component explains."""
    off: Array
    """N: how far the weights are from the plane."""
    directions: tuple[Weights, Weights]
    """The components, of length 1 and perpendicular."""
    weights: list[Weights]
    """The weights themselves, N."""


def look(
    records: Sequence[RunRecord],
    *,
    grid: int = 15,
    limit: int = 300,
    device: str = "auto",
    complain: Callable[[str], object] = print,
) -> Shown:
    """The paths of the first seed of each of some networks; other arguments are those of `surface`.

    Raises:
        RunError: no run keeps snapshots.
    """
    found = [record for record in records if _has_path(record)]
    if not found:
        raise RunError(
            f"{records[0].path}: keeps no snapshots of its weights along training; train it with "
            "checkpoint.snapshots=16, and --fresh if it is finished"
        )
    for record in records:
        if record not in found:
            complain(f"left out: {record.path} keeps no snapshots; checkpoint.snapshots=16 does")
    curves = [first_seed(curve) for curve in networks(found, "trajectory", complain=complain)]
    runs = [RunRecord(next(iter(curve.paths.values()))) for curve in curves]
    paths = [path(record, limit=limit, device=device) for record in runs]
    grids = [surface(record, grid=grid, limit=limit, device=device) for record in runs]
    cells = [_told(curve, rows) for curve, rows in zip(curves, paths, strict=True)]
    text = "\n".join(
        [
            aligned(["network", "points", "first", "second", "both", "norm grows", "loss, start", "end"], cells),
            "",
            "first, second, both: share of the weights' variance along the path that these",
            "principal components explain; norm grows: that of all weights, start to end,",
            "which changes nothing where batch norm follows them",
        ]
    )
    return Shown(text, draw_trajectory(curves, paths, grids, limit=limit), "trajectory.png")


def _has_path(record: RunRecord) -> bool:
    return len(checkpoint.snapshots(record.path)) > 1 or any(record.path.glob("probes/trajectory-path-*.csv"))


def _told(curve: Curve, rows: Sequence[Row]) -> list[str]:
    start, end = rows[0], rows[-1]
    first, second = float(start["share1"]), float(start["share2"])
    shares = [f"{share:.1%}" for share in (first, second, first + second)]
    growth = f"{float(end['norm']) / float(start['norm']):.3g}x"
    return [seed_of(curve), str(len(rows)), *shares, growth, *(f"{float(row['loss']):.3g}" for row in (start, end))]


def path(record: RunRecord, *, limit: int = 300, device: str = "auto") -> list[Row]:
    """A row for each snapshot of a run and for its last weights, the earliest first.

    Columns: `snapshot` (iteration); `a` and `b`, where it is on the plane; `off`, its distance from the plane; `norm`
    of all its weights; `loss` and `error` (a fraction) of the network itself; `on_plane`, the loss at its place on
    the plane; `share1` and `share2`, the shares of the variance, the same in all rows; `count` of images.

    Args:
        record: the run, in whose `probes/` the rows are kept.
        limit: number of training images that are used, the first ones, un-augmented.
        device: as `runtime.device`.

    Raises:
        ConfigError: the limit is out of range.
        RunError: the run has neither such rows nor a checkpoint and two more snapshots.
    """
    within("--limit", limit, 1, MOST)

    def measure(training: Training, _: list[Row]) -> Iterator[list[Row]]:
        found = _path_of(record, training)
        loss, count = loss_of_weights(training, limit, recalibrate=record.experiment.model.batch_norm)
        rows: list[Row] = []
        steps = enumerate(found.iterations)
        for k, iteration in through(steps, f"{record.path}: path", total=len(found.iterations)):
            own, error = loss(found.weights[k], [])
            a, b = map(float, found.places[k])
            on_plane, _error = loss(found.weights[-1], [*zip((a, b), found.directions, strict=True)])
            row: Row = {"snapshot": iteration, "a": a, "b": b, "off": float(found.off[k])}
            row |= {"norm": _norm(found.weights[k]), "loss": own, "error": error, "on_plane": on_plane}
            row |= {"share1": float(found.shares[0]), "share2": float(found.shares[1]), "count": count}
            rows.append(row)
        yield rows

    return kept_or_measured(record, f"trajectory-path-images{limit}", {"images": limit}, measure, device)


def surface(record: RunRecord, *, grid: int = 15, limit: int = 300, device: str = "auto") -> list[Row]:
    """Loss and error on a grid of the plane that reaches a fifth beyond the path: `a`, `b`, `loss`, `error`, `count`.

    Args:
        record: the run, in whose `probes/` the points are kept as they are found.
        grid: number of points along each component.
        limit: as in `path`.
        device: as `runtime.device`.

    Raises:
        ConfigError: the grid or the limit is out of range.
        RunError: as `path` does.
    """
    within("--grid", grid, 3, 999)
    along = path(record, limit=limit, device=device)
    ranges = [_range([float(row[key]) for row in along]) for key in ("a", "b")]
    places = [(a, b) for a in np.linspace(*ranges[0], grid).tolist() for b in np.linspace(*ranges[1], grid).tolist()]

    def measure(training: Training, kept: list[Row]) -> Iterator[list[Row]]:
        found = _path_of(record, training)
        loss, count = loss_of_weights(training, limit, recalibrate=record.experiment.model.batch_norm)
        rows, done = [*kept], len(kept)
        for a, b in through(places[done:], f"{record.path}: surface", total=grid**2, done=done):
            own, error = loss(found.weights[-1], [*zip((a, b), found.directions, strict=True)])
            rows.append({"a": a, "b": b, "loss": own, "error": error, "count": count})
            yield rows

    name = f"trajectory-grid{grid}-images{limit}"
    _drop_of_another_path(record, name, places)
    return kept_or_measured(record, name, {"images": limit}, measure, device, whole=grid**2)


def _drop_of_another_path(record: RunRecord, name: str, places: Sequence[tuple[float, float]]) -> None:
    """Remove points that lie elsewhere, as those of another set of snapshots do."""
    kept = read(numbers_path(record, name))
    if [(float(row["a"]), float(row["b"])) for row in kept] != [*places[: len(kept)]]:
        numbers_path(record, name).unlink()


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest with a margin; around a point, where there is no extent."""
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 1e-3
    return low - margin, high + margin


def _path_of(record: RunRecord, training: Training) -> Trajectory:
    """The path of a run by its snapshots and its last checkpoint; snapshots that are damaged are left out, and named.

    Raises:
        RunError: there are fewer than three.
    """
    found = {
        iteration: [parameter.detach().clone() for parameter in training.engine.model.parameters()]
        for iteration in snapshots(record, training)
        if iteration <= training.iteration
    }
    if len(found) < 3:
        raise RunError(
            f"{record.path}: has {len(found) - 1} snapshots before its last weights, and a path needs 2; train it "
            "with checkpoint.snapshots=16, and --fresh if it is finished"
        )
    return principal_path([*found], [*found.values()])


def principal_path(iterations: list[int], weights: list[Weights]) -> Trajectory:
    """The plane through the last of some weights along the first two principal components of all of them.

    `weights` has a list of tensors for each of 3 or more iterations, and their shapes are the same in all lists.

    Raises:
        RunError: the weights do not move, or are not finite, so that there are no components.
    """
    last = weights[-1]
    moved = torch.stack([_flat(own) - _flat(last) for own in weights])
    if not moved.isfinite().all() or not moved.any():
        raise RunError("the snapshots are all alike, or hold weights that are not finite: they make no path")
    # A component is defined up to its sign: the path begins on the left, and is mostly in the upper half.
    _, sizes, components = torch.linalg.svd(moved - moved.mean(dim=0), full_matrices=False)
    components = components[:2]
    places = moved @ components.T
    signs = torch.stack([-places[0, 0].sign(), places[:, 1].sum().sign()])
    signs[signs == 0] = 1
    components, places = components * signs[:, None], places * signs + 0.0  # of -0.0 this makes 0.0
    off = (moved - places @ components).norm(dim=1)
    first, second = (_like(component, last) for component in components)
    shares = (sizes.square() / sizes.square().sum())[:2]
    where, explained, away = (own.cpu().numpy() for own in (places, shares, off))
    return Trajectory(iterations, where, explained, away, (first, second), weights)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([own.double().flatten() for own in weights])


def _norm(weights: Weights) -> float:
    return float(_flat(weights).norm())


def _like(flat: Tensor, weights: Weights) -> Weights:
    """A long vector as tensors of the shapes and the type of weights."""
    parts = torch.split(flat, [own.numel() for own in weights])
    return [part.view_as(own).to(own.dtype) for part, own in zip(parts, weights, strict=True)]


def draw_trajectory(
    curves: Sequence[Curve], paths: Sequence[Sequence[Row]], grids: Sequence[Sequence[Row]], *, limit: int
) -> Figure:
    """A column for each network: above, the path on contours of the loss; below, the loss along the path.

    Each network is of one seed; `paths` and `grids` have for each what `path` and `surface` gave.
    """
    figure = Figure(figsize=(max(4.6, 3.6 * len(curves)), 6.0), layout="constrained")
    planes = [plane(rows) for rows in grids]
    levels = levels_of(planes)
    axes = figure.subplots(2, len(curves), squeeze=False, height_ratios=[1.8, 1])
    for k, (curve, rows, (colour, _)) in enumerate(zip(curves, paths, signs(curves), strict=True)):
        shades = contours(axes[0, k], *planes[k], levels)
        _draw_path(axes[0, k], rows)
        both = float(rows[0]["share1"]) + float(rows[0]["share2"])
        axes[0, k].set_title(f"{seed_of(curve)}\n{both:.1%} of the variance", fontsize=9)
        if k > 0:
            axes[1, k].sharey(axes[1, 0])
        _draw_losses(axes[1, k], rows, colour, named=k == 0)
    add_scale(figure, shades, list(axes[0]), levels)
    images = " or ".join(sorted({looked_at([{"images": limit, **rows[0]}], "training") for rows in paths}))
    across = round(len(grids[0]) ** 0.5)
    text = (
        f"principal components of all weights at snapshots, through the last weights; {across} x {across} points, of "
        f"one seed each; loss in eval mode on {images}, un-augmented, batch norm's statistics measured anew at each "
        "point; the plane is one of weights: growth that batch norm takes out again counts as movement"
    )
    title = "Paths of training on the plane of their first two principal components"
    return finished(figure, f"{text}\n{footer(curves, banded=False)}", title)


def _draw_path(axes: Axes, rows: Sequence[Row]) -> None:
    a, b = ([float(row[key]) for row in rows] for key in ("a", "b"))
    axes.plot(a, b, color="white", linewidth=1.0, marker="o", markersize=2.5)
    axes.plot(a[-1], b[-1], color="white", marker="+", markersize=9)
    axes.set_xlabel(f"first component, {float(rows[0]['share1']):.1%}")
    axes.set_ylabel(f"second component, {float(rows[0]['share2']):.1%}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    said: list[tuple[float, float]] = []
    extent = [max(max(own) - min(own), 1e-9) for own in (a, b)]
    for row, x, y in reversed([*zip(rows, a, b, strict=True)]):  # the last first; others where there is room
        if all(abs(x - u) > 0.14 * extent[0] or abs(y - v) > 0.08 * extent[1] for u, v in said):
            said.append((x, y))
            said_there = f"{int(row['snapshot']):,}"
            axes.annotate(said_there, (x, y), (4, 3), textcoords="offset points", color="white", fontsize=6.5)


def _draw_losses(axes: Axes, rows: Sequence[Row], shade: str, *, named: bool) -> None:
    """The networks' own loss, and the one at their places on the plane, over iterations; 0 stands at the left end."""
    iterations = [max(int(row["snapshot"]), 0.5) for row in rows]
    for key, style, label in (("loss", "-", "of the network itself"), ("on_plane", ":", "at its place on the plane")):
        losses = capped([float(row[key]) for row in rows])
        axes.plot(iterations, losses, style, color=shade, linewidth=1.2, marker="o", markersize=2, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    narrow = np.divide(*axes.get_ylim()[::-1]) < 3  # else the powers of ten are enough
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}" if narrow else NullFormatter())
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.set_xlabel("iteration (first point: before training)")
    if named:
        axes.set_ylabel("loss")
        axes.legend()
