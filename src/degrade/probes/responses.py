"""How strongly each layer responds: standard deviations of the 3x3 convolutions' outputs (paper, Figure 7)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from tqdm import tqdm

from degrade.analysis.curves import Curve
from degrade.analysis.figures import COLOURS, finished, footer, new_figure
from degrade.data.batches import single_view
from degrade.probes.numbers import Row, kept_or_measured, subject
from degrade.runs.record import RunRecord

#: Images in CIFAR-10's test set, and the name of all of them in the numbers.
ALL = 0


def responses(record: RunRecord, *, limit: int | None = None, device: str = "auto") -> list[Row]:
    """A row for each 3x3 convolution of a run's network: `layer` (from 1), `name`, `std`.

    The response is the output after batch norm, before ReLU or addition, in eval mode, over the test images; its
    standard deviation is over images, channels and places together.

    Args:
        record: the run; the rows are kept in its `probes/responses.csv`.
        limit: use only the first so many test images; None: all.
        device: as `runtime.device`.

    Raises:
        RunError: the run has neither a checkpoint nor such rows.
    """

    def measure() -> list[Row]:
        training = subject(record, device)
        images, mean = training.test[0][:limit], training.batches.mean
        layers = list(training.engine.model.convolutions())
        size = training.engine.evaluation_size
        batches = (single_view(images[k : k + size], mean) for k in range(0, len(images), size))
        bar = tqdm(batches, str(record.path), total=-(-len(images) // size), leave=False, disable=None)
        found = standard_deviations(training.engine.model.eval(), [norm for _, _, norm in layers], bar)
        return [
            {"layer": k, "name": name, "std": std}
            for k, ((name, _, _), std) in enumerate(zip(layers, found, strict=True), start=1)
        ]

    return kept_or_measured(record, "responses", {"images": limit or ALL}, measure)


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
    """Responses in the order of layers (top) and by size (bottom), a line a network, mean over seeds (Figure 7).

    Args:
        curves: the networks.
        found: for each network, for each seed, the rows of `responses`.
    """
    figure, (ordered, by_size) = new_figure(2, 1, (7.2, 6.0))
    for k, (curve, seeds) in enumerate(zip(curves, found, strict=True)):
        std = np.mean([[float(row["std"]) for row in rows] for rows in seeds], axis=0)
        style: dict[str, Any] = {"color": COLOURS[k % len(COLOURS)], "linewidth": 1.4, "marker": ".", "markersize": 4}
        style["linestyle"] = "--" if curve.family == "plain" else "-"
        ordered.plot(range(1, len(std) + 1), std, label=curve.label, **style)
        by_size.plot(range(1, len(std) + 1), sorted(std, reverse=True), label=curve.label, **style)
    ordered.set_xlabel("layer, in order")
    by_size.set_xlabel("layers, sorted by size")
    for axes in (ordered, by_size):
        axes.set_ylabel("std of the response")
        low, high = axes.dataLim.intervaly
        if high > 10 * low:  # or those near one could not be told apart
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend()
    images = {int(row["images"]) for seeds in found for rows in seeds for row in rows[:1]}
    which = " or ".join("all test images" if n == ALL else f"the first {n:,} test images" for n in sorted(images))
    what = f"3x3 convolutions after batch norm, before ReLU and addition; eval mode, {which}"
    return finished(figure, f"{what}\n{footer(curves, banded=False)}", None)
