"""How strongly each layer responds: standard deviations of the 3x3 convolutions' outputs (paper, Figure 7)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from degrade.analysis.curves import Array, Curve
from degrade.analysis.facts import footer, several, signs
from degrade.analysis.figures import fill_band, finished, logarithmic, new_figure
from degrade.analysis.layers import norm_words
from degrade.analysis.table import table
from degrade.probes.probe import Row, Shown, batches, kept_or_measured, looked_at, networks, of_each_seed
from degrade.runs.record import RunRecord
from degrade.training import Training


def look(
    records: Sequence[RunRecord],
    *,
    limit: int | None = None,
    device: str = "auto",
    complain: Callable[[str], object] = print,
) -> Shown:
    """The layers' responses of some runs as a table and a figure; `limit` and `device` as in `responses`."""
    curves = networks(records, "responses", complain=complain)
    found = of_each_seed(curves, lambda record: responses(record, limit=limit, device=device))
    rows = []
    for curve, seeds in zip(curves, found, strict=True):
        stds = [[float(row["std"]) for row in own] for own in seeds]
        layers = ([pick(own) for own in stds] for pick in (min, median, max))
        rows.append([f"{curve.label}{curve.suffix}", str(len(seeds)), *map(_over_seeds, layers)])
    text = table(["network", "seeds", "least layer", "median layer", "greatest layer"], rows, "text")
    if any(len(seeds) > 1 for seeds in found):
        text = f"standard deviation of the response: median of the seeds, least-greatest seed\n{text}"
    return Shown(text, draw_responses(curves, found), "responses.png")


def _over_seeds(values: Sequence[float]) -> str:
    """The median, and the least and the greatest of several."""
    return f"{median(values):#.3g}" + (f" {min(values):#.3g}-{max(values):#.3g}" if len(values) > 1 else "")


def responses(record: RunRecord, *, limit: int | None = None, device: str = "auto") -> list[Row]:
    """A row for each 3x3 convolution of a run's network: `layer` (from 1), `name`, `std`, and `count` of images.

    The response is the output after batch norm, before ReLU or addition, in eval mode, over the test images; its
    standard deviation is over images, channels and places together.

    Args:
        record: the run; the rows are kept in its `probes/responses.csv`.
        limit: use only the first `limit` test images; None uses all.
        device: as `runtime.device`.

    Raises:
        RunError: the run has neither weights to look into nor such rows.
    """

    def measure(training: Training, _: list[Row]) -> Iterator[list[Row]]:
        model, layers = training.engine.model.eval(), list(training.engine.model.convolutions())
        pixels, labels = (own[:limit] for own in training.test)
        sums = torch.zeros((len(layers), 3), dtype=torch.float64, device=labels.device)

        def see(place: int, output: Tensor) -> None:
            sums[place] += moments(output)

        with torch.inference_mode(), watched([norm for _, _, norm in layers], see):
            for images, _labels in batches(training, pixels, labels, str(record.path)):
                model(images)
        stds = zip(layers, deviations(sums), strict=True)
        yield [
            {"layer": k, "name": name, "std": std, "count": len(labels)}
            for k, ((name, _, _), std) in enumerate(stds, start=1)
        ]

    return kept_or_measured(record, "responses", {"images": limit or 0}, measure, device)


@contextmanager
def watched(modules: Sequence[nn.Module], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `see` with a module's place in the sequence and its output whenever it has given one.

    It must look at once, because the ReLU that follows works in place.
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

    For each network, `found` has the rows of `responses` of each seed.
    """
    figure, (ordered, by_size) = new_figure(2, 1, (7.2, 6.4))
    strokes = ("--", "-", ":", "-.")[all(curve.family != "plain" for curve in curves) :]
    for curve, seeds, (shade, sign) in zip(curves, found, signs(curves), strict=True):
        std = np.array([[float(row["std"]) for row in rows] for rows in seeds])
        style = {"color": shade, "linestyle": strokes[sign % len(strokes)]}
        style["label"] = f"{curve.label}{several(len(seeds))}{curve.suffix}"
        _band(ordered, std, **style)
        _band(by_size, -np.sort(-std, axis=1), **style)
    ordered.set_xlabel("layer, in order")
    by_size.set_xlabel("rank of the layer, largest response first")
    for axes in (ordered, by_size):
        axes.set_ylabel("standard deviation of the response")
        low, high = axes.dataLim.intervaly
        if high > 10 * low:  # otherwise the small ones could not be told apart
            logarithmic(axes, low, high)
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    images = " or ".join(sorted({looked_at(rows, "test") for seeds in found for rows in seeds}))
    norm = norm_words((curve.family, curve.experiment.model.norm) for curve in curves)
    size = "3x3 " if norm == "batch norm" else ""
    what = f"response: output of a {size}convolution after {norm}, before ReLU and addition; eval mode, {images}"
    title = f"Response of each {size or 'convolutional '}layer"
    if any(len(seeds) > 1 for seeds in found):
        title += ": median of the seeds, and their range"
        what += "; band: least to greatest seed; below, the layers of each seed are sorted by themselves"
    return finished(figure, f"{what}\n{footer(curves, banded=False)}", title)


def _band(axes: Axes, std: Array, **style: Any) -> None:
    """Draw the median over seeds as a line over layers, and the seeds' range as a band; `std` is seeds x layers."""
    layers = range(1, std.shape[1] + 1)
    axes.plot(layers, np.median(std, axis=0), linewidth=1.4, marker=".", markersize=4, **style)
    if len(std) > 1:
        fill_band(axes, layers, std.min(axis=0), std.max(axis=0), style["color"])
