"""Figures of error curves, as in the paper's Figures 1 and 6; and what all figures have in common."""

import logging
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from degrade.analysis import facts
from degrade.analysis.curves import Curve, Series, edges
from degrade.errors import ConfigError, RunError

log = logging.getLogger("degrade.run")

#: Suffixes of figures, and the metadata without which one that is drawn again is the same file.
SUFFIXES: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

#: The most characters in a line of a panel's legend; a longer name, which tells many settings, takes several.
LEGEND = 46
#: A legend of more lines stands below its panel.
ROOM = 8

#: Marks of curves whose colour another one has already.
_FURTHER = ("s", "^", "v", "P")

_CLEAN_MARK = f"{facts.CLEAN}, last iterate"


def draw(curves: Sequence[Curve], *, style: str | None = None, title: str | None = None) -> Figure:
    """Draw in a style: `figure1`, `figure6` or `depth`; by default Figure 6's if there are several families."""
    if style is None:
        style = "figure6" if len({curve.family for curve in curves}) > 1 else "figure1"
    drawn = {"figure1": draw_figure1, "figure6": draw_figure6, "depth": draw_depth}[style]
    return drawn(curves, title=title)


def draw_figure1(curves: Sequence[Curve], *, title: str | None = None) -> Figure:
    """Two panels: running training error left, test error right (paper, Figure 1).

    Networks of one depth have one colour, and families different strokes. A diamond at the end of a training curve
    is the clean training error of the last iterate.
    """
    figure, (left, right) = new_figure(1, 2, (7.2, 3.5))
    cleans, marks = [], []
    for curve, (shade, sign) in zip(curves, facts.signs(curves), strict=True):
        stroke = ("-", "--", "-.", ":")[sign % 4]
        for axes, which, series in ((left, "train", curve.train), (right, "test", curve.test)):
            style = {"label": _label(curve), "linewidth": 1.6, "linestyle": stroke}
            _line(axes, series, shade, curve, numbered=True, **style)
            marks.append(_paper_mark(axes, curve, which, shade))
        cleans.append(_clean_mark(left, curve, shade))
    for axes, name in ((left, facts.RUNNING), (right, facts.TEST)):
        _scaled(axes, curves, f"{name} (%)")
    said = _handles(cleans, _CLEAN_MARK) + _handles(marks, f"the paper's final error ({facts.LIKE_RUNNING})")
    return _finished(figure, curves, title, said)


def draw_figure6(curves: Sequence[Curve], *, title: str | None = None) -> Figure:
    """One panel per family: dashed running training error, bold test error (paper, Figure 6).

    Networks of one depth have one colour in all panels. A diamond at the end of a training curve is the clean
    training error of the last iterate.
    """
    families = sorted({curve.family for curve in curves})
    signs = {curve.label: sign for curve, sign in zip(curves, facts.signs(curves), strict=True)}
    figure, panels = new_figure(1, len(families), (3.6 * len(families) if len(families) > 1 else 4.2, 3.5))
    cleans, marks = [], []
    for axes, family in zip(panels, families, strict=True):
        for curve in (own for own in curves if own.family == family):
            shade, sign = signs[curve.label]
            style: dict[str, Any] = {}
            if again := sign // len(families):  # colours have run out
                style = {"marker": _FURTHER[(again - 1) % len(_FURTHER)], "markevery": 0.1}
            _line(axes, curve.train, shade, curve, linestyle="--", linewidth=1.0, **style)
            _line(axes, curve.test, shade, curve, numbered=True, label=_label(curve), linewidth=2.0, **style)
            marks.append(_paper_mark(axes, curve, "test", shade))
            cleans.append(_clean_mark(axes, curve, shade))
        axes.set_title(f"{family} networks", fontsize=9)
        _scaled(axes, curves, "error (%)")
    kinds = [
        Line2D([], [], color="0.3", linestyle="--", linewidth=1.0, label=facts.RUNNING),
        Line2D([], [], color="0.3", linewidth=2.0, label=facts.TEST),
    ]
    said = [*kinds, *_handles(cleans, _CLEAN_MARK), *_handles(marks, f"the paper's final {facts.TEST}")]
    return _finished(figure, curves, title, said)


