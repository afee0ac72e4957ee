"""Remedies for early degradation side by side: what each does to the error, to the weights, and to their gradient.

A plain network's first updates make the weights of its first layers many times as large, after which batch norm lets
them learn slowly. Networks trained under remedies, as configs/experiment/remedies.yaml lists them, show how much of
the error is that scar: all is drawn from their records and from what `gradients` found at their snapshots.
"""

import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from degrade.analysis.curves import BANDS, Curve
from degrade.analysis.figures import COLOURS, finished, footer, new_figure
from degrade.analysis.table import as_csv, table
from degrade.config import Experiment, Variant, variants
from degrade.config.schema import flatten, settings
from degrade.config.setting import Kind
from degrade.errors import RunError
from degrade.probes.gradients import CORRELATION, DEAD, GROWTH, NOISE, RELATIVE, gradients, stages
from degrade.probes.numbers import Row, looked_at
from degrade.runs import RunRecord

#: The experiment whose variants the remedies are.
EXPERIMENT = "remedies"

#: Black for networks without a remedy, then one colour for each remedy.
_COLOURS = (COLOURS[6], *COLOURS[:6], COLOURS[7])

#: Rows of the figure, from above: the error, and what is drawn of `Along`.
_PANELS = {
    "error": "running training error (%)",
    GROWTH: "norm of the weights\nrelative to the initial one,\ngreatest layer",
    RELATIVE: "gradient relative to\nthe weights, first layers",
}


@dataclass(frozen=True)
class Along:
    """What one run's layers came to at each of its snapshots.

    Attributes:
        iterations: of the snapshots.
        values: under GROWTH the greatest of the 3x3 convolutions; under RELATIVE and CORRELATION the geometric and
            the arithmetic mean of the first third of them; under DEAD the mean of all layers with a ReLU. nan where
            the record does not say.
        images: what was looked at, in words.
    """

    iterations: list[int]
    values: dict[str, list[float]]
    images: str


@dataclass(frozen=True)
class Treated:
    """A network trained under a remedy, or under none.

    Attributes:
        network: family and depth, and whatever else is no remedy and tells it from the others.
        remedy: its name, or the settings themselves where no remedy has them.
        curve: its errors.
        along: of each seed, where anything was found in its snapshots.
    """

    network: str
    remedy: str
    curve: Curve
    along: dict[int, Along]


def treated(
    curves: Sequence[Curve], *, device: str = "auto", complain: Callable[[str], object] = print
) -> list[Treated]:
    """Networks and their remedies, sorted by network and in the order of the remedies.

    Args:
        curves: the networks; each run's snapshots are measured, unless its `probes/gradients.csv` has the numbers.
        device: where it is measured, as `runtime.device`.
        complain: told of each run in which nothing can be looked at.
    """
    known = variants(EXPERIMENT)
    keys = {key for variant in known for key in variant.changes}
    found = []
    for curve in curves:
        along: dict[int, Along] = {}
        for seed, path in curve.paths.items():
            try:
                along[seed] = summaries(gradients(RunRecord(path), device=device))
            except RunError as error:
                complain(f"left out: {error}")
        found.append(Treated(_network(curve, curves, keys), remedy(curve.config, known), curve, along))
    order = [variant.name for variant in known]
    return sorted(found, key=lambda t: (t.curve.family, t.curve.depth, t.network, _place(t.remedy, order), t.remedy))


def _network(curve: Curve, among: Sequence[Curve], keys: Collection[str]) -> str:
    """Family and depth, and what tells networks of these apart beside `keys`, the settings that make remedies."""
    alike = [flatten(c.config) for c in among if (c.family, c.depth) == (curve.family, curve.depth)]
    own = flatten(curve.config)
    told = {key for key, about in settings().items() if about.kind is Kind.INCIDENTAL and key != "name"}
    told |= {"seed", "data.root", *keys}
    extra = [f"{key}={own[key]}" for key in own if key not in told and any(c.get(key) != own[key] for c in alike)]
    return ", ".join([f"{curve.family}-{curve.depth}", *extra])


