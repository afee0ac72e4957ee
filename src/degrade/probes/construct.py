"""The constructed solution: a trained network made deeper by layers that are the identity (paper, introduction).

The deeper network computes what the shallower one does, so a deeper network with no higher training error exists;
whether SGD finds one as good is another question. The added blocks stand at the end of each stage, where neither the
map's size nor the channels change, so the shallow network's own blocks keep the stage boundaries. In an added block:

- A convolution is the identity: 1 from each channel to itself at the middle of the kernel, 0 elsewhere.
- ReLU changes nothing, because what a block is given comes from a ReLU and is not negative.
- Batch norm has the running mean and variance of its input, measured on batches of training images, and that
  mean and deviation as shift and scale: in eval mode they cancel exactly (on the CPU; elsewhere up to rounding), in
  train mode up to how a batch differs from them.
- A residual block keeps its shortcut; the scale of its second batch norm is 0, and so is its branch, in both modes.

Where the built network trains on, so does the shallow one beside it, for as long, at the same rate, from the same
weights: without this control a fall in error could be that of any network that trains longer.
"""

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from degrade.analysis.curves import Curve, error_curves
from degrade.analysis.facts import colour, footer
from degrade.analysis.figures import finished, iterations_axis, legend_above, mark_chance, new_figure
from degrade.analysis.table import aligned, error_cells
from degrade.config import Experiment, load_config
from degrade.errors import ConfigError, RunError
from degrade.models import BasicBlock, CifarNet, build_model
from degrade.probes.probe import (
    MOST,
    Row,
    Shown,
    Standing,
    batches,
    kept_or_measured,
    numbers_path,
    read,
    standing,
    subject,
    within,
)
from degrade.runs import RunRecord, run, run_directory
from degrade.training import Training
from degrade.training.schedule import scheduled_rate

log = logging.getLogger("degrade.run")

#: Training images, augmented, over which the input of the added layers is measured.
CALIBRATION = 4000

#: The settings that cannot be changed where the constructed network trains on, and the reason.
_KEPT = {
    "model": "the networks are the run's and the one built from it; --depth sets its depth",
    "data": "it trains on with the images of the run that it is built from",
    "recipe.iterations": "--continue sets them",
    "output": "its record lies beside the run that it is built from",
    "name": "its record lies beside the run that it is built from",
}

#: Mean and variance of each channel, float32.
Statistics = tuple[Tensor, Tensor]


def compare(record: RunRecord, depth: int, *, limit: int | None = None, device: str = "auto") -> list[Row]:
    """Compare the trained network with the deeper one built from it, in eval mode: one row for each set of images.

    A row holds `set` (`train`, un-augmented, or `test`), `count`, `shallow_error` and `deep_error` (fractions), and
    `largest_difference` of a logit between the two. Rows are kept in the run's `probes/construct-<depth>.csv`.

    Args:
        record: the trained network.
        depth: the depth of the deeper network, 6n + 2.
        limit: use only the first `limit` images of each set; None uses all.
        device: where to measure, as `runtime.device`.

    Raises:
        ConfigError: the depth is not greater, or not 6n + 2.
        RunError: the run has neither weights to look into nor such rows.
    """
    deeper(record, depth)

    def measure(training: Training, _: list[Row]) -> Iterator[list[Row]]:
        deep = constructed(training, depth)
        images = {"train": (training.batches.pixels, training.batches.labels), "test": training.test}
        yield [
            {"set": name, **_side_by_side(training, deep, pixels[:limit], labels[:limit], f"{record.path} {name}")}
            for name, (pixels, labels) in images.items()
        ]

    return kept_or_measured(record, f"construct-{depth}", {"depth": depth, "images": limit or 0}, measure, device)


@torch.inference_mode()
def _side_by_side(training: Training, deep: CifarNet, pixels: Tensor, labels: Tensor, name: str) -> Row:
    networks = [training.engine.model.eval(), deep.eval()]
    wrong, largest = [0, 0], 0.0
    for images, own in batches(training, pixels, labels, name):
        logits = [network(images) for network in networks]
        wrong = [count + int((found.argmax(1) != own).sum()) for count, found in zip(wrong, logits, strict=True)]
        largest = max(largest, float((logits[0] - logits[1]).abs().max()))
    row: Row = {"count": len(labels), "shallow_error": wrong[0] / len(labels), "deep_error": wrong[1] / len(labels)}
    return {**row, "largest_difference": largest}


