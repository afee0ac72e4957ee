"""Signals forwards and gradients backwards, layer by layer, at first and along training (paper, section 4.1).

The paper argues that plain networks do not degrade for want of gradients: with batch norm, signals forwards keep
their variance and gradients backwards their norm. It shows no figure of that; this probe draws one.

Batch norm takes out the scale of the weights before it, so what a gradient can do for them is told by its norm
relative to theirs: weights k times as large have a gradient 1/k times as large, and turn k^2 times more slowly at the
same rate.

A gradient of healthy norm may still be of little use: where those at neighbouring inputs do not resemble each other,
a step that helps one image tells nothing about the next (Balduzzi et al., "The Shattered Gradients Problem", 2017,
arXiv 1702.08591). And no gradient passes through a ReLU that is zero on every image.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor, nn

from degrade.analysis.curves import Array, Curve
from degrade.analysis.facts import CLEAN, colour, data_name, footer
from degrade.analysis.figures import finished, legend_above, new_figure
from degrade.analysis.layers import (
    CORRELATION,
    DEAD,
    FORWARD,
    GROWTH,
    INITIAL,
    NAMES,
    NORM,
    RELATIVE,
    SIGNALS,
    WEIGHTS,
    norm_words,
)
from degrade.analysis.layers import stages as stages
from degrade.analysis.table import table
from degrade.config import Experiment
from degrade.data import ImageSet, load_images
from degrade.data.batches import single_view
from degrade.models import BasicBlock, CifarNet, VggNet
from degrade.models.activation import is_relu
from degrade.probes.probe import (
    Row,
    Shown,
    kept_or_measured,
    looked_at,
    of_first_seed,
    read,
    snapshots,
    write,
)
from degrade.probes.responses import deviations, moments, watched
from degrade.progress import through
from degrade.runs.record import RunRecord
from degrade.training import Training

#: Number of training images that are looked at, unless told otherwise.
IMAGES = 256

#: Number of images in a pass, over which batch norm takes its statistics; it is the paper's batch.
BATCH = 128

#: Standard deviation of the noise that makes an image's neighbour, as a share of that of the images' own values.
NOISE = 0.01


def look(
    records: Sequence[RunRecord],
    *,
    limit: int | None = None,
    device: str = "auto",
    complain: Callable[[str], object] = print,
) -> Shown:
    """Gradients of some runs, along training where there are snapshots; `limit` and `device` as in `gradients`.

    All seeds are measured, and the first of each network is printed and drawn.
    """
    measure = partial(gradients, limit=limit, device=device)
    curves, found = of_first_seed(records, "gradients", measure, complain=complain)
    lines = []
    for curve, rows in zip(curves, found, strict=True):
        iterations, each = stages(rows)
        lines += [(f"{curve.label} at {iterations[k]:,}", each[k]) for k in sorted({0, len(each) - 1})]
    draw = draw_last if len(lines) == len(curves) else draw_heat_maps
    return Shown(_text("network at iteration", lines), draw(curves, found), "gradients.png")


def look_initial(experiments: Sequence[Experiment], folder: Path, *, limit: int | None = None) -> Shown:
    """Networks before their first update; their table is kept in a folder, and `limit` is as in `gradients`."""
    images = {key: load_images(data) for key, data in {repr(own.data): own.data for own in experiments}.items()}
    told = {"model.family", "model.norm", "model.init", "model.depth", "name", "output"}  # other columns tell them
    settings = [{k: v for k, v in own.flat().items() if k not in told} for own in experiments]
    rows: list[Row] = []
    bar = through(experiments, "networks before training", total=len(experiments))
    for experiment, own in zip(bar, settings, strict=True):
        model, data = experiment.model, experiment.data
        extra = [f"{k}={v}" for k, v in own.items() if any(other[k] != v for other in settings)]
        network: Row = {"family": model.family, "norm": model.norm, "network": ", ".join([model.init, *extra])}
        network |= {"depth": model.depth, "data": data.name, "images": limit or IMAGES}
        rows += [{**network, **row} for row in initial_gradients(experiment, images[repr(data)], limit=limit)]
    write(folder / INITIAL, rows)
    (shown,) = looked_at_first(folder)
    return shown


def looked_at_first(folder: Path) -> list[Shown]:
    """What `look_initial` found in a folder; empty where nothing was looked at."""
    networks: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in read(folder / INITIAL):
        key = (str(row["family"]), str(row["norm"]), str(row["network"]), int(row["depth"]))
        networks.setdefault(key, []).append(row)
    if not networks:
        return []
    profiles = [
        Profile(_panel(family, norm), f"{kind}, {depth}", kind, depth, rows)
        for (family, norm, kind, depth), rows in networks.items()
    ]
    text = _text("network", [(f"{own.panel}, {own.label}", own.rows) for own in profiles])
    data = "/".join(sorted({data_name(str(own.rows[0]["data"])) for own in profiles}))
    below = f"{data} data; {what([own.rows for own in profiles], norm_words(key[:2] for key in networks))}"
    figure = draw_profiles(profiles, below, title="Before the first update, by initial weights and depth")
    return [Shown(text, figure, "gradients-initial.png")]


def _text(head: str, lines: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """Norms of the gradients and growth of the weights' norms, from the least of all layers to the greatest."""
    columns = {"responses": (SIGNALS, ".0e"), "weights": (WEIGHTS, ".0e"), "relative": (RELATIVE, ".0e")}
    said = "norms of gradients, least..greatest layer: of responses, weights, and the latter\nrelative to the weights"
    if _is_known(GROWTH, (row for _, own in lines for row in own)):
        said += "; growth: norm of the weights over the initial one"
        columns |= {"relative": (RELATIVE, ".1e"), "growth": (GROWTH, ".3g")}  # there is room, since names are short
    parts = [said, _least_to_greatest(head, lines, columns)]
    before_logits = [(f"{label}:", own[:-1]) for label, own in lines if all(CORRELATION in row for row in own)]
    if before_logits:  # records of earlier versions lack the columns
        parts += [
            f"\ncorrelation: cosine of gradients at an image and with noise of {NOISE:g} of its",
            "deviation; dead: share of ReLUs zero on every image; both without the logits",
        ]
        further = {"correlation": (CORRELATION, ".2f"), "dead": (DEAD, ".2f")}
        parts.append(_least_to_greatest(head.removesuffix(" at iteration"), before_logits, further))
    return "\n".join(parts)


