"""Figures 1 and 6 of the paper, from curves."""

import logging
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from degrade.analysis.curves import BANDS, Array, Curve, Series, edges
from degrade.analysis.reference import departures, follows_paper, open_choices, paper_error
from degrade.errors import ConfigError
from degrade.runs.record import regular

log = logging.getLogger("degrade.run")

#: Okabe and Ito's colours, distinct for colour-blind readers, dark ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")

SUFFIXES = (".png", ".svg", ".pdf")


def draw(curves: Sequence[Curve], *, style: str | None = None, title: str | None = None) -> Figure:
    """Draw in a style, or in Figure 6's if both families are present and in Figure 1's if not.

    Args:
        curves: what to draw.
        style: `figure1`, `figure6`, `depth` or None.
        title: above the panels.
    """
    if style == "depth":
        return draw_depth(curves, title=title)
    if style is None:
        style = "figure6" if len({curve.family for curve in curves}) > 1 else "figure1"
    return draw_figure6(curves, title=title) if style == "figure6" else draw_figure1(curves, title=title)


def draw_figure1(curves: Sequence[Curve], *, title: str | None = None) -> Figure:
    """Two panels: training error left, test error right (paper, Figure 1)."""
    figure, (left, right) = _panels(2)
    marks = []
    for k, (curve, colour) in enumerate(zip(curves, _colours(curves, curves), strict=True)):
        stroke = ("-", "--", "-.", ":")[k // len(COLOURS) % 4]  # when colours run out
        for axes, which, series in ((left, "train", curve.train), (right, "test", curve.test)):
            style = {"label": _label(curve), "linewidth": 1.6, "linestyle": stroke}
            _line(axes, series, colour, ended=_ended(curve), total=len(curve.seeds), **style)
            marks.append(_paper_mark(axes, curve, which, colour))
    for axes, name in ((left, "training error (%)"), (right, "test error (%)")):
        axes.set_ylabel(name)
        _frame(axes, curves)
        axes.legend(handles=[*axes.get_legend_handles_labels()[0], *_mark_handles(marks)], loc="best")
    return _finished(figure, curves, title)


def draw_figure6(curves: Sequence[Curve], *, title: str | None = None) -> Figure:
    """A panel per family: dashed training error, bold test error (paper, Figure 6)."""
    families = sorted({curve.family for curve in curves})
    figure, panels = _panels(len(families))
    for axes, family in zip(panels, families, strict=True):
        own = [curve for curve in curves if curve.family == family]
        marks = []
        for curve, colour in zip(own, _colours(own, curves), strict=True):
            _line(axes, curve.train, colour, linestyle="--", linewidth=1.0, ended=_ended(curve))
            bold = {"label": _label(curve), "linewidth": 2.0}
            _line(axes, curve.test, colour, ended=_ended(curve), total=len(curve.seeds), **bold)
            marks.append(_paper_mark(axes, curve, "test", colour))
        axes.set_title(f"{family} networks", fontsize=9)
        axes.set_ylabel("error (%)")
        _frame(axes, curves)
        kinds = [
            Line2D([], [], color="0.3", linestyle="--", linewidth=1.0, label="training error"),
            Line2D([], [], color="0.3", linewidth=2.0, label="test error"),
        ]
        axes.legend(handles=[*axes.get_legend_handles_labels()[0], *kinds, *_mark_handles(marks)], loc="best")
    return _finished(figure, curves, title)


def draw_depth(curves: Sequence[Curve], *, title: str | None = None) -> Figure:
    """Last training error (left) and test error (right) of finished networks against their depth, a line a family."""
    figure, panels = _panels(2)
    clean = all(curve.clean_train for curve in curves if curve.final_test)
    train = "clean training error (%)" if clean else "training error, running (%)"
    lines: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.final_test:
            lines.setdefault(", ".join(part for part in (curve.family, curve.extra) if part), []).append(curve)
    for axes, name in zip(panels, (train, "test error (%)"), strict=True):
        for k, (label, own) in enumerate(lines.items()):
            errors = [c.final_test if axes is panels[1] else c.clean_train if clean else c.final_train for c in own]
            band = [np.subtract(edges(values, curves[0].band), np.mean(values)) for values in errors]
            axes.errorbar(
                [curve.depth for curve in own],
                [100 * float(np.mean(values)) for values in errors],
                100 * np.abs(np.transpose(band)),
                color=COLOURS[k % len(COLOURS)],
                marker="o",
                markersize=4,
                capsize=2,
                label=label,
            )
        axes.set_ylabel(name)
        axes.set_xlabel("depth (weighted layers)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend()
    return _finished(figure, curves, title)


def draw_stacks(pairs: Sequence[tuple[Any, Any]], channels: int) -> Figure:
    """Bars: a stack of 3x3 convolutions beside the large one that sees as much, for each pair of `Stack`s."""
    figure, panels = new_figure(1, 3, (7.2, 3.0))
    quantities = (("parameters", 1e3, "parameters (1e3)"), ("multiply_adds", 1e6, "multiply-adds (1e6)"))
    for axes, (name, unit, label) in zip(panels, (*quantities, ("nonlinearities", 1, "ReLUs")), strict=True):
        for side, (shift, who) in enumerate(((-0.2, "stack of 3x3"), (0.2, "one large"))):
            heights = [getattr(pair[side], name) / unit for pair in pairs]
            bars = axes.bar(np.arange(len(pairs)) + shift, heights, 0.38, color=COLOURS[side], label=who)
            axes.bar_label(bars, fmt=lambda value: f"{value:,.0f}", fontsize=6.5)
        axes.set_xticks(range(len(pairs)), [f"{pair[0].field}x{pair[0].field}" for pair in pairs])
        axes.set_title(label, fontsize=9)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("receptive field")
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="upper left")
    return finished(figure, f"{channels} channels in and out, a ReLU after each convolution, on a 32x32 map", None)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as png, svg or pdf by the path's suffix.

    Raises:
        ConfigError: another suffix, or the path cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path}: figures are written as {', '.join(SUFFIXES)}; give the file one of these suffixes"
        )
    # Without dates a figure drawn again is the same file.
    undated = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[path.suffix.lower()]
    try:
        regular(path).parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.hashsalt": "degrade"}), warnings.catch_warnings(record=True) as told:
            warnings.filterwarnings("always", message="Glyph")
            figure.savefig(path, dpi=200, metadata=undated)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); choose another --output") from error
    if any("missing from font" in str(warning.message) for warning in told):
        log.warning("%s: its font lacks some letters of the names, and boxes stand for them", path)


