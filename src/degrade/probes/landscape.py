"""The loss around a trained network, along two random directions (Li et al., Visualizing the Loss Landscape, 2018).

A direction is drawn from a normal distribution, and each of its filters is scaled to the norm of the network's filter
(a row of the linear layer counts as one), so that flat and sharp mean the same for networks of other scales. Biases
and batch norm's scale and shift stay as they are. The loss is in eval mode: with the running statistics of training,
which belong to the weights in the middle and to no others, or with statistics measured anew at each point.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from degrade.analysis.curves import Array, Curve, first_seed, seed_of
from degrade.analysis.facts import footer
from degrade.analysis.figures import finished
from degrade.analysis.layers import CEILING, plane
from degrade.analysis.table import aligned
from degrade.data.batches import single_view
from degrade.errors import ConfigError
from degrade.probes.probe import MOST, Row, Shown, batches, kept_or_measured, looked_at, networks, within
from degrade.progress import through
from degrade.runs.record import RunRecord
from degrade.training import Training

#: A network's parameters, or a direction among them.
Weights = list[Tensor]

#: Multiples of directions.
Steps = Sequence[tuple[float, Weights]]

#: Most images that pass together where batch norm's statistics are measured anew; of more, parts are averaged.
TOGETHER = 512


def look(
    records: Sequence[RunRecord],
    *,
    seed: int = 0,
    limit: int = 300,
    recalibrate: bool = False,
    complain: Callable[[str], object] = print,
    **how: Any,
) -> Shown:
    """The loss around the first seed of each of some networks; the arguments are those of `landscape`."""
    curves = [first_seed(curve) for curve in networks(records, "landscape", complain=complain)]
    bare = [curve.label for curve in curves if not curve.experiment.model.batch_norm]
    if recalibrate and bare:
        complain(f"{', '.join(bare)}: no batch norm, for which --recalibrate changes nothing")
    how |= {"seed": seed, "limit": limit, "recalibrate": recalibrate and len(bare) < len(curves)}
    found = [landscape(RunRecord(next(iter(curve.paths.values()))), **how) for curve in curves]
    cells = []
    for curve, rows in zip(curves, found, strict=True):
        losses = [float(row["loss"]) for row in rows]
        shown = (losses[len(losses) // 2], min(losses), max(losses))
        cells.append([seed_of(curve), *(f"{value:.3g}" for value in shown)])
    figure = draw_landscape(curves, found, seed=seed, limit=limit, recalibrate=how["recalibrate"])
    name = f"landscape{'-recalibrated' * how['recalibrate']}.png"
    return Shown(aligned(["network", "loss", "least", "greatest"], cells), figure, name)


def landscape(
    record: RunRecord,
    *,
    grid: int = 15,
    span: float = 0.5,
    seed: int = 0,
    limit: int = 300,
    recalibrate: bool = False,
    device: str = "auto",
) -> list[Row]:
    """Loss and error at each point of a grid around a run's network: `a`, `b`, `loss`, `error` (a fraction).

    A point is the network's weights plus `a` times one direction and `b` times the other.

    Args:
        record: the run, in whose `probes/` the points are kept as they are found, so that a call which was stopped
            can be repeated and goes on.
        grid: number of points along each direction, which is odd, so that the network itself is one.
        span: how far the grid reaches, in units of the filters' norms.
        seed: draws the directions; those of plain and residual networks of one depth are alike but for their scale.
        limit: number of training images that are used, the first ones, un-augmented.
        recalibrate: whether batch norm's mean and variance are measured anew at each point, over the same images;
            such points are kept in a file of their own. Without batch norm it changes nothing.
        device: as `runtime.device`.

    Raises:
        ConfigError: the grid is even or out of range, the span is not above 0, or the seed or the limit is out of
            range.
        RunError: points are missing and there are no weights to look into.
    """
    if not 3 <= grid < 1000 or grid % 2 == 0:
        raise ConfigError(
            f"--grid {grid}: give an odd number from 3 to 999, so that the network itself is in the middle"
        )
    if not (math.isfinite(span) and span > 0):
        raise ConfigError(f"--span {span}: must be a number above 0")
    within("--seed", seed, 0, 2**63 - 1)
    within("--limit", limit, 1, MOST)
    recalibrate = recalibrate and record.experiment.model.batch_norm
    name = f"landscape-grid{grid}-span{span:g}-seed{seed}-images{limit}{'-recalibrated' * recalibrate}"
    steps = np.linspace(-span, span, grid).tolist()
    places = [(a, b) for a in steps for b in steps]

    def measure(training: Training, kept: list[Row]) -> Iterator[list[Row]]:
        centre = [parameter.detach().clone() for parameter in training.engine.model.parameters()]
        generator = torch.Generator().manual_seed(seed)
        directions = [direction(centre, generator) for _ in range(2)]
        loss, count = loss_of_weights(training, limit, recalibrate=recalibrate)
        rows: list[Row] = [{**row, "count": count} for row in kept]
        done = len(rows)
        for a, b in through(places[done:], str(record.path), total=grid**2, done=done):
            found, error = loss(centre, [*zip((a, b), directions, strict=True)])
            rows.append({"a": a, "b": b, "loss": found, "error": error, "count": count})
            yield rows  # all rows are written after each point, which costs little beside the point

    return kept_or_measured(record, name, {"images": limit}, measure, device, whole=grid**2)


def loss_of_weights(
    training: Training, limit: int, *, recalibrate: bool
) -> tuple[Callable[[Weights, Steps], tuple[float, float]], int]:
    """Loss and error of a run's network with other weights, in eval mode, on its first training images.

    The network of `training` is changed. Its first `limit` images are taken un-augmented, and with `recalibrate`
    batch norm's mean and variance are measured anew over them.

    Returns:
        A function of a centre and of steps from there, which gives loss and error, a fraction; and the number of
        images.
    """
    model = training.engine.model.eval()
    model.recompute = False  # nothing is kept here that could be computed again
    pixels, labels = training.batches.pixels[:limit], training.batches.labels[:limit]

    @torch.inference_mode()
    def loss(centre: Weights, steps: Steps) -> tuple[float, float]:
        move(model, centre, steps)
        if recalibrate:
            measure_statistics(model, pixels, training.batches.mean)
        total = wrong = 0.0
        for images, own in batches(training, pixels, labels):
            logits = model(images)
            total += float(F.cross_entropy(logits, own, reduction="sum"))
            wrong += int((logits.argmax(1) != own).sum())
        return total / len(labels), wrong / len(labels)

    return loss, len(labels)


def measure_statistics(model: nn.Module, pixels: Tensor, mean: Tensor) -> None:
    """Give batch norm the mean and variance that its input has over some images, as the network's weights now are.

    Up to 512 images, uint8 N x 3 x 32 x 32, pass at once; the statistics of equal parts of more are averaged.
    """
    parts = pixels.tensor_split(-(-len(pixels) // TOGETHER))
    update_bn((single_view(part, mean) for part in parts), model)


def direction(weights: Weights, generator: torch.Generator) -> Weights:
    """A random direction, filter by filter as long as the weights; 0 for biases and batch norm.

    The generator is on the CPU, so that every device draws the same.
    """

    def filters(weight: Tensor) -> Tensor:
        drawn = torch.randn(weight.shape, generator=generator).to(weight.device)
        norms = [tensor.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)) for tensor in (weight, drawn)]
        return torch.mul(drawn, norms[0] / norms[1])

    return [filters(weight) if weight.dim() > 1 else torch.zeros_like(weight) for weight in weights]


def move(model: nn.Module, centre: Weights, steps: Steps) -> None:
    """Set a network's parameters to a centre plus multiples of directions."""
    for place, parameter in enumerate(model.parameters()):
        parameter.copy_(centre[place] + sum(step * along[place] for step, along in steps))