def draw_depth(curves: Sequence[Curve], *, title: str | None = None) -> Figure:
    """Last training error (left) and test error (right) of finished networks against depth, one line per family.

    Raises:
        RunError: none is finished.
    """
    finished = [curve for curve in curves if curve.final["test_error"]]
    if not finished:
        raise RunError("no run is finished, so there are no last errors to draw against depth; take another --style")
    figure, panels = new_figure(1, 2, (7.2, 3.5))
    clean = all(curve.clean_train for curve in finished)
    lines: dict[str, list[Curve]] = {}
    for curve in finished:
        lines.setdefault(curve.family + curve.label.removeprefix(curve.network), []).append(curve)
    training = ("train_error_clean", facts.CLEAN) if clean else ("train_error", facts.RUNNING)
    for axes, (key, name) in zip(panels, (training, ("test_error", facts.TEST)), strict=True):
        for k, (label, own) in enumerate(lines.items()):
            errors = [curve.final[key] for curve in own]
            depths, means = [curve.depth for curve in own], [100 * float(np.mean(values)) for values in errors]
            style: dict[str, Any] = {"color": facts.colour(k), "marker": "o", "markersize": 4, "label": label}
            if max(map(len, errors)) > 1:
                band = [np.subtract(edges(values, curves[0].band), np.mean(values)) for values in errors]
                axes.errorbar(depths, means, 100 * np.abs(np.transpose(band)), capsize=2, **style)
            else:
                axes.plot(depths, means, **style)
        mark_chance(axes, curves)
        axes.set_ylabel(f"{name} (%)")
        axes.set_xlabel("depth (weighted layers)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.legend()
    return _finished(figure, curves, title)


def draw_stacks(pairs: Sequence[tuple[Any, Any]], channels: int) -> Figure:
    """For each pair of `Stack`s, bars of the 3x3 convolutions beside the large convolution that sees as much."""
    figure, panels = new_figure(1, 3, (7.2, 3.0), grid=False)
    quantities = (("parameters", 1e3, "parameters (1e3)"), ("multiply_adds", 1e6, "multiply-adds (1e6)"))
    for axes, (name, unit, label) in zip(panels, (*quantities, ("nonlinearities", 1, "ReLUs")), strict=True):
        for side, (shift, who) in enumerate(((-0.2, "stack of 3x3"), (0.2, "one large"))):
            heights = [getattr(pair[side], name) / unit for pair in pairs]
            bars = axes.bar(np.arange(len(pairs)) + shift, heights, 0.38, color=facts.colour(side), label=who)
            axes.bar_label(bars, fmt=lambda value: f"{value:,.0f}", fontsize=6.5)
        axes.set_xticks(range(len(pairs)), [f"{pair[0].field}x{pair[0].field}" for pair in pairs])
        axes.set_title(label, fontsize=9)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("receptive field")
        axes.margins(y=0.12)
    panels[0].legend(loc="upper left")
    return finished(figure, f"{channels} channels in and out, a ReLU after each convolution, on a 32x32 map", None)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as png, svg or pdf by the path's suffix.

    Raises:
        ConfigError: the suffix is another one, or the path cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path}: figures are written as {', '.join(SUFFIXES)}; give the file one of these suffixes"
        )
    salted = rc_context({"svg.hashsalt": "degrade"})
    with facts.writable(path), salted, warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("always", message="Glyph")
        figure.savefig(path, dpi=200, metadata=SUFFIXES[path.suffix.lower()])
    if any("missing from font" in str(warning.message) for warning in told):
        log.warning("%s: its font lacks some letters of the names, and boxes stand for them", path)