def _is_known(quantity: str, rows: Iterable[Row]) -> bool:
    return any(math.isfinite(float(row.get(quantity, math.nan))) for row in rows)


def _least_to_greatest(
    head: str, lines: Sequence[tuple[str, Sequence[Row]]], columns: Mapping[str, tuple[str, str]]
) -> str:
    """A table with a line for each network: its label, and over its layers the quantities that columns name."""
    rows = [
        [label, *(_over_layers([float(row[key]) for row in own], form) for key, form in columns.values())]
        for label, own in lines
    ]
    return table([head, *columns], rows, "text")


def _over_layers(values: Sequence[float], form: str) -> str:
    """The least and the greatest; where one is not finite, that one as the greatest."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "-"
    beyond = next((value for value in values if not math.isfinite(value)), max(finite))
    return f"{min(finite):{form}}..{beyond:{form}}"


def gradients(record: RunRecord, *, limit: int | None = None, device: str = "auto") -> list[Row]:
    """A row for each weighted layer of a run's network at each of its snapshots, and at its last checkpoint.

    Columns: `snapshot` (iteration), then those of `layer_gradients`, then `count` of images.

    Args:
        record: the run; the rows are kept in its `probes/gradients.csv`.
        limit: use only the first `limit` training images; None means 256.
        device: as `runtime.device`.

    Raises:
        RunError: the run has neither weights to look into nor such rows.
    """

    def measure(training: Training, _: list[Row]) -> Iterator[list[Row]]:
        images, labels = _images(training, limit)
        rows: list[Row] = []
        for iteration in snapshots(record, training):
            found = layer_gradients(training.engine.model, images, labels)
            rows += [{"snapshot": iteration, **row, "count": len(labels)} for row in found]
        yield rows

    return kept_or_measured(record, "gradients", {"images": limit or IMAGES}, measure, device)


def initial_gradients(experiment: Experiment, images: ImageSet, *, limit: int | None = None) -> list[Row]:
    """The rows of `layer_gradients`, and `count` of images, for a network before its first update on the images."""
    training = Training(experiment, images)
    looked, labels = _images(training, limit)
    return [{**row, "count": len(labels)} for row in layer_gradients(training.engine.model, looked, labels)]


def layer_gradients(model: nn.Module, images: Tensor, labels: Tensor, *, noise: float = NOISE) -> list[Row]:
    """What goes through each weighted layer of a network, forwards and backwards, in train mode.

    A layer's response is its output after batch norm, before ReLU and addition; the last layer's are the logits.
    Rows hold `layer` (from 1) and `name`; `weight_gradient`, the Euclidean norm of the mean loss' gradient with
    respect to the layer's weights, `weight_norm`, that of the weights, and `relative_gradient`, the quotient;
    `response_gradient`, the norm of the gradient of the batch's summed loss with respect to one image's response,
    root mean square over images (in train mode the losses of a batch's other images depend on that response too);
    `response_std` over images, channels and places; `gradient_correlation`, the cosine between that gradient of one
    image's response and the one at a neighbouring input, from -1 to 1, mean over the images where neither is zero;
    `dead`, the share of the ReLU's units (a channel at a place) that are zero on every image, from 0 to 1. The ReLU
    is the one that the layer's response goes into: for the second convolution of a residual block, after the
    addition; the logits have no ReLU, and `dead` is nan there, as in a network that is neither plain, residual nor
    VGG, or has another nonlinearity. Values that overflow are inf or nan.

    Args:
        model: the network; it is not changed, batch norm's running statistics included.
        images: float N x 3 x S x S, mean already subtracted; they pass in batches of 128.
        labels: int64 N.
        noise: the neighbours are the images and Gaussian noise of a fixed seed, whose standard deviation is this
            share of that of all values in `images`; they pass in the same batches.
    """
    model = copy.deepcopy(model).train()
    model.recompute = False  # type: ignore[assignment] # each response is to be seen once
    model.zero_grad(set_to_none=True)
    neighbour = copy.deepcopy(model)  # by itself, so that its gradients are not added to the weights'
    layers = list(weighted_layers(model))
    sums = torch.zeros((len(layers), 3), dtype=torch.float64, device=labels.device)
    squares = torch.zeros(len(layers), dtype=torch.float64, device=labels.device)
    cosines = torch.zeros((len(layers), 2), dtype=torch.float64, device=labels.device)
    gradients: dict[int, Tensor] = {}
    alive: dict[int, Tensor] = {}

    def see(place: int, output: Tensor) -> None:
        def back(gradient: Tensor) -> None:
            squares[place] += gradient.double().square().sum()
            gradients[place] = gradient

        sums[place] += moments(output)
        output.register_hook(back)  # type: ignore[no-untyped-call] # of the values as they are now, before the ReLU

    def see_neighbour(place: int, output: Tensor) -> None:
        def back(gradient: Tensor) -> None:
            cosines[place] += _cosines(gradients.pop(place), gradient)

        output.register_hook(back)  # type: ignore[no-untyped-call]

    def see_units(place: int, output: Tensor) -> None:
        units = ~(output.detach() <= 0).all(dim=0)  # what is not a number is not zero
        alive[place] = alive[place] | units if place in alive else units

    def backwards(network: nn.Module, batch: Tensor, wanted: Tensor) -> None:
        loss = F.cross_entropy(network(batch), wanted, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]

    responses, others = ([response for _, _, response in weighted_layers(own)] for own in (model, neighbour))
    chance, deviation = torch.Generator().manual_seed(0), noise * float(images.std(correction=0))
    with watched(responses, see), watched(others, see_neighbour), watched(_rectified(model), see_units):
        for batch, wanted in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            # Noise is drawn on the CPU, so that it is the same for every device.
            drawn = torch.randn(batch.shape, generator=chance, dtype=images.dtype).to(batch.device)
            backwards(model, batch, wanted)
            backwards(neighbour, batch + deviation * drawn, wanted)
    norms = (squares / len(labels)).sqrt().tolist()
    correlations = [total / count if count else math.nan for total, count in cosines.tolist()]
    rows: list[Row] = []
    for k, ((name, weight, _), std) in enumerate(zip(layers, deviations(sums), strict=True)):
        assert weight.grad is not None  # noqa: S101 - for mypy
        norm, own = weight.grad.double().norm() / len(labels), weight.detach().double().norm()
        dead = 1 - float(alive[k].double().mean()) if k in alive else math.nan
        row: Row = {"layer": k + 1, "name": name, WEIGHTS: float(norm), RELATIVE: float(norm / own)}
        row |= {NORM: float(own), SIGNALS: norms[k], FORWARD: std, CORRELATION: correlations[k], DEAD: dead}
        rows.append(row)
    return rows


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """Sum over images of the cosine between two gradients, N x ..., and the number of images where it has a value."""
    a, b = one.flatten(1).double(), other.flatten(1).double()
    lengths = a.norm(dim=1) * b.norm(dim=1)
    known = lengths != 0
    return torch.stack([((a * b).sum(dim=1)[known] / lengths[known]).sum(), known.sum().double()])


def _rectified(model: nn.Module) -> list[nn.Module]:
    """For each weighted layer but the last a module whose output is above zero where that of the layer's ReLU is.

    It is the module of the layer's response; for a residual block's second convolution it is the block, which ends
    with the ReLU. Empty where that is not known, or where there is no ReLU.
    """
    if not isinstance(model, CifarNet | VggNet) or not is_relu(model.activate):
        return []
    modules: list[nn.Module] = []
    for name, _, response in weighted_layers(model):
        block = model.get_submodule(name.rpartition(".")[0])
        added = isinstance(block, BasicBlock) and block.residual and response is block.bn2
        modules.append(block if added else response)
    return modules[:-1]


def weighted_layers(model: Any) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Name, weights and the module of the response of each layer but 1x1 shortcuts, in the order of their work."""
    for name, convolution, norm in model.convolutions():
        yield name, convolution.weight, norm
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module.weight, module


def _images(training: Training, limit: int | None) -> tuple[Tensor, Tensor]:
    batches, count = training.batches, limit or IMAGES
    return single_view(batches.pixels[:count], batches.mean), batches.labels[:count]


class Profile(NamedTuple):
    """One network at one moment, to be drawn as a line over its layers.

    Its panel names family and norm. Its kind, initial weights and what else sets it apart, gives the colour, as depth
    gives the stroke.
    """

    panel: str
    label: str
    kind: str
    depth: int
    rows: Sequence[Row]


def draw_last(curves: Sequence[Curve], found: Sequence[Sequence[Row]]) -> Figure:
    """`draw_profiles` of trained networks, each of one seed, at their last checkpoint: the rows of `gradients`."""
    profiles = [
        Profile(_panel(c.family, c.experiment.model.norm), c.label, c.extra, c.depth, stages(rows)[1][-1])
        for c, rows in zip(curves, found, strict=True)
    ]
    text = f"{what(found, _norms(curves))}\n{footer(curves, banded=False)}"
    return draw_profiles(profiles, text, title="Trained networks at their last checkpoint")


def _panel(family: str, norm: str) -> str:
    return f"{family}, {'no' if norm == 'none' else norm} norm"


def draw_profiles(profiles: Sequence[Profile], text: str, *, title: str) -> Figure:
    """Responses forwards (top) and gradients backwards (below) over layers; a column for each family and norm.

    The text stands below the panels, and the title above them, over the legend.
    """
    quantities = (FORWARD, SIGNALS, RELATIVE)
    panels = sorted({profile.panel for profile in profiles})
    kinds = list(dict.fromkeys(profile.kind for profile in profiles))
    depths = sorted({profile.depth for profile in profiles})
    figure, axes = new_figure(len(quantities), len(panels), (max(4.2, 1.2 + 1.6 * len(panels)), 7.4))
    for place, each in enumerate(axes):
        row, column = divmod(place, len(panels))
        quantity = quantities[row]
        low, high = _range([_values(profile.rows, quantity) for profile in profiles])
        each.set_yscale("log")
        each.set_ylim(low, high)
        for profile in (p for p in profiles if p.panel == panels[column]):
            kind, stroke = kinds.index(profile.kind), ("--", "-", ":", "-.")[depths.index(profile.depth) % 4]
            width = max(1.0, 2.0 - 0.5 * kind)  # lines that others cover are seen below them
            style = {"color": colour(kind), "linestyle": stroke, "linewidth": width, "label": profile.label}
            _line(each, _values(profile.rows, quantity), **style)
        if row == 0:
            each.set_title(panels[column], fontsize=9)
        if row == len(quantities) - 1:
            each.set_xlabel("layer")
        else:
            each.tick_params(labelbottom=False)
        if column == 0:
            each.set_ylabel(NAMES[quantity])
        else:
            each.tick_params(labelleft=False)
    lines = {str(line.get_label()): line for each in axes for line in each.get_lines()}
    handles = [lines[label] for label in dict.fromkeys(p.label for p in sorted(profiles, key=lambda p: p.kind))]
    legend_above(figure, handles, len(kinds) if 1 < len(kinds) < 5 else 4, title)
    every = [_values(profile.rows, quantity) for profile in profiles for quantity in quantities]
    return finished(figure, text + _beyond(every, "triangles: beyond the axis, or"), None)


def draw_heat_maps(curves: Sequence[Curve], found: Sequence[Sequence[Row]]) -> Figure:
    """Gradients and weights of each layer (upwards) along training (to the right), a row for each quantity.

    Each network, of one seed, has a column, and `found` has for each the rows of `gradients`.
    """
    along = [stages(rows) for rows in found]
    rows = [row for _, each in along for own in each for row in own]
    last = [quantity for quantity in (GROWTH, DEAD) if _is_known(quantity, rows)]
    quantities = (SIGNALS, WEIGHTS, RELATIVE, *last)
    size = (max(4.2, 1.5 + 1.8 * len(curves)), 1.3 + 1.9 * len(quantities))
    figure, axes = new_figure(len(quantities), len(curves), size, grid=False, box=True)
    every: list[Array] = []
    for row, quantity in enumerate(quantities):
        maps = [np.stack([_values(own, quantity) for own in each], axis=1) for _, each in along]
        own = axes[row * len(curves) : (row + 1) * len(curves)]
        norm: Normalize = LogNorm(*_range(maps))
        if quantity == GROWTH:  # at least a factor of two, so that little growth looks like little
            shown = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in maps])
            norm = LogNorm(float(shown.min()), max(float(shown.max()), 2 * float(shown.min())))
        elif quantity == DEAD:  # at least a tenth, likewise
            norm = Normalize(0, max(0.1, *(float(np.nanmax(values, initial=0.0)) for values in maps)))
        for each, (iterations, _), values in zip(own, along, maps, strict=True):
            mesh = _heat_map(each, iterations, values, norm)
            each.tick_params(labelbottom=row == len(quantities) - 1)
        bar = figure.colorbar(mesh, ax=own, label=NAMES[quantity], pad=0.01, aspect=15)
        if quantity == GROWTH:
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.minorticks_off()
        own[0].set_ylabel("layer")
        every += maps if quantity != DEAD else []
    for each, curve in zip(axes, curves, strict=False):
        each.set_title(f"{curve.label}, seed {next(iter(curve.seeds))}\n{_error(curve)}", fontsize=8)
    for each in axes[-len(curves) :]:
        each.set_xlabel("iteration")
    dead = "; ReLUs: a channel at a place; grey in their row: without a ReLU, or not measured" if DEAD in last else ""
    text = f"{what(found, _norms(curves))}{_beyond(every, 'grey:')}{dead}\n{footer(curves, banded=False)}"
    return finished(figure, text, "Gradients and weights of each layer along training")


