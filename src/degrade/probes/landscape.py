"""The loss around a trained network, along two random directions (Li et al., Visualizing the Loss Landscape, 2018).

A direction is drawn from a normal distribution, and each of its filters scaled to the norm of the network's filter
(a row of the linear layer counts as one), so that flat and sharp mean the same for networks of other scales. Biases
and batch norm's scale and shift stay as they are, and so do its running statistics: the loss is in eval mode.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from degrade.analysis.curves import Array, Curve
from degrade.analysis.figures import finished, footer
from degrade.data.batches import single_view
from degrade.errors import ConfigError, RunError
from degrade.probes.numbers import Row, numbers_path, read, subject, write
from degrade.runs.record import RunRecord
from degrade.training import Training, checkpoint

#: A network's parameters, or a direction among them.
Weights = list[Tensor]

#: Drawn no higher than this: ten times what guessing among ten classes costs.
CEILING = 10 * math.log(10)


def landscape(
    record: RunRecord, *, grid: int = 15, span: float = 0.5, seed: int = 0, limit: int = 300, device: str = "auto"
) -> list[Row]:
    """Loss and error at each point of a grid around a run's network: `a`, `b`, `loss`, `error` (a fraction).

    A point is the network's weights plus `a` times one direction and `b` times the other. Points are kept in the
    run's `probes/` as they are found: stopped, the same call goes on.

    Args:
        record: the run.
        grid: points along each direction, odd, so that the network itself is one.
        span: how far the grid reaches, in units of the filters' norms.
        seed: draws the directions; those of plain and residual networks of one depth are alike but for their scale.
        limit: training images, the first so many, un-augmented.
        device: as `runtime.device`.

    Raises:
        ConfigError: the grid is even or too small, or the span is none.
        RunError: points are missing and there is no checkpoint.
    """
    if not 3 <= grid < 1000 or grid % 2 == 0:
        raise ConfigError(
            f"--grid {grid}: give an odd number from 3 to 999, so that the network itself is in the middle"
        )
    if not (math.isfinite(span) and span > 0):
        raise ConfigError(f"--span {span}: must be a number above 0")
    path = numbers_path(record, f"landscape-grid{grid}-span{span:g}-seed{seed}-images{limit}")
    iteration = int(record.summary.get("iteration") or 0)
    rows = [row for row in read(path) if row["iteration"] == iteration]
    if len(rows) == grid**2:
        return rows
    if not checkpoint.candidates(record.path):
        raise RunError(f"{record.path}: has no checkpoint to look into; train it again with --fresh")
    loss = _loss_around(subject(record, device), seed, limit)
    steps = np.linspace(-span, span, grid).tolist()
    places = [(a, b) for a in steps for b in steps]
    bar = tqdm(places[len(rows) :], str(record.path), grid**2, initial=len(rows), leave=False, disable=None)
    for a, b in bar:
        found, error = loss(a, b)
        rows.append({"a": a, "b": b, "loss": found, "error": error, "iteration": iteration})
        write(path, rows)  # all of them, whole at any moment; it costs nothing beside a point
    return rows


def _loss_around(training: Training, seed: int, limit: int) -> Callable[[float, float], tuple[float, float]]:
    """Loss and error of a trained network as a function of the place on the plane of two directions."""
    model, mean, size = training.engine.model.eval(), training.batches.mean, training.engine.evaluation_size
    pixels, labels = training.batches.pixels[:limit], training.batches.labels[:limit]
    centre = [parameter.detach().clone() for parameter in model.parameters()]
    generator = torch.Generator().manual_seed(seed)
    first, second = (direction(centre, generator) for _ in range(2))

    @torch.inference_mode()
    def loss(a: float, b: float) -> tuple[float, float]:
        move(model, centre, [(a, first), (b, second)])
        total = wrong = 0.0
        for start in range(0, len(labels), size):
            logits = model(single_view(pixels[start : start + size], mean))
            own = labels[start : start + size]
            total += float(F.cross_entropy(logits, own, reduction="sum"))
            wrong += int((logits.argmax(1) != own).sum())
        return total / len(labels), wrong / len(labels)

    return loss


def direction(weights: Weights, generator: torch.Generator) -> Weights:
    """A random direction, filter by filter as long as the weights; 0 for biases and batch norm.

    Args:
        weights: the network's parameters.
        generator: on the CPU, so that every device draws the same.
    """
    return [_filters(weight, generator) if weight.dim() > 1 else torch.zeros_like(weight) for weight in weights]


def _filters(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(weight.shape, generator=generator).to(weight.device)
    norms = [tensor.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)) for tensor in (weight, drawn)]
    drawn *= norms[0] / norms[1]
    return drawn


def move(model: nn.Module, centre: Weights, steps: Sequence[tuple[float, Weights]]) -> None:
    """Set a network's parameters to a centre plus multiples of directions."""
    for place, parameter in enumerate(model.parameters()):
        parameter.copy_(centre[place] + sum(step * along[place] for step, along in steps))


