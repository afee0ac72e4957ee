"""One HTML page of some runs: curves to explore, verdict, tables, settings, pictures, commands.

The page holds all that it needs, plotly's script included, and opens from disk without a network. page.html is its
template, page.js its script. Everything that comes from a record is escaped: by jinja2 in the page, by page.js where
plotly would read it as markup.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from degrade import __version__
from degrade.analysis import facts
from degrade.analysis.chapters import Group, chapters, experiments
from degrade.analysis.charts import rounded
from degrade.analysis.curves import BANDS, Array, Curve, Series, legible
from degrade.analysis.table import ERROR_HEAD, RUN_HEAD, differing_settings, error_cells, run_cells, run_fields
from degrade.analysis.text import headline, interval_in_words, notes, said
from degrade.analysis.verdict import Verdict, verdicts
from degrade.config import compose
from degrade.config.identity import departures, open_choices
from degrade.errors import ConfigError
from degrade.metrics import Metrics
from degrade.runs import Run, Status

#: The most bytes of a page, of which plotly's script takes 4.7 million. Pictures beyond them are left out and named.
LIMIT = 6_000_000

#: How many numbers the curves of all runs may have together, some seven bytes each; beyond that they are thinned.
NUMBERS = 100_000


def save_page(curves: Sequence[Curve], path: Path) -> None:
    """Write the page of some networks, of one experiment or several.

    Raises:
        ConfigError: the path cannot be written.
    """
    with facts.writable(path):
        path.write_text(page(curves), encoding="utf-8")


def page(curves: Sequence[Curve], *, live: Mapping[str, Any] | None = None) -> str:
    """The page of some networks, less than `LIMIT` bytes of HTML unless there are thousands of runs.

    Args:
        curves: the networks.
        live: makes a page of `degrade watch`: after so many `seconds` it asks its server whether there is more than
            its `stamp` says. None: a page that asks nobody.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    rooms = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=rooms, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html")
    content, plotly = {**_content(curves), "live": live}, get_plotlyjs()
    bare = template.render(content, plotly="", chapters=[], left_out=[])
    room = LIMIT - len(os.fsencode(bare)) - len(os.fsencode(plotly)) - 20_000  # 20 kB: captions and names of pictures
    told, left_out = chapters(curves, room)
    content["data"]["charts"] = [chart for _, _, charts, _ in told for chart in charts]
    return legible(template.render(content, plotly=plotly, chapters=told, left_out=left_out))