def footer(curves: Sequence[Curve], *, banded: bool = True) -> str:
    """Recipe, data, precision, seeds and band if there is one, and whatever departs from the paper."""
    recipes = sorted({str(c.config["recipe"]["name"]) for c in curves})
    data = sorted({"SYNTHETIC data" if c.synthetic else _data_name(c) for c in curves})
    precisions = sorted({c.precision for c in curves if c.precision})
    counts = sorted({len(c.seeds) for c in curves})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds += " seed" if counts == [1] else f" seeds, band: {BANDS[curves[0].band]}" if banded else " seeds"
    if banded and any(len(set(s.seeds)) > 1 for c in curves for s in (c.train, c.test)):
        seeds += " (n/N: of so many seeds from there on)"
    facts = [f"recipe {'/'.join(recipes)}", "/".join(data), "/".join(precisions), seeds, "last iterate"]
    lines = [" · ".join(fact for fact in facts if fact)]
    lines.append(_told_apart("departs from the paper: ", curves, departures) or "the paper's recipe")
    lines.append(_told_apart("open in the paper: ", curves, open_choices))
    return "\n".join(line for line in lines if line)


def _told_apart(head: str, curves: Sequence[Curve], of: Callable[[Mapping[str, Any]], list[str]]) -> str:
    """What all curves have in common, then what only some have, by label; empty if there is nothing."""
    found = [of(curve.config) for curve in curves]
    common = [item for item in found[0] if all(item in other for other in found)]
    parts = list(common)
    labels: dict[str, list[str]] = {}
    for curve, items in zip(curves, found, strict=True):
        own = [item for item in items if item not in common]
        if own:
            labels.setdefault(", ".join(own), []).append(curve.label)
    for what, whose in labels.items():
        who = ", ".join(whose) if len(whose) < 3 else f"{whose[0]} to {whose[-1]}"
        parts.append(f"{who}: {what}")
    return head + "; ".join(parts) if parts else ""


def _data_name(curve: Curve) -> str:
    return {"cifar10": "CIFAR-10"}.get(curve.config["data"]["name"], str(curve.config["data"]["name"]))


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of some inches and its panels, row by row."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    return new_figure(1, count, (7.2 if count > 1 else 4.2, 3.5))