def _norms(curves: Sequence[Curve]) -> str:
    return norm_words((curve.family, curve.experiment.model.norm) for curve in curves)


def what(found: Sequence[Sequence[Row]], norm: str) -> str:
    """The note below a figure of such rows that says what the numbers are, and after which norm."""
    images = " or ".join(sorted({looked_at(rows, "training") for rows in found}))
    return (
        f"response: output after {norm}, before ReLU and addition; its gradient: that of the batch's summed loss "
        "in train mode with respect to one image's response, root mean square over images; gradient of the weights: "
        f"that of the mean loss; of gradients and weights the Euclidean norm; {images}, un-augmented, {BATCH} at a "
        "time; fp32"
    )


def _values(rows: Sequence[Row], quantity: str) -> Array:
    return np.array([float(row.get(quantity, math.nan)) for row in rows])


def _range(values: Sequence[Array]) -> tuple[float, float]:
    """Limits of an axis of powers of ten: all that is drawn, but no more than 1e-12 to 1e12."""
    flat = np.concatenate([own.ravel() for own in values])
    shown = np.clip(flat[np.isfinite(flat) & (flat > 0)], 1e-12, 1e12)
    if not shown.size:
        return 1e-12, 1.0
    low, high = 10 ** math.floor(math.log10(shown.min())), 10 ** math.ceil(math.log10(shown.max()))
    return low, high if high > low else 10 * low