def _content(curves: Sequence[Curve]) -> dict[str, Any]:
    """All that the template shows, except plotly and the pictures."""
    folders = sorted({os.path.relpath(curve.folder) for curve in curves})
    runs = [{seed: Run(path) for seed, path in curve.paths.items()} for curve in curves]
    count = sum(map(len, runs))
    # A record older than a setting was made with what is now the default.
    settings = [{seed: run.experiment.flat() for seed, run in own.items()} for own in runs]
    below = Path(folders[0]) if len(folders) == 1 else Path()
    lines = _Lines(max(16, NUMBERS // (4 * count + 6 * len(curves))))
    found = verdicts(curves)
    told = _told(found)
    groups = experiments(curves, told.curves[0].folder if told else None)
    named = {}
    for g, group in enumerate(groups):
        signs = facts.signs([curves[k] for k in group.members])
        for k, name, (shade, sign) in zip(group.members, group.names, signs, strict=True):
            named[k] = {"name": name, "group": g, "colour": shade, "sign": sign}
    networks = [_network(curve, runs[k], lines) | named[k] for k, curve in enumerate(curves)]
    axis = facts.has_paper_axis(curves)
    commands = [own for curve, told in zip(curves, settings, strict=True) for own in _commands(curve, told, curves)]
    return {
        "version": __version__,
        "folders": folders,
        "title": _few([Path(folder).resolve().name for folder in folders]),
        "groups": groups,
        "facts": [facts.plural(len(curves), "network"), *facts.runs_facts(curves, banded=False)],
        "measured": {
            "running": f"{facts.RUNNING.capitalize()} (dashed: {facts.MEASURED[facts.RUNNING]}, while training)",
            "clean": f"{facts.CLEAN} ({facts.MEASURED[facts.CLEAN]})",
        },
        "synthetic": [curve.label for curve in curves if curve.synthetic],
        "unfinished": _few([f"{curve.label}: {curve.remark}" for curve in curves if curve.remark], "; "),
        "verdicts": found,
        "told": told,
        "headline": told and headline(told),
        "notes": notes,
        "interval_in_words": interval_in_words,
        "said": said,
        "errors": _grouped(_without_empty([_error_cells(curve) for curve in curves]), groups),
        "data": {
            "networks": networks,
            "groups": len(groups),
            "charts": [],
            "grids": lines.grids,
            "ceiling": facts.PAPER_TOP if axis else None,
            "band": BANDS[curves[0].band],
            "kinds": {"train": facts.RUNNING, "clean": facts.CLEAN, "test": facts.TEST},
            "panels": _panels(curves, told, networks) if told else [],
            "follows_paper": bool(told and all(curve.follows_paper for curve in told.curves)),
        },
        "axis": facts.PAPER_AXIS.capitalize() if axis else "",
        "several_seeds": count > len(curves),
        "follows_paper": all(curve.follows_paper for curve in curves),
        "thinned": lines.thinned and f"{lines.thinned} of {lines.drawn} curves were thinned to {lines.most} points",
        "runs": _without_empty([_run_cells(run, below) for own in runs for run in own.values()]),
        "departures": facts.told_apart(curves, departures),
        "choices": facts.told_apart(curves, open_choices),
        "settings": _differing_settings(curves, runs),
        "environment": _environment(curves, runs),
        "commands": list(dict.fromkeys(commands)),
        "after": [shlex.join(["degrade", verb, *folders]) for verb in ("verify", "plot", "report")],
    }


def _told(found: Sequence[Verdict]) -> Verdict | None:
    """The verdict whose finding is the page's headline: of the paper's recipe, with a family more, of more seeds."""
    able = [verdict for verdict in found if headline(verdict)]

    def weight(verdict: Verdict) -> tuple[bool, int, int]:
        families = {curve.family for curve in verdict.curves}
        seeds = min(len(curve.seeds) for curve in verdict.curves)
        return all(curve.follows_paper for curve in verdict.curves), len(families), seeds

    return max(able, key=weight, default=None)


def _panels(curves: Sequence[Curve], told: Verdict, networks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Panels of the page's first chart, one per family: their networks' numbers, and a colour for each depth.

    The colours are those of the chart of all curves, unless that is several charts, each with colours of its own.
    """
    own = [(k, curve) for k, curve in enumerate(curves) if curve in told.curves and not curve.built]
    shades = {k: shade for (k, _), (shade, _) in zip(own, facts.signs([curve for _, curve in own]), strict=True)}
    if len({networks[k]["group"] for k in shades}) == 1:
        shades = {k: networks[k]["colour"] for k in shades}
    families = sorted({curve.family for _, curve in own}, key=lambda family: (family == told.families[1], family))
    found = []
    for family in families:
        members = sorted((curve.depth, k) for k, curve in own if curve.family == family)
        lines = [{"network": k, "depth": depth, "colour": shades[k]} for depth, k in members]
        found.append({"title": "VGG" if family == "vgg" else f"{family} networks", "lines": lines})
    return found


# Curves


class _Lines:
    """Curves for the page's script, rounded, and thinned to at most `most` points.

    A curve names its iterations by their number among `grids`, since most curves have the same ones.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.grids: list[list[int]] = []
        self.drawn = self.thinned = 0

    def line(self, iterations: Sequence[float] | Array, **values: Sequence[float] | Array) -> dict[str, Any]:
        """A curve of one or several quantities over the same iterations."""
        arrays = {name: np.asarray(own, np.float64) for name, own in values.items()}
        kept = kept_points(list(arrays.values()), self.most)
        self.drawn += 1
        self.thinned += len(kept) < len(iterations)
        grid = [int(iterations[k]) for k in kept]
        if grid not in self.grids:
            self.grids.append(grid)
        points = {name: [rounded(own[k], 5) for k in kept] for name, own in arrays.items()}
        return {"grid": self.grids.index(grid)} | points

    def measured(self, rows: Sequence[Metrics], key: str, unit: float) -> dict[str, Any]:
        """A curve of what a run measured of one quantity."""
        points = [(row.iteration, unit * value) for row in rows if (value := row.finite(key)) is not None]
        return self.line([x for x, _ in points], values=[y for _, y in points])

    def mean(self, series: Series) -> dict[str, Any]:
        """A curve of the mean over seeds, its band where there are several, and how many each point stands on."""
        band = {"low": 100 * series.low, "high": 100 * series.high} if (series.seeds > 1).any() else {}
        return self.line(series.iteration, values=100 * series.mean, count=series.seeds.astype(np.float64), **band)

    def rate(self, rows: Sequence[Metrics], milestones: Sequence[int]) -> dict[str, Any]:
        """A curve of the learning rate in the rows, and at each milestone between two of them.

        At a milestone the rate is still the one before it.
        """
        points = {row.iteration: rate for row in rows if (rate := row.finite("lr")) is not None}
        for milestone in milestones:
            before = [iteration for iteration in points if iteration < milestone]
            if before and milestone < max(points):
                points.setdefault(milestone, points[max(before)])
        return self.line(sorted(points), values=[points[iteration] for iteration in sorted(points)])


def kept_points(values: Sequence[Array], most: int) -> npt.NDArray[np.int64]:
    """Indices of the points to draw: all, or the first, the last, and the extremes of each of several stretches.

    The quantities are over the same points, of which at most `most` are kept, which is 16 or more.
    """
    count = len(values[0])
    if count <= most:
        return np.arange(count)
    kept = {0, count - 1}
    for stretch in np.array_split(np.arange(count), max(1, (most - 2) // (2 * len(values)))):
        for own in values:
            kept |= {int(stretch[own[stretch].argmin()]), int(stretch[own[stretch].argmax()])}
    return np.array(sorted(kept), np.int64)


def _network(curve: Curve, runs: Mapping[int, Run], lines: _Lines) -> dict[str, Any]:
    """A network's curves, with errors in percent."""
    rows = {seed: run.metrics() for seed, run in runs.items()}
    errors, recipe = {"train": "train_error", "test": "test_error"}, curve.experiment.recipe
    return {
        "label": curve.label + (" (SYNTHETIC)" if curve.synthetic else ""),
        "remark": curve.remark,
        "ended": {"diverged": "x", "unfinished": "circle-open"}.get(facts.ended(curve), ""),
        "mean": {"train": lines.mean(curve.train), "test": lines.mean(curve.test)},
        "seeds": [
            {"seed": seed}
            | {which: lines.measured(own, key, 100) for which, key in errors.items()}
            | {"speed": lines.measured(own, "images_per_second", 1)}
            for seed, own in rows.items()
        ],
        "rate": lines.rate(next(iter(rows.values())), recipe.milestones if recipe.schedule == "steps" else []),
        "clean": rounded(100 * float(np.mean(curve.clean_train)), 5) if curve.clean_train else None,
        "paper": {w: rounded(100 * e, 5) for w in errors if (e := facts.papers(curve, w)) is not None},
    }


# Tables


def _few(texts: Sequence[str], between: str = ", ") -> str:
    """The first four of some texts, and how many more there are."""
    return between.join([*texts[:4], *([f"and {len(texts) - 4} more"] if len(texts) > 4 else [])])


def _grouped(table: dict[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    """The table of networks with the experiment's title, as a row of one cell, above the networks of each."""
    if len(groups) == 1:
        return table
    rows = []
    for group in groups:
        own = zip(group.members, group.names, strict=True)
        rows += [[group.title], *([name, *table["rows"][k][1:]] for k, name in own)]
    return {**table, "rows": rows}


def _error_cells(curve: Curve) -> dict[str, str]:
    """The table's cells under their long names, parameters, and the range of other reproductions."""
    errors = curve.final["test_error"]
    others = facts.inside(facts.reproductions(curve), float(np.mean(errors)) if errors else None)
    cells = dict(zip(ERROR_HEAD.values(), error_cells(curve).values(), strict=True))
    cells["parameters"] = "-" if curve.parameters is None else f"{curve.parameters:,}"
    return {**cells, "others' test": others.removeprefix("-")}


def _run_cells(run: Run, below: Path) -> dict[str, str]:
    fields = run_fields(run, below)
    error = run.summary.get("error") if fields["status"] in (Status.FAILED, Status.DIVERGED) else None
    long = {**ERROR_HEAD, "iters": "iterations"}
    cells = dict(zip((long.get(name, name) for name in RUN_HEAD), run_cells(fields), strict=True))
    return {**cells, "remark": error or ""}


def _without_empty(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A table without the columns that hold nothing in any row."""
    kept = [key for key in rows[0] if any(row[key] not in ("", "-") for row in rows)]
    return {"head": kept, "rows": [[row[key] for key in kept] for row in rows]}


def _differing_settings(curves: Sequence[Curve], runs: Sequence[Mapping[int, Run]]) -> dict[str, Any]:
    """Settings that are not the same in all runs: their names, and one row per network."""
    places = [(k, seed) for k, own in enumerate(runs) for seed in own]
    found = differing_settings([runs[k][seed].experiment for k, seed in places], every=True)
    of = dict(zip(places, found, strict=True))
    names = sorted(found[0])
    rows = []
    for k, (curve, own) in enumerate(zip(curves, runs, strict=True)):
        cells = [_by_value({seed: _text(of[k, seed][name]) for seed in own}) for name in names]
        told = [[f"{v} ({_seeds(whose)})" if len(cell) > 1 else v for v, whose in cell.items()] for cell in cells]
        rows.append([curve.label, *map("; ".join, told)])
    return {"names": names, "rows": rows}


def _by_value(values: Mapping[Any, str]) -> dict[str, list[Any]]:
    """Each value, and whose it is."""
    whose: dict[str, list[Any]] = {}
    for who, value in values.items():
        whose.setdefault(value, []).append(who)
    return whose


def _environment(
    curves: Sequence[Curve], runs: Sequence[Mapping[int, Run]]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each fact of the runs' environments: its name and (value, whose it is; empty if it is the value of all)."""
    found = {
        (curve.label, seed): _environment_of(run)
        for curve, own in zip(curves, runs, strict=True)
        for seed, run in own.items()
    }
    facts = []
    for name in dict.fromkeys(name for own in found.values() for name in own):
        values = _by_value({run: own.get(name, _UNKNOWN) for run, own in found.items()})
        facts.append((name, [(value, _whose(whose) if len(values) > 1 else "") for value, whose in values.items()]))
    return facts


_UNKNOWN = "not recorded"


def _environment_of(run: Run) -> dict[str, str]:
    """A record's environment.json; of each fact of its sessions one value, or all of them where they differ."""
    environment, sessions = run.environment, [_flat(session) for session in run.sessions]
    named = dict.fromkeys(name for session in sessions for name in session if not name.endswith("iteration"))
    several = {name: "; ".join(dict.fromkeys(own.get(name, _UNKNOWN) for own in sessions)) for name in named}
    for name in ("sessions", "git", "versions"):
        environment.pop(name, None)
    once = {name: value for name, value in _flat(environment).items() if name not in named}
    return {**once, **({"sessions": f"{len(sessions)}"} if sessions else {}), **several}


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """One name and one text for each fact."""
    facts: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, dict):
            facts |= {f"{name}, {inner}": _text(own) for inner, own in value.items()}
        elif name not in ("schema_version", "parameters"):
            facts[str(name)] = _text(value)
    return {name.replace("_", " "): value for name, value in facts.items()}


def _whose(runs: Sequence[tuple[str, int]]) -> str:
    """Some runs, by network: `plain-20, seeds 1, 2; plain-56, seed 1`."""
    seeds: dict[str, list[int]] = {}
    for label, seed in runs:
        seeds.setdefault(label, []).append(seed)
    told = [f"{label}, {_seeds(own)}" for label, own in seeds.items()]
    return "; ".join(told[:8]) + (f"; and {len(told) - 8} more networks" if len(told) > 8 else "")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


# Commands


def _commands(curve: Curve, settings: Mapping[int, Mapping[str, Any]], curves: Sequence[Curve]) -> list[str]:
    """The command that trains all seeds of a network again; one for each seed where a shell cannot take a setting."""
    first, *others = curve.paths
    # Seeds may differ in settings that don't change the result, such as threads; those are left to the machine.
    shared = {k: v for k, v in settings[first].items() if all(own.get(k) == v for own in settings.values())}
    files = any(own.get("modules") for own in settings.values())  # --with alone sets them; --config loads them
    words = _overrides({key: value for key, value in shared.items() if key != "modules"})
    if curve.built:
        alike = [own for own in curves if own.experiment.model.start == curve.experiment.model.start]
        return [_building_command(curve, words or [], max(own.depth for own in alike))]
    if words is None or files:
        return [
            shlex.join(["degrade", "train", "--config", str(path / "config.yaml")]) for path in curve.paths.values()
        ]
    verb = "sweep" if others else "train"
    return [shlex.join(["degrade", verb, *words, f"seed={','.join(map(str, curve.paths))}"])]


def _building_command(curve: Curve, words: Sequence[str], depth: int) -> str:
    """The command that builds a network from a trained one and trains both on.

    `curve` is the built network, or the control beside it, which is the trained one trained on, and `words` are its
    settings as the shell takes them. `depth` is the greatest depth of the networks that began as the trained one.
    """
    network, _, rest = str(curve.experiment.model.start).rpartition(".seed-")
    if network.split(",")[0] == f"{curve.family}-{depth}":
        depth += 6  # only the control is left, which is trained beside a built network of any greater depth
    folder = curve.folder.with_name(curve.folder.name.removesuffix("-construct"))
    run = os.path.relpath(folder / network / f"seed-{rest.split('.')[0]}")
    further = ["--depth", str(depth), "--continue", str(curve.experiment.recipe.iterations)]
    # Network, recipe, precision and folder are taken from the trained one.
    taken = ("recipe", "model.", "name=", "output=", "runtime.precision=")
    own = [word for word in words if not word.startswith(taken)]
    return shlex.join(["degrade", "probe", "construct", run, *further, *own])


def _overrides(settings: Mapping[str, Any]) -> list[str] | None:
    """The recipe and the settings that differ from it, as the shell takes them; None where it cannot take a value."""
    recipe = f"recipe={settings['recipe.name']}"
    try:
        usual = compose([recipe]).flat()
    except ConfigError:
        return None
    named = ("model.family", "model.depth")  # a reader looks for them, even if they are the default
    told = {k: v for k, v in settings.items() if k in named or k not in usual or usual[k] != v}
    told.pop("seed", None)
    if not all(_is_word(value) for value in told.values() if isinstance(value, str)):
        return None
    # Hydra reads all values but texts as JSON writes them.
    words = {k: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for k, v in told.items()}
    return [recipe, *(f"{key}={word}" for key, word in words.items())]


def _is_word(text: str) -> bool:
    """Whether Hydra takes a text without quotes."""
    constants = ("null", "true", "false", "nan", "inf")
    return bool(re.fullmatch(r"[A-Za-z_/][\w./-]*", text)) and text.lower() not in constants
