"""How strongly each layer responds: standard deviations of the 3x3 convolutions' outputs (paper, Figure 7)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor, nn
from tqdm import tqdm

from degrade.analysis.curves import Array, Curve
from degrade.analysis.figures import COLOURS, finished, footer, new_figure
from degrade.data.batches import single_view
from degrade.probes.numbers import Row, kept_or_measured, looked_at
from degrade.runs.record import RunRecord
from degrade.training import Training

#: How the numbers name all test images.
ALL = 0


def responses(record: RunRecord, *, limit: int | None = None, device: str = "auto") -> list[Row]:
    """A row for each 3x3 convolution of a run's network: `layer` (from 1), `name`, `std`, and `count` of images.

    The response is the output after batch norm, before ReLU or addition, in eval mode, over the test images; its
    standard deviation is over images, channels and places together.

    Args:
        record: the run; the rows are kept in its `probes/responses.csv`.
        limit: use only the first so many test images; None: all.
        device: as `runtime.device`.

    Raises:
        RunError: the run has neither a checkpoint nor such rows.
    """

    def measure(training: Training) -> list[Row]:
        images, mean = training.test[0][:limit], training.batches.mean
        layers = list(training.engine.model.convolutions())
        size = training.engine.evaluation_size
        batches = (single_view(images[k : k + size], mean) for k in range(0, len(images), size))
        bar = tqdm(batches, str(record.path), total=-(-len(images) // size), leave=False, disable=None)
        found = standard_deviations(training.engine.model.eval(), [norm for _, _, norm in layers], bar)
        return [
            {"layer": k, "name": name, "std": std, "count": len(images)}
            for k, ((name, _, _), std) in enumerate(zip(layers, found, strict=True), start=1)
        ]

    return kept_or_measured(record, "responses", {"images": limit or ALL}, measure, device)


@torch.inference_mode()
def standard_deviations(model: nn.Module, modules: Sequence[nn.Module], batches: "tqdm[Tensor]") -> list[float]:
    """Standard deviation of each module's output over all values in it, over all batches.

    Args:
        model: the network, in the mode in which it is to be looked at.
        modules: of it.
        batches: float32 N x 3 x 32 x 32 each.
    """
    sums = torch.zeros((len(modules), 3), dtype=torch.float64, device=next(model.parameters()).device)

    def see(place: int, output: Tensor) -> None:
        sums[place] += moments(output)

    with watched(modules, see):
        for batch in batches:
            model(batch)
    return deviations(sums)


@contextmanager
def watched(modules: Sequence[nn.Module], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `see` with a module's place in the sequence and its output whenever it has given one.

    It must look at once: the ReLU that follows works in place.
    """

    def watch(place: int) -> "torch.utils.hooks.RemovableHandle":
        return modules[place].register_forward_hook(lambda _, __, output: see(place, output))

    handles = [watch(place) for place in range(len(modules))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def moments(output: Tensor) -> Tensor:
    """Sum of the values, sum of their squares, and their number: float64, to be added up over batches."""
    values = output.detach().double()
    return torch.stack([values.sum(), values.square().sum(), values.new_tensor(values.numel())])


def deviations(sums: Tensor) -> list[float]:
    """Standard deviations from sums of `moments`, K x 3; NaN where a value was not finite."""
    return [math.sqrt(max(square / n - (total / n) ** 2, 0.0)) for total, square, n in sums.tolist()]


def draw_responses(curves: Sequence[Curve], found: Sequence[Sequence[Sequence[Row]]]) -> Figure:
    """Responses in the order of layers (top) and by size (bottom), a line for each network (Figure 7).

    The line is the median over seeds, and the band reaches from the least to the greatest of them: the seeds of a
    deep plain network may differ by a factor of two, of which a mean says nothing.

    Args:
        curves: the networks.
        found: for each network, for each seed, the rows of `responses`.
    """
    figure, (ordered, by_size) = new_figure(2, 1, (7.2, 6.4))
    for k, (curve, seeds) in enumerate(zip(curves, found, strict=True)):
        std = np.array([[float(row["std"]) for row in rows] for rows in seeds])
        style: dict[str, Any] = {"color": COLOURS[k % len(COLOURS)]}
        style["linestyle"] = "--" if curve.family == "plain" else "-"
        several = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
        _band(ordered, std, label=f"{curve.label}{several}", **style)
        _band(by_size, -np.sort(-std, axis=1), label=f"{curve.label}{several}", **style)
    ordered.set_xlabel("layer, in order")
    by_size.set_xlabel("rank of the layer, largest response first")
    for axes in (ordered, by_size):
        axes.set_ylabel("standard deviation of the response")
        low, high = axes.dataLim.intervaly
        if high > 10 * low:  # or those near one could not be told apart
            _logarithmic(axes, low, high)
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend()
    images = " or ".join(sorted({looked_at(rows, "test") for seeds in found for rows in seeds}))
    what = f"response: output of a 3x3 convolution after batch norm, before ReLU and addition; eval mode, {images}"
    title = "Response of each 3x3 layer"
    if any(len(seeds) > 1 for seeds in found):
        title += ": median of the seeds, and their range"
        what += "; band: least to greatest seed; below, the layers of each seed are sorted by themselves"
    return finished(figure, f"{what}\n{footer(curves, banded=False)}", title)


def _band(axes: Axes, std: Array, **style: Any) -> None:
    """The median over seeds as a line over layers, and the seeds' range as a band; seeds x layers are given."""
    layers = range(1, std.shape[1] + 1)
    axes.plot(layers, np.median(std, axis=0), linewidth=1.4, marker=".", markersize=4, **style)
    if len(std) > 1:
        axes.fill_between(layers, std.min(axis=0), std.max(axis=0), color=style["color"], alpha=0.2, linewidth=0)


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis that says more than its powers of ten, where it has few of them."""
    axes.set_yscale("log")
    if high < 1000 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