def draw_landscape(
    curves: Sequence[Curve], found: Sequence[Sequence[Row]], *, seed: int, limit: int, recalibrate: bool
) -> Figure:
    """A column for each network: contours of the loss above, the surface below, on scales that all share.

    Each network is of one seed, and `found` has for each the rows that `landscape` gave with the other arguments.
    """
    figure = Figure(figsize=(max(4.0, 3.4 * len(curves)), 6.0), layout="constrained")
    planes = [plane(rows) for rows in found]
    levels = levels_of(planes)
    above = []
    for k, (curve, (a, b, loss)) in enumerate(zip(curves, planes, strict=True), start=1):
        flat = figure.add_subplot(2, len(curves), k)
        shades = contours(flat, a, b, loss, levels)
        flat.plot(0, 0, color="white", marker="+", markersize=7)
        flat.set_aspect("equal")
        flat.set_xlabel("first direction")
        flat.set_ylabel("second direction")
        middle = f"loss {loss[len(loss) // 2, len(loss) // 2]:.3g} in the middle"
        flat.set_title(f"{seed_of(curve)}\n{middle}", fontsize=9)
        above.append(flat)
        _surface(figure.add_subplot(2, len(curves), len(curves) + k, projection="3d"), a, b, loss, levels)
    add_scale(figure, shades, above, levels)
    statistics = "measured anew at each point" if recalibrate else "as in the middle"
    title = f"Loss around trained networks, batch norm's statistics {statistics}"
    points, across = f"{len(found[0]):,}", math.isqrt(len(found[0]))
    images = " or ".join(sorted({looked_at([{"images": limit, **rows[0]}], "training") for rows in found}))
    used = "the running ones of training, true of the middle alone"
    if recalibrate:
        used = "mean and variance measured anew at each point, over the same images"
    text = (
        f"{points} points for each network ({across} x {across}), of one seed each; loss in eval mode on {images}, "
        f"un-augmented; directions by filter, drawn with seed {seed}; batch norm's statistics: {used}"
    )
    return finished(figure, f"{text}\n{footer(curves, banded=False)}", title)


