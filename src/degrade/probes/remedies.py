"""Remedies for early degradation side by side: what each does to the error, to the weights, and to their gradient.

A plain network's first updates make the weights of its first layers many times as large, after which batch norm lets
them learn slowly. Networks trained under remedies, as configs/experiment/remedies.yaml lists them, show how much of
the error is that scar: all is drawn from their records and from what `gradients` found at their snapshots.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from degrade.analysis import remedies
from degrade.analysis.curves import BANDS, Curve
from degrade.analysis.facts import RUNNING, footer, refuse_unmeasured
from degrade.analysis.figures import fill_band, finished, legend_above, logarithmic, new_figure
from degrade.analysis.layers import CORRELATION, DEAD, GROWTH, RELATIVE, Along, over_seeds, summaries
from degrade.analysis.remedies import EXPERIMENT, Treated, shades
from degrade.analysis.remedies import remedy as remedy
from degrade.analysis.table import as_csv, table
from degrade.config import variants
from degrade.errors import RunError
from degrade.probes.gradients import NOISE, gradients
from degrade.probes.probe import Shown
from degrade.runs import RunRecord, Status

#: Rows of the figure, from above: the error, and what is drawn of `Along`.
_PANELS = {
    "error": f"{RUNNING} (%)",
    GROWTH: "norm of the weights\nrelative to the initial one,\ngreatest layer",
    RELATIVE: "gradient relative to\nthe weights, first layers",
}


def look(
    curves: Sequence[Curve],
    *,
    title: str | None = None,
    form: str = "text",
    complain: Callable[[str], object] = print,
) -> Shown:
    """The table and the figure of networks and their remedies; `complain` as in `treated`.

    Raises:
        RunError: none of them has snapshots, or numbers that were measured of them.
    """
    networks = treated(refuse_unmeasured(curves), complain=complain)
    if not any(own.along for own in networks):
        raise RunError("none of these runs kept snapshots of its weights, which remedies are judged by; see above")
    return Shown(remedy_table(networks, form=form), draw_remedies(networks, title=title), "remedies.png")


def treated(curves: Sequence[Curve], *, complain: Callable[[str], object] = print) -> list[Treated]:
    """Networks and their remedies, sorted by network and in the order of the remedies.

    Each run's snapshots are measured, unless its `probes/gradients.csv` has the numbers. `complain` is told of each
    run in which nothing can be looked at.
    """

    def along(curve: Curve) -> dict[int, Along]:
        found = {}
        for seed, path in curve.paths.items():
            try:
                found[seed] = summaries(gradients(RunRecord(path)))
            except RunError as error:
                complain(f"left out: {error}")
        return found

    return remedies.treated(curves, along)


def draw_remedies(networks: Sequence[Treated], *, title: str | None = None) -> Figure:
    """Error, growth of the weights and gradient of the first layers: one column per network, one colour per remedy.

    The networks are what `treated` gave, and `title` stands above the panels.
    """
    columns = list(dict.fromkeys(own.network for own in networks))
    known = [variant.name for variant in variants(EXPERIMENT)]
    colours = shades(own.remedy for own in networks)
    remedies = [name for name in colours if any(own.remedy == name for own in networks)]
    figure, axes = new_figure(len(_PANELS), len(columns), (max(4.2, 1.2 + 2.3 * len(columns)), 7.2))
    for row, (quantity, name) in enumerate(_PANELS.items()):
        panels = axes[row * len(columns) : (row + 1) * len(columns)]
        for panel, column in zip(panels, columns, strict=True):
            for own in (t for t in networks if t.network == column):
                style: dict[str, Any] = {"color": colours[own.remedy], "linewidth": 1.3}
                if own.remedy == known[0]:
                    style |= {"linewidth": 2.4, "zorder": 1.9}  # it lies below the others, and is wider than they are
                if quantity == "error":
                    series = own.curve.train
                    panel.plot(series.iteration, 100 * series.mean, **style)
                    if (series.seeds > 1).any():
                        fill_band(panel, series.iteration, 100 * series.low, 100 * series.high, colours[own.remedy])
                else:
                    _draw_along(panel, list(own.along.values()), quantity, **style)
        panels[0].set_ylabel(name)
        _share_axes(panels, linear=quantity == "error")
    for panel, column in zip(axes, columns, strict=False):
        panel.set_title(column, fontsize=9)
        panel.set_xlabel("iteration")
    for panel in axes[-len(columns) :]:
        panel.set_xlabel("iteration, logarithmic from 1")
    handles = [Line2D([], [], color=colours[name], linewidth=1.8, label=name) for name in remedies]
    legend_above(figure, handles, 4, title)
    # What sets a remedy apart is said once for all networks under it.
    told = footer([replace(own.curve, label=own.remedy) for own in networks], banded=False)
    return finished(figure, f"{_what(networks)}\n{told}", None)


def _draw_along(panel: Axes, runs: Sequence[Along], quantity: str, **style: Any) -> None:
    """Draw the median over seeds as a line, and their range as a band."""
    iterations, middle, ranges = over_seeds(runs, quantity)
    panel.plot(iterations, middle, marker=".", markersize=4, **style)
    if len(runs) > 1:
        low, high = ([own[side] for own in ranges] for side in (0, 1))
        fill_band(panel, iterations, low, high, style["color"])


def _share_axes(panels: Sequence[Axes], *, linear: bool) -> None:
    """Give the panels of a row one scale, so that their networks can be compared."""
    limits = [panel.dataLim for panel in panels if np.isfinite(panel.dataLim.get_points()).all()]
    low, high = (pick((limit.intervaly[k] for limit in limits), default=1) for k, pick in ((0, min), (1, max)))
    last = max((limit.xmax for limit in limits), default=1)
    for k, panel in enumerate(panels):
        panel.tick_params(labelleft=k == 0)
        if linear:
            room = 0.05 * (high - low) or 1
            panel.set_ylim(max(0, low - room), min(101, high + room))
            panel.set_xlim(0, 1.02 * last)
            panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
            panel.xaxis.set_major_formatter("{x:,.0f}")
            continue
        logarithmic(panel, low, high)
        panel.set_ylim(low / 1.15, high * 1.15)
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xscale("symlog", linthresh=1)  # 0 is the network before its first update
        panel.set_xlim(-0.1, 1.3 * last)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter("{x:,.0f}")


def _what(networks: Sequence[Treated]) -> str:
    """The note below the figure that says what the numbers are."""
    runs = [run for own in networks for run in own.along.values()]
    text = (
        "at snapshots, in train mode: greatest layer: of the 3x3 convolutions; first layers: the first third of "
        "them, geometric mean of the Euclidean norm of the mean loss' gradient over that of the weights; "
        f"{' or '.join(sorted({run.images for run in runs})) or 'no images'}, un-augmented; fp32"
    )
    if any(value == 0 for run in runs for value in run.values[RELATIVE]):
        text += "; not drawn where a layer has no gradient at all"
    if any(len(own.curve.seeds) > 1 for own in networks):
        text += (
            f"\nerror: mean of the seeds, band: {BANDS[networks[0].curve.band]}; at snapshots: median of the seeds, "
            "band: least to greatest"
        )
    return text


#: Errors in the table, and the columns of metrics that they are in.
_ERRORS = {"running": "train_error", "clean": "train_error_clean", "test": "test_error"}


def remedy_fields(networks: Sequence[Treated]) -> list[dict[str, Any]]:
    """One row per network and remedy: last errors, what the snapshots show, and the change against no remedy.

    Errors are fractions, with mean, standard deviation, least and greatest value over the finished seeds. What
    snapshots show is the median of `Along` over seeds. `clean_change` is the clean training error minus that of the
    same network and seed without a remedy, over the seeds that both have.
    """
    untreated = {own.network: own for own in networks if own.remedy == variants(EXPERIMENT)[0].name}
    rows = []
    for own in networks:
        row: dict[str, Any] = {"network": own.network, "remedy": own.remedy}
        row |= {"recipe": own.curve.experiment.recipe.name, "synthetic": own.curve.synthetic}
        row |= {"seeds": len(own.curve.seeds), "finished": len(_last(own.curve, "iteration"))}
        for name, key in _ERRORS.items():
            row |= _over_seeds(name, [*_last(own.curve, key).values()])
        other = untreated.get(own.network, own)
        before, after = ({} if other is own else _last(t.curve, _ERRORS["clean"]) for t in (other, own))
        row |= _over_seeds("clean_change", [after[seed] - before[seed] for seed in after if seed in before])
        row["growth_end"] = _median(own, GROWTH, lambda values: values[-1])
        row["growth_greatest"] = _median(own, GROWTH, _greatest)
        for name, quantity in (("relative", RELATIVE), ("correlation", CORRELATION), ("dead", DEAD)):
            row[f"{name}_start"] = _median(own, quantity, lambda values: values[0])
            row[f"{name}_end"] = _median(own, quantity, lambda values: values[-1])
        rows.append(row)
    return rows


def _last(curve: Curve, key: str) -> dict[int, float]:
    """The last value of a column of metrics for each finished seed that has one."""
    complete = [seed for seed in curve.paths if curve.seeds[seed] == Status.COMPLETE]
    last = {seed: RunRecord(curve.paths[seed]).metrics()[-1:] for seed in complete}
    found = {seed: row.finite(key) for seed, rows in last.items() for row in rows}
    return {seed: value for seed, value in found.items() if value is not None}


def _over_seeds(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, least and greatest value; each is None where the values do not give one."""
    some, several = len(values) > 0, len(values) > 1
    middle = {f"{name}_mean": mean(values) if some else None, f"{name}_std": stdev(values) if several else None}
    return middle | {f"{name}_least": min(values, default=None), f"{name}_greatest": max(values, default=None)}