def draw_landscape(curves: Sequence[Curve], found: Sequence[Sequence[Row]], facts: str) -> Figure:
    """A column a network: contours of the loss above, the surface below, on scales that all share.

    Args:
        curves: the networks; the first seed of each is drawn.
        found: for each the rows of `landscape`.
        facts: of the directions and images, for the footer.
    """
    figure = Figure(figsize=(max(4.0, 3.4 * len(curves)), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    planes = [_plane(rows) for rows in found]
    lowest = min(float(loss.min()) for *_, loss in planes)
    highest = max(float(loss.max()) for *_, loss in planes)
    levels = np.geomspace(lowest, max(highest, 1.01 * lowest), 16)
    above = []
    for k, (curve, (a, b, loss)) in enumerate(zip(curves, planes, strict=True), start=1):
        flat = figure.add_subplot(2, len(curves), k)
        shades = _contours(flat, a, b, loss, levels)
        flat.set_title(f"{curve.label}: loss {loss[len(loss) // 2, len(loss) // 2]:.3g} in the middle", fontsize=9)
        above.append(flat)
        _surface(figure.add_subplot(2, len(curves), len(curves) + k, projection="3d"), a, b, loss, levels)
    bar = figure.colorbar(
        shades,
        ax=above,
        label="loss" if highest < CEILING else f"loss ({CEILING:.3g}: or more)",
        ticks=levels[::3],
        format="{x:.3g}",
    )
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    return finished(figure, f"{facts}\n{footer(curves, banded=False)}", None)


def _plane(rows: Sequence[Row]) -> tuple[Array, Array, Array]:
    """Places along both directions, and the loss there, G x G, where it is too high or none the ceiling."""
    a, b = (np.array(sorted({float(row[key]) for row in rows})) for key in ("a", "b"))
    loss = np.array([float(row["loss"]) for row in rows]).reshape(len(a), len(b))
    return a, b, np.minimum(np.nan_to_num(loss, nan=CEILING, posinf=CEILING), CEILING)


def _contours(axes: Axes, a: Array, b: Array, loss: Array, levels: Array) -> QuadContourSet:
    shades = axes.contourf(a, b, loss.T, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis")
    axes.contour(a, b, loss.T, levels=levels, colors="0.2", linewidths=0.4)
    axes.plot(0, 0, color="white", marker="+", markersize=7)
    axes.set_aspect("equal")
    axes.set_xlabel("first direction")
    axes.set_ylabel("second direction")
    return shades


def _surface(axes: Any, a: Array, b: Array, loss: Array, levels: Array) -> None:
    """The logarithm of the loss as height: matplotlib has no logarithmic axes in 3D."""
    x, y = np.meshgrid(a, b, indexing="ij")
    low, high = np.log10(levels[0]), np.log10(levels[-1])
    drawn = {"linewidth": 0.2, "edgecolor": "0.3", "rcount": len(a), "ccount": len(b)}
    axes.plot_surface(x, y, np.log10(loss), cmap="viridis", vmin=low, vmax=high, **drawn)
    axes.set_zlim(low, high)
    axes.set_zlabel("log10 loss", fontsize=7)
