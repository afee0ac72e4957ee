"""One HTML page of some runs: curves to explore, verdict, tables, settings, pictures, commands.

The page holds all that it needs, plotly's script included, and opens from disk without a network. page.html is its
template, page.js its script. Everything that comes from a record is escaped: by jinja2 in the page, by page.js where
plotly would read it as markup.
"""

import base64
import io
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from degrade import __version__
from degrade.analysis import facts
from degrade.analysis.curves import BANDS, Array, Curve, Series, legible
from degrade.analysis.table import ERROR_HEAD, RUN_HEAD, error_cells, run_cells, run_fields
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


class Chapter(NamedTuple):
    """What the page says of pictures whose files' names begin in some way."""

    title: str
    intro: str
    """One sentence that says what was looked at, and why."""
    alt: str
    """Describes the picture to readers who cannot see it."""


#: Chapters that are told by pictures beside the runs, in the order of the story, by how the files' names begin.
CHAPTERS = {
    "compare": Chapter(
        "Why small filters",
        "Three 3x3 convolutions see as much of an image as one of 7x7, with half its weights and three ReLUs instead "
        "of one. That made deep stacks attractive.",
        "Parameters, multiply-adds and ReLUs of stacks of 3x3 convolutions beside those of one large convolution",
    ),
    "wall": Chapter(
        "The wall",
        "A network of the VGG kind is made deeper, one convolution in each of its last stages at a time. Where its "
        "line turns up, stacking has stopped to help.",
        "Last errors against depth, one line per family",
    ),
    "gradients-initial": Chapter(
        "Gradients before training",
        "Whether signals and gradients keep their size through a deep network depends on its initial weights and on "
        "batch norm.",
        "Norm of the loss' gradient at each layer before the first update, one line per network",
    ),
    "gradients": Chapter(
        "Gradients along training",
        "With batch norm gradients do not vanish. What counts is their size relative to the weights that they move.",
        "Norm of the loss' gradient, layer by iteration, one panel per network",
    ),
    "figure": Chapter(
        "The figure",
        "The curves as they are drawn for print, with what departs from the paper below them.",
        "Running training error and test error against iterations, one line per network, and diamonds where clean "
        "training error ended; the table of last errors has these ends",
    ),
    "remedies": Chapter(
        "Remedies",
        "What keeps a deep plain network from learning early? Each remedy keeps its first updates from doing harm, "
        "or lets it heal.",
        "Running training error, growth of the weights and gradient of the first layers along training, one line per "
        "remedy, one column per network",
    ),
    "responses": Chapter(
        "What the layers do",
        "How strongly each layer responds to images. In the paper residual layers respond less than plain ones, "
        "and less the more of them there are.",
        "Standard deviation of each layer's response, one line per network",
    ),
    "landscape": Chapter(
        "The loss around the networks",
        "The loss on a plane of two random directions around the trained weights.",
        "Loss around a trained network along two random directions, as contours",
    ),
    "trajectory": Chapter(
        "The paths of training",
        "How the weights moved while they were trained, on the plane that shows most of it, and the loss there.",
        "Path of each training on contours of the loss, and the loss along the path",
    ),
    "construct": Chapter(
        "The constructed solution",
        "A deeper network need not be worse: with identity layers added, it computes what the shallower one does. "
        "Whether training keeps that is seen here.",
        "Errors of a trained shallow network and of the deeper one built from it, which computes the same",
    ),
    "": Chapter("Other pictures", "These were found beside the runs.", "A picture"),
}


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
    shown, left_out = _pictures(curves, room)
    chapters = [(key or "other", chapter, shown[key]) for key, chapter in CHAPTERS.items() if key in shown]
    return legible(template.render(content, plotly=plotly, chapters=chapters, left_out=left_out))