def remedy(config: Mapping[str, Any], known: Sequence[Variant]) -> str:
    """What settings do against degradation: the name of the variant that they are, or the settings themselves.

    Args:
        config: a record's nested settings.
        known: the variants; only what one of them sets is looked at.
    """
    usual, ours = Experiment().flat(), flatten(dict(config))
    keys = sorted({key for variant in known for key in variant.changes})
    changed = {key: ours[key] for key in keys if ours.get(key, usual[key]) != usual[key]}
    named = (variant.name for variant in known if variant.changes == changed)
    return next(named, ", ".join(f"{key}={value}" for key, value in changed.items()))


def summaries(rows: Sequence[Row]) -> Along:
    """What the layers of one run come to.

    Args:
        rows: of `gradients`; those of earlier versions lack columns.
    """
    iterations, each = stages(rows)
    values: dict[str, list[float]] = {GROWTH: [], RELATIVE: [], CORRELATION: [], DEAD: []}
    for own in each:
        convolutions = [row for row in own if not str(row["name"]).startswith("linear")]
        first = convolutions[: -(-len(convolutions) // 3)]
        values[GROWTH].append(float(np.max([float(row[GROWTH]) for row in convolutions])))
        values[RELATIVE].append(_geometric_mean([float(row[RELATIVE]) for row in first]))
        values[CORRELATION].append(mean(float(row.get(CORRELATION, math.nan)) for row in first))
        values[DEAD].append(mean(float(row.get(DEAD, math.nan)) for row in own[:-1]))
    return Along(iterations, values, looked_at(rows, "training"))


def _geometric_mean(values: Sequence[float]) -> float:
    if not all(math.isfinite(value) for value in values):
        return math.nan
    return math.exp(mean(map(math.log, values))) if all(values) else 0.0


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def draw_remedies(networks: Sequence[Treated], *, title: str | None = None) -> Figure:
    """Error, growth of the weights and gradient of the first layers; a column for each network, a colour a remedy.

    Args:
        networks: of `treated`.
        title: above the panels.
    """
    columns = list(dict.fromkeys(own.network for own in networks))
    order = [variant.name for variant in variants(EXPERIMENT)]
    remedies = sorted(dict.fromkeys(own.remedy for own in networks), key=lambda name: _place(name, order))
    extra = [name for name in remedies if name not in order]
    colours = {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate([*order, *extra])}
    figure, axes = new_figure(len(_PANELS), len(columns), (max(4.2, 1.2 + 2.3 * len(columns)), 7.2))
    for row, (quantity, name) in enumerate(_PANELS.items()):
        panels = axes[row * len(columns) : (row + 1) * len(columns)]
        for panel, column in zip(panels, columns, strict=True):
            for own in (t for t in networks if t.network == column):
                style = {"color": colours[own.remedy], "linewidth": 1.3}
                if own.remedy == order[0]:
                    style |= {"linewidth": 2.4, "zorder": 1.9}  # below the others, and seen where they cover it
                if quantity == "error":
                    _draw_error(panel, own.curve, **style)
                else:
                    _draw_along(panel, list(own.along.values()), quantity, **style)
            panel.grid(alpha=0.25, linewidth=0.5)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel(name)
        _share_axes(panels, logarithmic=quantity != "error")
    for panel, column in zip(axes, columns, strict=False):
        panel.set_title(column, fontsize=9)
        panel.set_xlabel("iteration")
    for panel in axes[-len(columns) :]:
        panel.set_xlabel("iteration, logarithmic from 1")
    handles = [Line2D([], [], color=colours[name], linewidth=1.8, label=name) for name in remedies]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4,
        fontsize=8,
        frameon=False,
        title=title,
        title_fontsize=10,
    )
    return finished(figure, f"{_what(networks)}\n{_footer(networks)}", None)


def _draw_error(panel: Axes, curve: Curve, **style: Any) -> None:
    series = curve.train
    panel.plot(series.iteration, 100 * series.mean, **style)
    if (series.seeds > 1).any():
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        panel.fill_between(series.iteration, 100 * series.low, 100 * series.high, **band)


def _draw_along(panel: Axes, runs: Sequence[Along], quantity: str, **style: Any) -> None:
    """The median over seeds, and their range as a band."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for iteration, value in zip(run.iterations, run.values[quantity], strict=True):
            if math.isfinite(value) and value > 0:
                found.setdefault(iteration, []).append(value)
    iterations = sorted(found)
    panel.plot(iterations, [median(found[k]) for k in iterations], marker=".", markersize=4, **style)
    if len(runs) > 1:
        low, high = ([pick(found[k]) for k in iterations] for pick in (min, max))
        panel.fill_between(iterations, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _share_axes(panels: Sequence[Axes], *, logarithmic: bool) -> None:
    """One scale for the networks of a row, so that they can be set side by side."""
    limits = [panel.dataLim for panel in panels if np.isfinite(panel.dataLim.get_points()).all()]
    low, high = (pick((limit.intervaly[k] for limit in limits), default=1) for k, pick in ((0, min), (1, max)))
    last = max((limit.xmax for limit in limits), default=1)
    for k, panel in enumerate(panels):
        panel.tick_params(labelleft=k == 0)
        if not logarithmic:
            room = 0.05 * (high - low) or 1
            panel.set_ylim(max(0, low - room), min(101, high + room))
            panel.set_xlim(0, 1.02 * last)
            panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
            panel.xaxis.set_major_formatter("{x:,.0f}")
            continue
        panel.set_yscale("log")
        panel.set_ylim(low / 1.15, high * 1.15)
        if high < 1000 * low:
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xscale("symlog", linthresh=1)  # 0 is the network before its first update
        panel.set_xlim(-0.1, 1.3 * last)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter("{x:,.0f}")


def _what(networks: Sequence[Treated]) -> str:
    """What the numbers are, for below the figure."""
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


def _footer(networks: Sequence[Treated]) -> str:
    """As below other figures, where what sets a remedy apart is said once for all networks under it."""
    return footer([replace(own.curve, label=own.remedy) for own in networks], banded=False)


#: Ends of the names of columns, and the errors that they are of.
_OVER_SEEDS = ("mean", "std", "least", "greatest")
_ERRORS = {"running": "train_error", "clean": "train_error_clean", "test": "test_error"}


def remedy_fields(networks: Sequence[Treated]) -> list[dict[str, Any]]:
    """A row for each network and remedy: last errors, what the snapshots show, and the change against no remedy.

    Errors are fractions: mean, standard deviation, least and greatest over the finished seeds. What snapshots show is
    the median over seeds of `Along`. `clean_change` is the clean training error minus that of the same network and
    seed without a remedy, over the seeds that both have.

    Args:
        networks: of `treated`.
    """
    nothing = {own.network: own for own in networks if own.remedy == variants(EXPERIMENT)[0].name}
    rows = []
    for own in networks:
        last = _last_rows(own.curve)
        row: dict[str, Any] = {"network": own.network, "remedy": own.remedy}
        row |= {"recipe": own.curve.config["recipe"]["name"], "synthetic": own.curve.synthetic}
        row |= {"seeds": len(own.curve.seeds), "finished": len(last)}
        for name, key in _ERRORS.items():
            row |= _over_seeds(name, list(_values(last, key).values()))
        before = _values(_last_rows(nothing[own.network].curve), _ERRORS["clean"]) if own.network in nothing else {}
        after = {} if nothing.get(own.network) is own else _values(last, _ERRORS["clean"])
        row |= _over_seeds("clean_change", [after[seed] - before[seed] for seed in after if seed in before])
        row["growth_end"] = _median(own, GROWTH, lambda values: values[-1])
        row["growth_greatest"] = _median(own, GROWTH, _greatest)
        for name, quantity in (("relative", RELATIVE), ("correlation", CORRELATION), ("dead", DEAD)):
            row[f"{name}_start"] = _median(own, quantity, lambda values: values[0])
            row[f"{name}_end"] = _median(own, quantity, lambda values: values[-1])
        rows.append(row)
    return rows


def _last_rows(curve: Curve) -> dict[int, dict[str, Any]]:
    """The last row of metrics of each finished seed."""
    paths = {seed: path for seed, path in curve.paths.items() if curve.seeds[seed] == "complete"}
    return {seed: rows[-1] for seed, path in paths.items() if (rows := RunRecord(path).rows())}


def _values(rows: Mapping[int, Mapping[str, Any]], key: str) -> dict[int, float]:
    return {seed: float(row[key]) for seed, row in rows.items() if row.get(key) is not None}


def _over_seeds(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, least and greatest; None where there is none."""
    found = [mean(values), stdev(values) if len(values) > 1 else None, min(values), max(values)] if values else []
    return dict(zip((f"{name}_{word}" for word in _OVER_SEEDS), found or [None] * len(_OVER_SEEDS), strict=True))


def _median(own: Treated, quantity: str, pick: Callable[[list[float]], float]) -> float | None:
    """Over seeds, of one of the values along training; None where none is known."""
    values = [pick(run.values[quantity]) for run in own.along.values()]
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else None


def _greatest(values: Sequence[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


#: Columns of the table for readers; text of 80 columns has room for some of them.
_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "seeds": lambda row: str(
        row["seeds"] if row["finished"] == row["seeds"] else f"{row['finished']}/{row['seeds']}"
    ),
    "running%": lambda row: _range(row, "running", "{:.2f}"),
    "clean%": lambda row: _range(row, "clean", "{:.2f}"),
    "change": lambda row: _range(row, "clean_change", "{:+.2f}"),
    "test%": lambda row: _range(row, "test", "{:.2f}"),
    "growth": lambda row: _cell(row["growth_end"], "{:#.3g}"),
    "greatest growth": lambda row: _cell(row["growth_greatest"], "{:#.3g}"),
    "gradient at first": lambda row: _cell(row["relative_start"], "{:.1e}"),
    "gradient": lambda row: _cell(row["relative_end"], "{:.1e}"),
    "correlation": lambda row: _cell(row["correlation_end"], "{:.2f}"),
    "dead%": lambda row: _cell(row["dead_end"], "{:.1f}", 100),
}
_TEXT: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "clean%": lambda row: _cell(row["clean_mean"], "{:.1f}", 100),
    "change": lambda row: (
        _cell(row["clean_change_mean"], "{:+.1f}", 100) + _cell(row["clean_change_std"], "±{:.1f}", 100, "")
    ),
    "test%": lambda row: _cell(row["test_mean"], "{:.1f}", 100),
    "growth": lambda row: _cell(row["growth_end"], "{:.3g}"),
    "grad.": lambda row: _cell(row["relative_end"], "{:.0e}"),
    "corr": _COLUMNS["correlation"],
    "dead%": _COLUMNS["dead%"],
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
    blocks = [f"mean of the seeds ± standard deviation; of growth and what follows the median\n{head}"]
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [(row, line) for row, line in zip(rows, lines, strict=True) if row["network"] == network]
        seeds = "/".join(dict.fromkeys(_COLUMNS["seeds"](row) for row, _ in own))
        name = f"{_named(own[0][0])}, {seeds} seed{'s' * (seeds != '1')}"
        blocks.append("\n".join([name, *(line for _, line in own)]))
    if remarks := [f"{t.network}, {t.remedy}: {t.curve.remark}" for t in networks if t.curve.remark]:
        blocks.append("\n".join(remarks))
    return "\n\n".join([*blocks, "\n".join(textwrap.wrap(_NOTE.format(gradient="grad.", corr="corr"), 80))])


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['network']}{' (synthetic)' * row['synthetic']}"


def _cell(value: float | None, form: str, unit: float = 1, without: str = "-") -> str:
    return without if value is None else form.format(unit * value)


def _range(row: Mapping[str, Any], name: str, form: str) -> str:
    """The mean, and of several seeds the least and the greatest, in percent."""
    values = [row[f"{name}_{word}"] for word in ("mean", "least", "greatest")]
    if values[0] is None:
        return "-"
    middle, *ends = (form.format(100 * value) for value in values)
    return middle if values[1] == values[2] else f"{middle} ({'..'.join(ends)})"