def _line(axes: Axes, values: Array, **style: Any) -> None:
    """Draw a line over layers; for each value beyond the axis a triangle at the edge says on which side."""
    layers = np.arange(1, len(values) + 1)
    low, high = axes.get_ylim()
    drawn = np.isfinite(values) & (values > 0)
    axes.plot(layers, np.where(drawn, values, np.nan), **style)
    for gone, edge, mark in ((values < low, 0.02, "v"), (~(values <= high), 0.98, "^")):
        if gone.any():
            marks = {"color": style["color"], "markersize": 2.5, "linestyle": "none"}
            at_edge = axes.get_xaxis_transform()
            axes.plot(layers[gone], np.full(gone.sum(), edge), mark, transform=at_edge, **marks)


def _heat_map(axes: Axes, iterations: Sequence[int], values: Array, norm: Normalize) -> Any:
    """Draw columns of equal width, since snapshots are more or less evenly spaced in the logarithm."""
    shown = np.ma.masked_where(~np.isfinite(values) | ((values <= 0) & isinstance(norm, LogNorm)), values)
    axes.set_facecolor("0.75")
    places, layers = np.arange(len(iterations) + 1), np.arange(len(values) + 1) + 0.5
    mesh = axes.pcolormesh(places, layers, shown, norm=norm, cmap="viridis", rasterized=True)
    step = -(-len(iterations) // 6)
    ticks = sorted({*range(0, len(iterations) - step, step), len(iterations) - 1})
    axes.set_xticks([k + 0.5 for k in ticks], [f"{iterations[k]:,}" for k in ticks], rotation=45)
    return mesh


def _beyond(values: Sequence[Array], mark: str) -> str:
    """A note on values that no axis of powers of ten can show, after the words for their mark; empty without any."""
    flat = np.concatenate([own.ravel() for own in values])
    parts = [(flat == 0).any() and "zero, too small for fp32", not np.isfinite(flat).all() and "not finite"]
    found = " or ".join(part for part in parts if part)
    return f"; {mark} {found}" if found else ""


def _error(curve: Curve) -> str:
    """The clean training error in words; where there is none, what became of the run."""
    return f"{np.mean(curve.clean_train):.1%} {CLEAN}" if curve.clean_train else curve.remark or "unfinished"