def comparison(record: RunRecord, depth: int, rows: Sequence[Row]) -> str:
    """The rows of `compare` as a table."""
    cells = []
    for row in rows:
        both = (f"{row[key]:.2%}" for key in ("shallow_error", "deep_error"))
        cells.append([str(row["set"]), f"{row['count']:,}", *both, f"{row['largest_difference']:g}"])
    model = record.experiment.model
    heads = [f"{model.family}-{model.depth}", f"{model.family}-{depth} built"]
    return aligned(["images", "number", *heads, "largest difference of a logit"], cells)


def constructed(training: Training, depth: int) -> CifarNet:
    """The deeper network that computes what a trained one, as it stands, does; on the same device."""
    experiment, engine = training.experiment, training.engine
    generator = torch.Generator().manual_seed(experiment.seed)
    deep = build_model(replace(experiment.model, depth=depth), generator=generator)
    assert isinstance(deep, CifarNet)  # noqa: S101 - `deeper` refuses other families
    deep.to(engine.device, memory_format=engine.memory_format)  # type: ignore[call-overload]
    grow(engine.model, deep, stage_statistics(training))
    return deep


@torch.no_grad()
def grow(shallow: nn.Module, deep: nn.Module, statistics: Sequence[Statistics]) -> None:
    """Give a deeper network, as it was drawn, a trained one's weights, and make its other blocks the identity.

    The statistics are those of each stage's output in the trained network.
    """
    deep.load_state_dict(shallow.state_dict(), strict=False)
    for stage, (mean, variance) in zip(("layer1", "layer2", "layer3"), statistics, strict=True):
        for block in list(getattr(deep, stage))[len(getattr(shallow, stage)) :]:
            _become_identity(block, mean, variance)


def _become_identity(block: BasicBlock, mean: Tensor, variance: Tensor) -> None:
    if block.residual:
        # The rest of the branch stays as it was drawn, or no gradient would reach it.
        nn.init.zeros_(block.bn2.weight if isinstance(block.bn2, nn.BatchNorm2d) else block.conv2.weight)
        path = list(block.shortcut.children())  # only option C has any
    else:
        path = [block.conv1, block.bn1, block.conv2, block.bn2]
    for module in path:
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            # Scale and shift undo what normalising an input of this mean and variance does.
            near, scale = exact_scale(variance, module.eps)
            held = {"running_mean": mean, "running_var": near, "weight": scale, "bias": mean}
            module.load_state_dict(held, strict=False)
        elif not isinstance(module, nn.Identity):
            name = type(module).__name__
            raise RunError(
                f"{name}: no layer before it can be made the identity; only batch norm or none can be built on"
            )


def exact_scale(variance: Tensor, epsilon: float) -> Statistics:
    """Variances a few roundings away from the given ones, and scales that in float32 undo them exactly.

    Batch norm on the CPU multiplies by inverse root * scale and adds shift - mean * that product, so where the
    product is 1 its output is its input. The scale is the inverse of the inverse root, rounded, or the next greater
    number: one of the two makes the product 1 for 93 % of all inverse roots in float32, and of two neighbours at
    least one has such a scale (tried on all of them).

    Args:
        variance: float32 C, not negative.
        epsilon: batch norm's epsilon.
    """
    zeros, ones = torch.zeros_like(variance), torch.ones_like(variance)[None, :, None, None]
    # Batch norm itself computes each root, because square roots elsewhere are rounded otherwise on some CPUs.
    for _ in range(100):
        scale = 1 / F.batch_norm(ones, zeros, variance, eps=epsilon).flatten()
        for _ in range(2):
            off = F.batch_norm(ones, zeros, variance, scale, zeros, eps=epsilon).flatten() != 1
            scale = torch.where(off, scale.nextafter(ones.new_tensor(torch.inf)), scale)
        if not off.any():
            break
        variance = torch.where(off, variance + (variance + epsilon) * 2.0**-23, variance)
    return variance, scale