def _content(curves: Sequence[Curve]) -> dict[str, Any]:
    """All that the template shows, except plotly and the pictures."""
    folders = sorted({os.path.relpath(curve.folder) for curve in curves})
    runs = [{seed: Run(path) for seed, path in curve.paths.items()} for curve in curves]
    count = sum(map(len, runs))
    # A record older than a setting was made with what is now the default.
    settings = [{seed: run.experiment.flat() for seed, run in own.items()} for own in runs]
    below = Path(folders[0]) if len(folders) == 1 else Path()
    lines = _Lines(max(16, NUMBERS // (4 * count + 6 * len(curves))))
    networks = [_network(curve, facts.colour(k), runs[k], lines) for k, curve in enumerate(curves)]
    axis = facts.has_paper_axis(curves)
    found = verdicts(curves)
    told = _told(found)
    commands = (_command(curve, own, curves) for curve, own in zip(curves, settings, strict=True))
    return {
        "version": __version__,
        "folders": folders,
        "title": ", ".join(Path(folder).resolve().name for folder in folders),
        "facts": [facts.plural(len(curves), "network"), *facts.runs_facts(curves, banded=False)],
        "measured": {
            "running": f"{facts.RUNNING.capitalize()} (dashed: {facts.MEASURED[facts.RUNNING]}, while training)",
            "clean": f"{facts.CLEAN} ({facts.MEASURED[facts.CLEAN]})",
        },
        "synthetic": [curve.label for curve in curves if curve.synthetic],
        "unfinished": [f"{curve.label}: {curve.remark}" for curve in curves if curve.remark],
        "verdicts": found,
        "told": told,
        "headline": told and headline(told),
        "notes": notes,
        "interval_in_words": interval_in_words,
        "said": said,
        "errors": _without_empty([_error_cells(curve) for curve in curves]),
        "data": {
            "networks": networks,
            "grids": lines.grids,
            "ceiling": facts.PAPER_TOP if axis else None,
            "band": BANDS[curves[0].band],
            "kinds": {"train": facts.RUNNING, "clean": facts.CLEAN, "test": facts.TEST},
            "panels": _panels(curves, told) if told else [],
            "follows_paper": bool(told and all(curve.follows_paper for curve in told.curves)),
        },
        "axis": facts.PAPER_AXIS.capitalize() if axis else "",
        "several_seeds": count > len(curves),
        "follows_paper": all(curve.follows_paper for curve in curves),
        "thinned": lines.thinned and f"{lines.thinned} of {lines.drawn} curves were thinned to {lines.most} points",
        "runs": _without_empty([_run_cells(run, below) for own in runs for run in own.values()]),
        "departures": facts.told_apart(curves, departures),
        "choices": facts.told_apart(curves, open_choices),
        "settings": _differing_settings(curves, settings),
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


def _panels(curves: Sequence[Curve], told: Verdict) -> list[dict[str, Any]]:
    """Panels of the page's first chart, one per family: their networks' numbers, and a colour for each depth."""
    own = [(k, curve) for k, curve in enumerate(curves) if curve in told.curves and not curve.built]
    families = sorted({curve.family for _, curve in own}, key=lambda family: (family == "residual", family))
    found = []
    for family in families:
        members = sorted((curve.depth, k) for k, curve in own if curve.family == family)
        lines = [{"network": k, "depth": depth} for depth, k in members]
        shades = {depth: place for place, depth in enumerate(dict.fromkeys(depth for depth, _ in members))}
        for line in lines:
            line["colour"] = facts.colour(shades[line["depth"]])  # type: ignore[assignment]
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
        points = {name: [_rounded(own[k]) for k in kept] for name, own in arrays.items()}
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


def _rounded(value: float) -> float | int:
    """The value to five significant digits."""
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() else short


def _network(curve: Curve, shade: str, runs: Mapping[int, Run], lines: _Lines) -> dict[str, Any]:
    """A network's curves, with errors in percent."""
    rows = {seed: run.metrics() for seed, run in runs.items()}
    errors, recipe = {"train": "train_error", "test": "test_error"}, curve.experiment.recipe
    return {
        "label": curve.label + (" (SYNTHETIC)" if curve.synthetic else ""),
        "remark": curve.remark,
        "colour": shade,
        "ended": {"diverged": "x", "unfinished": "circle-open"}.get(facts.ended(curve), ""),
        "mean": {"train": lines.mean(curve.train), "test": lines.mean(curve.test)},
        "seeds": [
            {"seed": seed}
            | {which: lines.measured(own, key, 100) for which, key in errors.items()}
            | {"speed": lines.measured(own, "images_per_second", 1)}
            for seed, own in rows.items()
        ],
        "rate": lines.rate(next(iter(rows.values())), recipe.milestones if recipe.schedule == "steps" else []),
        "clean": _rounded(100 * float(np.mean(curve.clean_train))) if curve.clean_train else None,
        "paper": {w: _rounded(100 * e) for w in errors if (e := facts.papers(curve, w)) is not None},
    }


# Tables


def _error_cells(curve: Curve) -> dict[str, str]:
    """The table's cells under their long names, parameters, and the range of other reproductions."""
    errors = curve.final["test_error"]
    others = facts.inside(facts.reproductions(curve), float(np.mean(errors)) if errors else None)
    cells = {name: error_cells(curve)[key] for key, name in ERROR_HEAD.items()}
    cells["parameters"] = "-" if curve.parameters is None else f"{curve.parameters:,}"
    return {**cells, "others' test": others.removeprefix("-")}


def _run_cells(run: Run, below: Path) -> dict[str, str]:
    fields = run_fields(run, below)
    error = run.summary.get("error") if fields["status"] in (Status.FAILED, Status.DIVERGED) else None
    long = {**ERROR_HEAD, "iters": "iterations"}
    cells = dict(zip((long.get(name, name) for name in RUN_HEAD), run_cells(fields), strict=True))
    return {**cells, "remark": error or ""}


def _without_empty(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A table without the columns that are empty in all rows."""
    kept = [key for key in rows[0] if any(row[key] for row in rows)]
    return {"head": kept, "rows": [[row[key] for key in kept] for row in rows]}


def _differing_settings(curves: Sequence[Curve], own: Sequence[Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Settings that are not the same in all runs: their names, and one row per network."""
    runs = [settings for group in own for settings in group.values()]
    keys = sorted(set().union(*runs) - {"seed"})
    differing = [key for key in keys if len({_text(settings.get(key)) for settings in runs}) > 1]
    rows = []
    for curve, group in zip(curves, own, strict=True):
        cells = [_by_value({seed: _text(of.get(key)) for seed, of in group.items()}) for key in differing]
        told = [[f"{v} ({_seeds(whose)})" if len(cell) > 1 else v for v, whose in cell.items()] for cell in cells]
        rows.append([curve.label, *map("; ".join, told)])
    return {"names": differing, "rows": rows}


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


def _command(curve: Curve, settings: Mapping[int, Mapping[str, Any]], curves: Sequence[Curve]) -> str:
    """The command that trains all seeds of a network again; by its record where the shell cannot take a setting."""
    first, *others = curve.paths
    # Seeds may differ in settings that don't change the result, such as threads; those are left to the machine.
    shared = {k: v for k, v in settings[first].items() if all(own.get(k) == v for own in settings.values())}
    words = _overrides(shared)
    if curve.built:
        alike = [own for own in curves if own.experiment.model.start == curve.experiment.model.start]
        return _building_command(curve, words or [], max(own.depth for own in alike))
    if words is None:
        return shlex.join(["degrade", "train", "--config", str(curve.paths[first] / "config.yaml")])
    verb = "sweep" if others else "train"
    return shlex.join(["degrade", verb, *words, f"seed={','.join(map(str, curve.paths))}"])


def _building_command(curve: Curve, words: Sequence[str], depth: int) -> str:
    """The command that builds a network from a trained one and trains both on.

    Args:
        curve: the built network, or the control beside it, which is the trained one trained on.
        words: the settings of the network as the shell takes them.
        depth: the greatest depth of the networks that began as the trained one.
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


# Pictures


def _pictures(curves: Sequence[Curve], room: int) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """Pictures beside the runs and in their folders of probes, by chapter, and the names of those left out.

    The room is in bytes.
    """
    folders = sorted({curve.folder for curve in curves})
    walls = {curve.folder for curve in curves if curve.family == "vgg"}
    probes = [path / "probes" for curve in curves for path in curve.paths.values()]
    shown: dict[str, list[dict[str, str]]] = {}
    left_out = []
    for path in (p for folder in [*folders, *probes] for p in sorted(folder.glob("*")) if p.is_file()):
        kind = {".png": "png", ".svg": "svg+xml"}.get(path.suffix.lower())
        if kind is None:
            continue
        name = os.path.relpath(path)
        # The picture becomes an image's address, since scripts in an SVG don't run there.
        data = _small(path) if kind == "png" else path.read_bytes()
        address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        if len(address) > room:
            left_out.append(name)
            continue
        room -= len(address)
        key = next(start for start in CHAPTERS if path.stem.startswith(start))
        key = "wall" if key == "figure" and path.parent in walls else key
        picture = {"name": name, "address": address, "alt": f"{CHAPTERS[key].alt} ({path.name})."}
        shown.setdefault(key, []).append(picture)
    return shown, left_out


def _small(path: Path) -> bytes:
    """A PNG in at most 256 colours, which takes a third of the bytes; as it is where it cannot be read as one."""
    from PIL import Image, UnidentifiedImageError

    data = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    except (UnidentifiedImageError, OSError, ValueError):
        return path.read_bytes()
    return min(data.getvalue(), path.read_bytes(), key=len)