def levels_of(planes: Sequence[tuple[Array, Array, Array]]) -> Array:
    """Levels of the loss, evenly spaced in its logarithm, that several planes share."""
    lowest = min(float(loss.min()) for *_, loss in planes)
    highest = max(float(loss.max()) for *_, loss in planes)
    return np.geomspace(lowest, max(highest, 1.01 * lowest), 16)


def contours(axes: Axes, a: Array, b: Array, loss: Array, levels: Array) -> QuadContourSet:
    """Draw the loss over a plane, the first direction to the right."""
    shades = axes.contourf(a, b, loss.T, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis")
    axes.contour(a, b, loss.T, levels=levels, colors="0.2", linewidths=0.4)
    return shades


def add_scale(figure: Figure, shades: QuadContourSet, beside: Sequence[Axes], levels: Array) -> None:
    """Draw the bar that says which loss a shade is."""
    label = "loss" if levels[-1] < CEILING else f"loss (at {CEILING:.3g}: that or more)"
    bar = figure.colorbar(shades, ax=beside, label=label, ticks=levels[::3], format="{x:.3g}")
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=7)


def _surface(axes: Any, a: Array, b: Array, loss: Array, levels: Array) -> None:
    """The logarithm of the loss as height: matplotlib has no logarithmic axes in 3D."""
    x, y = np.meshgrid(a, b, indexing="ij")
    low, high = np.log10(levels[0]), np.log10(levels[-1])
    drawn = {"linewidth": 0.2, "edgecolor": "0.3", "rcount": len(a), "ccount": len(b)}
    axes.plot_surface(x, y, np.log10(loss), cmap="viridis", vmin=low, vmax=high, **drawn)
    axes.set_zlim(low, high)
    axes.set_box_aspect(None, zoom=1.12)  # else there is more white than surface
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.set_zlabel("log10 loss", fontsize=7)