def _median(own: Treated, quantity: str, pick: Callable[[list[float]], float]) -> float | None:
    """The median over finished seeds of one value along training; None where no seed has it."""
    complete = (run for seed, run in own.along.items() if own.curve.seeds[seed] == Status.COMPLETE)
    values = [pick(run.values[quantity]) for run in complete]
    return median(known) if (known := [value for value in values if not math.isnan(value)]) else None


def _greatest(values: Sequence[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _number(key: str, form: str, unit: float = 1) -> Callable[[Mapping[str, Any]], str]:
    """A column that shows one number of each row."""
    return lambda row: "-" if row[key] is None else form.format(unit * row[key])


def _ranged(key: str, form: str = "{:.2f}") -> Callable[[Mapping[str, Any]], str]:
    """A column of means in percent, followed by the least and the greatest where there are several seeds."""

    def cell(row: Mapping[str, Any]) -> str:
        values = [row[f"{key}_{word}"] for word in ("mean", "least", "greatest")]
        if values[0] is None:
            return "-"
        middle, *ends = (form.format(100 * value) for value in values)
        return middle if values[1] == values[2] else f"{middle} ({'..'.join(ends)})"

    return cell


def _finished(row: Mapping[str, Any]) -> str:
    return str(row["seeds"]) if row["finished"] == row["seeds"] else f"{row['finished']}/{row['seeds']}"


def _change(row: Mapping[str, Any]) -> str:
    spread = row["clean_change_std"]
    middle = _number("clean_change_mean", "{:+.1f}", 100)(row)
    return middle if spread is None else f"{middle}±{100 * spread:.1f}"


_CORRELATION, _DEAD = _number("correlation_end", "{:.2f}"), _number("dead_end", "{:.1f}", 100)

#: Columns of the table for readers; text of 80 columns has room for some of them.
_COLUMNS = {
    "seeds": _finished,
    "running%": _ranged("running"),
    "clean%": _ranged("clean"),
    "change": _ranged("clean_change", "{:+.2f}"),
    "test%": _ranged("test"),
    "growth": _number("growth_end", "{:#.3g}"),
    "greatest growth": _number("growth_greatest", "{:#.3g}"),
    "gradient at first": _number("relative_start", "{:.1e}"),
    "gradient": _number("relative_end", "{:.1e}"),
    "correlation": _CORRELATION,
    "dead%": _DEAD,
}
_TEXT = {
    "clean%": _number("clean_mean", "{:.1f}", 100),
    "change": _change,
    "test%": _number("test_mean", "{:.1f}", 100),
    "growth": _number("growth_end", "{:.3g}"),
    "grad.": _number("relative_end", "{:.0e}"),
    "corr": _CORRELATION,
    "dead%": _DEAD,
}

_NOTE = (
    "At the end of training. change: clean training error in points against no remedy, the seeds paired. growth: "
    "norm of the weights over the initial one, greatest 3x3 convolution. {gradient}: norm of the weights' gradient "
    "over that of the weights, geometric mean of the first third of the 3x3 convolutions. {corr}: cosine of the "
    f"gradients at an image and at one with noise of {NOISE:g} of its deviation, mean of the same layers. dead%: "
    "ReLU units that are zero on every image, mean of the layers."
)


def remedy_table(networks: Sequence[Treated], *, form: str = "text") -> str:
    """The rows of `remedy_fields` as `text` of 80 columns, with what there is room for, `markdown`, or `csv`."""
    rows = remedy_fields(networks)
    if form == "csv":
        return as_csv(rows)
    if form == "markdown":
        cells = [[_named(row), row["remedy"], *(cell(row) for cell in _COLUMNS.values())] for row in rows]
        written = table(["network", "remedy", *_COLUMNS], cells, form)
        return f"{written}\n\n{_NOTE.format(gradient='gradient', corr='correlation')}"
    cells = [[row["remedy"], *(cell(row) for cell in _TEXT.values())] for row in rows]
    head, *lines = table(["remedy", *_TEXT], cells, form).splitlines()
    blocks = [f"errors: mean of the seeds ± standard deviation; growth to dead%: their median\n{head}"]
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [(row, line) for row, line in zip(rows, lines, strict=True) if row["network"] == network]
        seeds = "/".join(dict.fromkeys(_finished(row) for row, _ in own))
        name = f"{_named(own[0][0])}, {seeds} seed{'s' * (seeds != '1')}"
        blocks.append("\n".join([name, *(line for _, line in own)]))
    if remarks := [f"{t.network}, {t.remedy}: {t.curve.remark}" for t in networks if t.curve.remark]:
        blocks.append("\n".join(remarks))
    return "\n\n".join([*blocks, "\n".join(textwrap.wrap(_NOTE.format(gradient="grad.", corr="corr"), 80))])


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['network']}{' (synthetic)' * row['synthetic']}"