def _colours(own: Sequence[Curve], among: Sequence[Curve]) -> list[str]:
    """A colour a curve. In Figure 6's style, networks of one depth share it across the panels."""
    if own is among:
        return [COLOURS[k % len(COLOURS)] for k in range(len(own))]
    names = sorted({_without_family(curve) for curve in among})
    return [COLOURS[names.index(_without_family(curve)) % len(COLOURS)] for curve in own]


def _without_family(curve: Curve) -> tuple[int, str]:
    return curve.depth, curve.label.removeprefix(curve.family)


def _label(curve: Curve) -> str:
    seeds = f" ({len(curve.seeds)} seeds)" if len(curve.seeds) > 1 else ""
    remark = f" [{curve.remark}]" if curve.remark else ""
    return f"{curve.label}{seeds}{remark}"


def _ended(curve: Curve) -> str:
    """The mark at the end of a curve that no seed finished: x diverged, o unfinished."""
    statuses = set(curve.seeds.values())
    if "complete" in statuses:
        return ""  # where a seed ended early, n/N says so
    return "x" if "diverged" in statuses else "o" if statuses else ""


def _line(axes: Axes, series: Series, colour: str, *, ended: str, total: int | None = None, **style: Any) -> None:
    x, y = series.iteration / 1e4, 100 * series.mean
    axes.plot(x, y, color=colour, marker="." if len(x) < 8 else None, markersize=4, **style)
    if (series.seeds > 1).any():
        axes.fill_between(x, 100 * series.low, 100 * series.high, color=colour, alpha=0.2, linewidth=0)
    if total is not None:
        _note_fewer_seeds(axes, x, y, series, total, colour)
    if ended and len(x):
        axes.plot(x[-1:], y[-1:], color=colour, marker=ended, markersize=7, markerfacecolor="none", linestyle="none")


def _note_fewer_seeds(axes: Axes, x: Array, y: Array, series: Series, total: int, colour: str) -> None:
    """Write n/N where a curve goes on with fewer of its seeds."""
    for k, (now, earlier) in enumerate(zip(series.seeds, [total, *series.seeds], strict=False)):
        if now < earlier:
            axes.plot(x[k], y[k], color=colour, marker="|", markersize=6, linestyle="none")
            place = (x[k], y[k])
            axes.annotate(f"{now}/{total}", place, (2, 4), textcoords="offset points", fontsize=6, color=colour)


def _paper_mark(axes: Axes, curve: Curve, which: str, colour: str) -> Line2D | None:
    """A horizontal line at the paper's final error, where the recipe is the paper's."""
    value = paper_error(curve.family, curve.depth, which)
    if value is None or not follows_paper(curve.config):
        return None
    return axes.axhline(100 * value, color=colour, linestyle=":", linewidth=0.9, alpha=0.9)


def _mark_handles(marks: Sequence[Line2D | None]) -> list[Line2D]:
    if not any(marks):
        return []
    return [Line2D([], [], color="0.3", linestyle=":", linewidth=0.9, label="the paper's final error")]


def _frame(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.set_xlabel("iterations (1e4)")
    full = all(c.config["recipe"]["iterations"] >= 8000 for c in curves)
    ends = [100 * float(s.mean.min()) for c in curves for s in (c.train, c.test) if len(s.mean)]
    # The paper's axis, unless a curve would lie above it or along its upper edge.
    axes.set_ylim(0, next((top for top in (20, 60) if full and max(ends, default=0) < 0.9 * top), 100))
    last = max((float(s.iteration.max()) for c in curves for s in (c.train, c.test) if len(s.iteration)), default=1)
    axes.set_xlim(0, 1.02 * last / 1e4)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _finished(figure: Figure, curves: Sequence[Curve], title: str | None) -> Figure:
    return finished(figure, footer(curves), title)


def finished(figure: Figure, footer: str, title: str | None) -> Figure:
    """Sizes of letters, the title above, and below the panels what a reader must know of the runs."""
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        legend = axes.get_legend()
        if legend is not None:
            for text in legend.get_texts():
                text.set_fontsize(7)
                text.set_parse_math(False)  # a folder's name may hold a $
            legend.set_frame_on(False)
    width = round(120 * figure.get_figwidth() / 7.2)
    if title:
        figure.suptitle(textwrap.fill(title, width * 2 // 3), fontsize=10, parse_math=False)
    wrapped = "\n".join(line for text in footer.splitlines() for line in textwrap.wrap(text, width))
    figure.supxlabel(wrapped, fontsize=6.5, color="0.35", parse_math=False)
    return figure