def new_figure(
    rows: int, columns: int, size: tuple[float, float], *, grid: bool = True, box: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches and its panels, row by row, with a faint grid, or with a box around each."""
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(box)
        if grid:
            axes.grid(alpha=0.25, linewidth=0.5)
    return figure, panels


def fill_band(axes: Axes, x: Any, low: Any, high: Any, shade: str) -> None:
    """Fill the range of several seeds behind their line."""
    axes.fill_between(x, low, high, color=shade, alpha=0.2, linewidth=0)


def logarithmic(axes: Axes, low: float, high: float) -> None:
    """Make the y axis logarithmic, with more labels than the powers of ten where there are few of those."""
    axes.set_yscale("log")
    if high < 1000 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def legend_above(figure: Figure, handles: Sequence[Any], columns: int, title: str | None) -> None:
    """Put one legend for all panels above them, under the title."""
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        fontsize=8,
        frameon=False,
        title=title,
        title_fontsize=10,
    )


def _label(curve: Curve) -> str:
    return f"{curve.label}{facts.several(len(curve.seeds))}{curve.suffix}"


def _line(axes: Axes, series: Series, shade: str, curve: Curve, *, numbered: bool = False, **style: Any) -> None:
    """Draw a curve, its band, n/N where it goes on with fewer seeds, and a mark at its end if no seed finished."""
    x, y = series.iteration, 100 * series.mean
    axes.plot(x, y, **{"color": shade, "marker": "." if len(x) < 8 else None, "markersize": 4, **style})
    if (series.seeds > 1).any():
        fill_band(axes, x, 100 * series.low, 100 * series.high, shade)
    for k, (now, earlier) in enumerate(zip(series.seeds, [len(curve.seeds), *series.seeds], strict=False)):
        if numbered and now < earlier:
            axes.plot(x[k], y[k], color=shade, marker="|", markersize=6, linestyle="none")
            told, place = f"{now}/{len(curve.seeds)}", (x[k], y[k])
            axes.annotate(told, place, (2, 4), textcoords="offset points", fontsize=6, color=shade)
    if facts.ended(curve) and len(x):
        mark = "x" if facts.ended(curve) == "diverged" else "o"
        axes.plot(x[-1:], y[-1:], color=shade, marker=mark, markersize=7, markerfacecolor="none", linestyle="none")


def _paper_mark(axes: Axes, curve: Curve, which: str, colour: str) -> Line2D | None:
    """A short horizontal line at the right at the paper's final error, where the recipe is the paper's."""
    value = facts.papers(curve, which)
    if value is None or not curve.follows_paper:
        return None
    return axes.axhline(100 * value, 0.75, color=colour, linestyle=":", linewidth=0.9, alpha=0.9)


def _clean_mark(axes: Axes, curve: Curve, colour: str) -> Line2D | None:
    """A diamond where the training curve ends, at the mean clean training error of the finished seeds."""
    if not curve.clean_train or not len(curve.train.iteration):
        return None
    place = (float(curve.train.iteration[-1]), 100 * float(np.mean(curve.clean_train)))
    style: dict[str, Any] = {"markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    return axes.plot(*place, "D", color=colour, zorder=3, clip_on=False, **style)[0]


def _handles(marks: Sequence[Line2D | None], label: str) -> list[Line2D]:
    """The legend's entry for marks that differ in colour only; none if no mark is drawn."""
    drawn = next((mark for mark in marks if mark is not None), None)
    if drawn is None:
        return []
    handle = Line2D([], [])
    handle.update_from(drawn)
    handle.set(color="0.3", label=label)
    return [handle]


def _scaled(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    """Set axes of iterations and of an error in percent, the same for all panels, and the legend of the networks."""
    series = [own for curve in curves for own in (curve.train, curve.test) if len(own.iteration)]
    last = max((float(own.iteration.max()) for own in series), default=1)
    iterations_axis(axes, last)
    highest = max((float(own.high.max()) for own in series), default=1)
    axes.set_ylim(0, facts.PAPER_TOP if facts.has_paper_axis(curves) else min(100, 103 * highest))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    mark_chance(axes, curves)
    axes.set_ylabel(name)
    axes.legend(loc="best", fontsize=7)


def iterations_axis(axes: Axes, last: float) -> None:
    """Make the x axis one of iterations up to some number, in units of 1e4 as in the paper where they are many."""
    axes.set_xlim(0, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    many = last > 3e4
    axes.set_xlabel("iterations (1e4)" if many else "iterations")
    axes.xaxis.set_major_formatter((lambda x, _: f"{x / 1e4:g}") if many else (lambda x, _: f"{x:,.0f}"))


def mark_chance(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw a line at the error of guessing, where the axis reaches it and it is the same for all networks."""
    chances = {curve.chance for curve in curves}
    if len(chances) == 1 and axes.get_ylim()[1] >= 100 * (chance := chances.pop()):
        axes.axhline(100 * chance, color="0.45", linestyle=(0, (1, 2)), linewidth=0.8, zorder=0.5)
        place = (0.995, 100 * chance)
        axes.annotate(
            "guessing",
            place,
            (0, 1),
            axes.get_yaxis_transform(),
            "offset points",
            fontsize=6,
            color="0.35",
            ha="right",
        )


def _finished(figure: Figure, curves: Sequence[Curve], title: str | None, handles: Sequence[Line2D] = ()) -> Figure:
    """The figure with a legend of the kinds of lines and marks above the panels, where it covers no curve."""
    if handles:
        first, columns = figure.axes[0], 4 if len(figure.axes) > 1 else 2
        rise = 18 if first.get_title() else 3  # points above the panel
        place = blended_transform_factory(figure.transFigure, first.transAxes)
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            bbox_transform=place + ScaledTranslation(0, rise / 72, figure.dpi_scale_trans),
            ncols=columns,
            fontsize=7,
            frameon=False,
            borderpad=0,
            handletextpad=0.5,
            columnspacing=1.4,
        )
        height = (5 + 11 * -(-len(handles) // columns)) / 72  # inches
        figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - height / figure.get_figheight()))
    return finished(figure, facts.footer(curves) + f"\n{facts.PAPER_AXIS}" * facts.has_paper_axis(curves), title)


def balanced(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, as few as that takes, and about as long as each other."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    while width > 1 and len(narrower := textwrap.wrap(text, width - 1, break_on_hyphens=False)) == len(lines):
        lines, width = narrower, width - 1
    return lines


def finished(figure: Figure, footer: str, title: str | None) -> Figure:
    """The figure with its font sizes, the title above it, and below it what a reader must know of the runs."""
    longest = 0
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        legend = axes.get_legend()
        if legend is not None:
            for text in legend.get_texts():
                text.set_text("\n".join(balanced(text.get_text(), LEGEND)))
                text.set_fontsize(7)
                text.set_parse_math(False)  # a folder's name may hold a $
            legend.set_frame_on(False)
            lines = sum(text.get_text().count("\n") + 1 for text in legend.get_texts())
            if lines > ROOM:
                legend.set_loc("upper left")
                below = ScaledTranslation(0, -34 / 72, figure.dpi_scale_trans)  # the axis' numbers and name
                legend.set_bbox_to_anchor((0, 0), axes.transAxes + below)
                longest = max(longest, lines)
    figure.set_figheight(figure.get_figheight() + 0.19 * longest)
    width = round(120 * figure.get_figwidth() / 7.2)
    if title:
        figure.suptitle("\n".join(balanced(title, width * 2 // 3)), fontsize=10, parse_math=False)
    wrapped = "\n".join(line for text in footer.splitlines() for line in balanced(text, width))
    figure.supxlabel(wrapped, fontsize=6.5, color="0.35", parse_math=False)
    return figure