@torch.inference_mode()
def stage_statistics(training: Training) -> list[Statistics]:
    """Mean and variance of each channel of each stage's output, in train mode, over augmented training images.

    They are those of train mode because only there do they matter: in eval mode any values would cancel.
    """
    model, batches = copy.deepcopy(training.engine.model).train(), training.batches  # running statistics change
    stages = [model.layer1, model.layer2, model.layer3]
    sums: list[Tensor] = [torch.zeros((), dtype=torch.float64) for _ in stages]  # each becomes 2 x C: values, squares
    images = 0
    for iteration in range(1, 1 + min(batches.per_epoch, -(-CALIBRATION // batches.batch_size))):
        out = F.relu(model.bn1(model.conv1(batches.batch(iteration)[0])))
        images += len(out)
        for place, stage in enumerate(stages):
            out = stage(out)
            values = out.double()
            sums[place] = sums[place] + torch.stack([values.mean((2, 3)).sum(0), values.square().mean((2, 3)).sum(0)])
    means = [total / images for total in sums]
    return [(mean.float(), (square - mean.square()).clamp(min=0).float()) for mean, square in means]


def deeper(record: RunRecord, depth: int) -> Experiment:
    """The settings of a run from scratch that differs in depth alone and whose record lies beside the given one.

    Raises:
        ConfigError: the depth is not greater, or not 6n + 2.
        RunError: the network is neither plain nor residual.
    """
    model = record.experiment.model
    if model.family not in ("plain", "residual"):
        raise RunError(f"{record.path}: family {model.family}; only plain and residual networks are made deeper")
    if depth <= model.depth:
        raise ConfigError(f"--depth {depth}: {record.path} has depth {model.depth}; give a greater one")
    experiment = record.path.resolve().parents[1]
    settings = [f"model.depth={depth}", f"name={experiment.name}"]
    return replace(load_config(record.path / "config.yaml", settings), output=_short(experiment.parent))


def continuations(
    record: RunRecord, depth: int, iterations: int, overrides: Sequence[str] = ()
) -> tuple[Experiment, Experiment]:
    """The experiments by which the constructed network and its control, the run's own network, train on.

    Both train for `iterations`, counted from 0, with the run's settings and overrides such as `optim.lr=0.01`.
    Their rate is that of the last update that the run made, so an interrupted run's networks train on at the rate
    where it stopped, and not at the one that its recipe would have ended with.

    Raises:
        ConfigError: the depth, the iterations or a setting is wrong, or the setting would make it another network or
            other data.
    """
    within("--continue", iterations, 1, MOST)
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        why = _KEPT.get(key) or _KEPT.get(key.partition(".")[0])
        if why and key != "data.root":  # the images may have moved
            raise ConfigError(f"{text}: {why}; leave it out")
    scratch, held = deeper(record, depth), load_config(record.path / "config.yaml")
    # Where the weights are gone, the kept numbers name the iteration of those that the network was built from.
    kept = read(numbers_path(record, f"construct-{depth}"))
    weights = standing(record)
    if weights.lr is None and not weights.exported and kept:
        weights = Standing(int(kept[0]["iteration"]), None)
    # Without a checkpoint the schedule gives the rate of the last update; only a warm-up is not in it.
    recipe = replace(held.recipe, warmup="off")
    scheduled = scheduled_rate(max(1, weights.iteration), recipe, base=held.optim.lr)
    place = record.path.resolve()
    start = f"{place.parent.name}.{place.name}.{weights.iteration}"
    settings = [
        f"name={scratch.name}-construct",
        f"recipe.iterations={iterations}",
        "recipe.schedule=steps",
        "recipe.milestones=[]",
        "recipe.warmup=off",
        f"optim.lr={weights.lr or scheduled!r}",
        *overrides,
    ]

    def at(depth: int) -> Experiment:
        experiment = load_config(record.path / "config.yaml", [f"model.depth={depth}", *settings])
        if experiment.runtime.precision == "auto" and record.precision is not None:
            experiment.runtime.precision = record.precision  # `auto` could mean another precision for one of the two
        return replace(experiment, output=scratch.output, model=replace(experiment.model, start=start))

    return at(depth), at(held.model.depth)


def train_on(record: RunRecord, experiment: Experiment, *, fresh: bool = False) -> RunRecord:
    """Train one of `continuations` into a record of its own, which is resumed or skipped as any other.

    The given run needs its checkpoint only where this training begins.
    """

    def begin(training: Training) -> None:
        shallow = subject(record, experiment.runtime.device)
        grown = experiment.model.depth > shallow.experiment.model.depth
        if grown:
            grow(shallow.engine.model, training.engine.model, stage_statistics(shallow))
        else:
            training.engine.model.load_state_dict(shallow.engine.model.state_dict())
        log.info("begins as %s%s", experiment.model.start, ", deeper by identity layers" * grown)

    return run(experiment, fresh=fresh, begin=begin)


def look(
    record: RunRecord, depth: int, rows: Sequence[Row], trained: Sequence[RunRecord], scratch: RunRecord | None
) -> Shown:
    """The last errors of all networks, the directories of those that trained on, and a figure of all curves.

    Args:
        record: the run that was built upon.
        depth: the depth of the constructed network.
        rows: what `compare` found.
        trained: the constructed network and its control as they trained on, or none.
        scratch: a run of the same depth from scratch; None means the run beside the given one, if it was begun.
    """
    (shallow,) = error_curves([record])
    built = f"{shallow.family}-{depth} built from {shallow.label}"
    labels = (f"{built}, trained on", f"{shallow.label} trained on (control)")
    continued = [replace(*error_curves([own]), label=label) for own, label in zip(trained, labels, strict=False)]
    other = scratch or RunRecord(run_directory(deeper(record, depth)))
    begun = [other] if scratch or (other.exists and other.metrics()) else []
    beside = [replace(own, label=f"{own.label} from scratch") for own in error_curves(begun)]
    kinds = ("network", "running%", "clean%", "test%")
    errors = [[cells[kind] for kind in kinds] for cells in map(error_cells, [shallow, *continued, *beside])]
    last = [aligned(["last errors", *kinds[1:]], errors)] if trained else []
    text = "\n".join([*last, *(f"record: {own.path}" for own in trained)])
    return Shown(text, _draw(shallow, built, continued, beside, rows), "construct.png")


def _draw(
    shallow: Curve, built: str, continued: Sequence[Curve], beside: Sequence[Curve], rows: Sequence[Row]
) -> Figure:
    """Training error on the left and test error on the right, over the updates that went into the weights.

    Where the networks trained on for less than a twentieth of the run, only the last part of it is drawn.

    Args:
        shallow: the run that was built upon.
        built: the constructed network, in words.
        continued: that network and its control as they trained on.
        beside: the runs of the same depth from scratch, if there are any.
        rows: what `compare` found of the constructed network before it trained on.
    """
    figure, panels = new_figure(1, 2, (7.2, 4.2))
    begins = int(rows[0]["iteration"])
    # Each curve has the iteration where it begins and the place of its colour.
    lines = [*((curve, 0, 1) for curve in beside), (shallow, 0, 0)]
    lines += [(curve, begins, 2 + place) for place, curve in enumerate(continued)]
    last = max(first + max(curve.train.iteration, default=0.0) for curve, first, _ in lines)
    more = max((max(curve.train.iteration, default=0.0) for curve in continued), default=0.0)
    # Beside a long training a short one that went on from it would be a dot at the edge of the figure.
    since = begins - 4 * more if begins > 20 * more > 0 else 0
    for axes, which, name in zip(panels, ("train", "test"), ("training error (%)", "test error (%)"), strict=True):
        row = next(row for row in rows if row["set"] == which)
        held = 100 * float(row["shallow_error"])
        for curve, first, place in lines:
            _line(axes, curve, which, first, colour(place))
        axes.axhline(held, color=colour(0), linestyle=":", linewidth=0.9, label=f"{shallow.label} in eval mode")
        _diamond(axes, begins, float(row["deep_error"]), colour(2), label=f"{built}, in eval mode")
        axes.set_ylabel(name)
        points = np.concatenate([line.get_xydata() for line in axes.get_lines()])
        seen = points[points[:, 0] >= since, 1]
        low, high = np.nanmin(seen), np.nanmax(seen)
        step = 10 if high > 20 else 2
        axes.set_ylim(step * math.floor(low / step), step * math.floor(high / step) + step)
        iterations_axis(axes, last)
        if since:
            axes.set_xlim(since, last + 0.02 * (last - since))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_xlabel("iterations, the last ones")
        mark_chance(axes, [curve for curve, *_ in lines])
    handles, _ = panels[0].get_legend_handles_labels()
    legend_above(figure, handles, 2, f"{built}, its added layers the identity")
    curves = [curve for curve, *_ in lines]
    return finished(figure, f"{_difference(rows)}\n{footer(curves, banded=False)}", None)


def _line(axes: Axes, curve: Curve, which: str, begins: int, shade: str) -> None:
    series = curve.train if which == "train" else curve.test
    style: dict[str, Any] = {"linewidth": 1.4, "marker": "." if len(series.mean) < 8 else None, "color": shade}
    axes.plot(begins + series.iteration, 100 * series.mean, label=f"{curve.label}{curve.suffix}", **style)
    if which == "train" and curve.clean_train:  # in eval mode on all images, where the line is running and augmented
        _diamond(axes, begins + series.iteration[-1], curve.clean_train[0], shade)


def _diamond(axes: Axes, iteration: float, error: float, shade: str, **style: Any) -> None:
    """Mark an error that was measured in eval mode."""
    axes.plot(iteration, 100 * error, color=shade, marker="D", markersize=4, linestyle="none", **style)


def _difference(rows: Sequence[Row]) -> str:
    largest = max(float(row["largest_difference"]) for row in rows)
    images = ", ".join(f"{row['count']:,} {row['set']}" for row in rows)
    return (
        f"training error: lines running, in train mode on augmented batches; diamonds in eval mode, un-augmented · "
        f"built network before training on: largest difference of a logit {largest:g} ({images} images)"
    )


def _short(path: Path) -> str:
    """A folder, relative to the working directory if it lies below that."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
