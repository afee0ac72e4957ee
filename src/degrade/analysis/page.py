"""One HTML page of some runs: curves to explore, verdict, tables, settings, pictures, commands.

The page holds all that it needs, plotly's script included, and opens from disk without a network. page.html is its
template, page.js its script. Everything that comes from a record is escaped: by jinja2 in the page, by page.js where
plotly would read it as markup.
"""

import base64
import json
import math
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
from degrade.analysis.curves import BANDS, Array, Curve, Series, legible
from degrade.analysis.reference import departures, follows_paper, open_choices
from degrade.analysis.table import ERROR_HEAD, RUN_HEAD, error_cells, run_cells, run_fields
from degrade.analysis.text import headline, interval_in_words, notes, said, title
from degrade.analysis.verdict import Claim, Verdict, verdicts
from degrade.config import compose
from degrade.errors import ConfigError
from degrade.runs import RunRecord, Status

#: Bytes of a page: pictures that would exceed them are named and left out. plotly's script takes 4.7 million.
LIMIT = 6_000_000

#: Numbers that the curves of all runs may have together, some seven bytes each; beyond it they are thinned.
NUMBERS = 100_000

#: What a picture beside the runs shows, by the beginning of its name, for who cannot see it.
PICTURES = {
    "figure": "Running training error and test error against iterations, one line a network, and diamonds where "
    "clean training error ended; the table of last errors has these ends",
    "remedies": "Running training error, growth of the weights and gradient of the first layers along training, one "
    "line a remedy, one column a network",
    "responses": "Standard deviation of each layer's response, one line a network",
    "gradients-initial": "Norm of the loss' gradient at each layer before the first update, one line a network",
    "gradients": "Norm of the loss' gradient, layer by iteration, one panel a network",
    "construct": "Errors of a trained shallow network and of the deeper one built from it, which computes the same",
    "landscape": "Loss around a trained network along two random directions, as contours",
}


def save_page(curves: Sequence[Curve], path: Path) -> None:
    """Write the page of some networks, of one experiment or several.

    Raises:
        ConfigError: the path cannot be written.
    """
    with facts.writable(path):
        path.write_text(legible(page(curves)), encoding="utf-8")


def page(curves: Sequence[Curve]) -> str:
    """The page of some networks, less than `LIMIT` bytes of HTML unless there are thousands of runs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    rooms = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=rooms, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html")
    content, plotly = _content(curves), get_plotlyjs()
    bare = template.render(content, plotly="", pictures=[], left_out=[])
    room = LIMIT - len(os.fsencode(bare)) - len(os.fsencode(plotly)) - 20_000  # 20 kB: captions and names of pictures
    shown, left_out = _pictures(curves, room)
    return template.render(content, plotly=plotly, pictures=shown, left_out=left_out)


def _content(curves: Sequence[Curve]) -> dict[str, Any]:
    """All that the template shows, but for plotly and the pictures."""
    folders = sorted({os.path.relpath(curve.folder) for curve in curves})
    runs = [(curve, seed, RunRecord(path)) for curve in curves for seed, path in curve.paths.items()]
    judged = verdicts(curves)
    settings = [_settings(curve) for curve in curves]
    below = Path(folders[0]) if len(folders) == 1 else Path()
    lines = _Lines(max(16, NUMBERS // (4 * len(runs) + 6 * len(curves))))
    networks = [_network(curve, facts.colour(k), lines) for k, curve in enumerate(curves)]
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
        "verdicts": [_verdict(found) for found in judged],
        "errors": _without_empty([_error_cells(curve) for curve in curves]),
        "data": {
            "networks": networks,
            "grids": lines.grids,
            "ceiling": facts.PAPER_TOP if facts.has_paper_axis(curves) else None,
            "band": BANDS[curves[0].band],
            "kinds": {"train": facts.RUNNING, "clean": facts.CLEAN, "test": facts.TEST},
        },
        "axis": facts.PAPER_AXIS.capitalize() if facts.has_paper_axis(curves) else "",
        "networks": networks,
        "several_seeds": len(runs) > len(curves),
        "follows_paper": all(follows_paper(curve.experiment) for curve in curves),
        "thinned": lines.thinned and f"{lines.thinned} of {lines.drawn} curves were thinned to {lines.most} points",
        "runs": _without_empty([_run(record, below) for *_, record in runs]),
        "departures": facts.told_apart(curves, departures),
        "choices": facts.told_apart(curves, open_choices),
        "settings": _differing_settings(curves, settings),
        "environment": _environment([(curve.label, seed, record) for curve, seed, record in runs]),
        "commands": list(
            dict.fromkeys(_command(curve, own, curves) for curve, own in zip(curves, settings, strict=True))
        ),
        "after": [shlex.join(["degrade", verb, *folders]) for verb in ("verify", "plot", "report")],
    }


# Curves


class _Lines:
    """Curves for the page's script, thinned to so many points and rounded; those over the same iterations share them.

    A curve names its iterations by their number among `grids`.
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
        return {"grid": self.grids.index(grid)} | {
            name: [_rounded(own[k]) for k in kept] for name, own in arrays.items()
        }


def kept_points(values: Sequence[Array], most: int) -> npt.NDArray[np.int64]:
    """Indices of the points to draw: all, or the first, the last, and the extremes of each of several stretches.

    The quantities are over the same points, of which at most so many are kept; that is 16 or more.
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
    """Five significant digits."""
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() else short


def _network(curve: Curve, shade: str, lines: _Lines) -> dict[str, Any]:
    """A network's curves, errors in percent."""
    rows = {seed: RunRecord(path).rows() for seed, path in curve.paths.items()}
    first = next(iter(rows.values()))
    return {
        "label": curve.label + (" (SYNTHETIC)" if curve.synthetic else ""),
        "remark": curve.remark,
        "colour": shade,
        "ended": {"diverged": "x", "unfinished": "circle-open"}.get(facts.ended(curve), ""),
        "mean": {which: _mean(series, lines) for which, series in (("train", curve.train), ("test", curve.test))},
        "seeds": [
            {
                "seed": seed,
                "train": _line(own, "train_error", 100, lines),
                "test": _line(own, "test_error", 100, lines),
                "speed": _line(own, "images_per_second", 1, lines),
            }
            for seed, own in rows.items()
        ],
        "rate": _rate(first, curve.experiment.recipe.milestones, lines),
        "clean": _rounded(100 * float(np.mean(curve.clean_train))) if curve.clean_train else None,
        "paper": {w: _rounded(100 * e) for w in ("train", "test") if (e := facts.papers(curve, w)) is not None},
    }


def _line(rows: list[dict[str, Any]], key: str, unit: float, lines: _Lines) -> dict[str, Any]:
    """What a run measured of one quantity."""
    points = [(row["iteration"], unit * row[key]) for row in rows if _is_number(row.get(key))]
    return lines.line([x for x, _ in points], values=[y for _, y in points])


def _rate(rows: list[dict[str, Any]], milestones: Sequence[int], lines: _Lines) -> dict[str, Any]:
    """The learning rate of the rows, and at each milestone between two of them, where it still was the one before."""
    points = {row["iteration"]: row["lr"] for row in rows if _is_number(row.get("lr"))}
    for milestone in milestones:
        before = [iteration for iteration in points if iteration < milestone]
        if before and milestone < max(points):
            points.setdefault(milestone, points[max(before)])
    return lines.line(sorted(points), values=[points[iteration] for iteration in sorted(points)])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(series: Series, lines: _Lines) -> dict[str, Any]:
    """The mean over seeds, its band where there are several, and how many each point stands on."""
    band = {"low": 100 * series.low, "high": 100 * series.high} if (series.seeds > 1).any() else {}
    return lines.line(series.iteration, values=100 * series.mean, count=series.seeds.astype(np.float64), **band)


# Words


def _verdict(found: Verdict) -> dict[str, Any]:
    return {
        "title": title(found),
        "outcome": found.outcome,
        "headline": headline(found),
        "judged": found.judged,
        "notes": notes(found),
        "claims": [_claim(claim) for claim in found.claims if claim.decides or claim.estimate is not None],
        "wants": [("Not counted", want) for want in found.left_out]
        + [("Not trained", want) for want in found.lacking],
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "text": claim.text,
        "outcome": claim.outcome,
        "decides": claim.decides,
        "words": interval_in_words(claim),
        "beside": [told[0].upper() + told[1:] for told in said(claim)],
    }


def _error_cells(curve: Curve) -> dict[str, str]:
    """The table's cells under their long names, parameters, and the range of other reproductions."""
    mean = float(np.mean(curve.final_test)) if curve.final_test else None
    others = facts.inside(facts.reproductions(curve), mean)
    cells = {name: error_cells(curve)[key] for key, name in ERROR_HEAD.items()}
    cells["parameters"] = "-" if curve.parameters is None else f"{curve.parameters:,}"
    return {**cells, "others' test": "" if others == "-" else others}


def _run(record: RunRecord, below: Path) -> dict[str, str]:
    fields = run_fields(record, below)
    error = record.summary.get("error") if fields["status"] in (Status.FAILED, Status.DIVERGED) else None
    long = {**ERROR_HEAD, "iters": "iterations"}
    cells = dict(zip((long.get(name, name) for name in RUN_HEAD), run_cells(fields), strict=True))
    return {**cells, "remark": str(error or "")}


def _without_empty(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A table without the columns that are empty in all rows."""
    kept = [key for key in rows[0] if any(row[key] for row in rows)]
    return {"head": kept, "rows": [[row[key] for key in kept] for row in rows]}


def _settings(curve: Curve) -> dict[int, dict[str, Any]]:
    """The settings of each seed; a record older than a setting was made with what is now its default."""
    return {seed: RunRecord(path).experiment.flat() for seed, path in curve.paths.items()}


def _differing_settings(curves: Sequence[Curve], own: Sequence[Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Settings that are not the same in all runs: their names, and a row a network."""
    runs = [settings for group in own for settings in group.values()]
    keys = sorted(set().union(*runs) - {"seed"})
    differing = [key for key in keys if len({_value(settings.get(key)) for settings in runs}) > 1]
    rows = []
    for curve, group in zip(curves, own, strict=True):
        cells = [_by_value({seed: _value(of.get(key)) for seed, of in group.items()}) for key in differing]
        told = [[f"{v} ({_seeds(whose)})" if len(cell) > 1 else v for v, whose in cell.items()] for cell in cells]
        rows.append([curve.label, *map("; ".join, told)])
    return {"names": differing, "rows": rows}


def _by_value(values: Mapping[Any, str]) -> dict[str, list[Any]]:
    """Each value, and of whom it is."""
    whose: dict[str, list[Any]] = {}
    for who, value in values.items():
        whose.setdefault(value, []).append(who)
    return whose


def _environment(found: Sequence[tuple[str, int, RunRecord]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each fact of the runs' environments: its name, and (value, of which runs; empty if of all)."""
    flat = {(label, seed): _flat(_environment_of(record)) for label, seed, record in found}
    facts = []
    for name in dict.fromkeys(name for own in flat.values() for name in own):
        values = _by_value({run: own.get(name, "not recorded") for run, own in flat.items()})
        facts.append((name, [(value, _whose(runs) if len(values) > 1 else "") for value, runs in values.items()]))
    return facts


def _environment_of(record: RunRecord) -> dict[str, Any]:
    """A record's environment.json with one value for each fact of its sessions, or all of them where they differ."""
    environment, sessions = record.environment, [_flat(session) for session in record.sessions]
    named = dict.fromkeys(name for session in sessions for name in session if not name.endswith("iteration"))
    several = {
        name: "; ".join(dict.fromkeys(session.get(name, "not recorded") for session in sessions)) for name in named
    }
    once = {name: value for name, value in environment.items() if name not in {"sessions", "git", "versions", *named}}
    return {**once, **({"sessions": f"{len(sessions)}"} if sessions else {}), **several}


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """One name and one text for each fact."""
    facts: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, dict):
            facts |= {f"{name}, {inner}": _value(own) for inner, own in value.items()}
        elif name not in ("schema_version", "parameters"):
            facts[str(name)] = _value(value)
    return {name.replace("_", " "): value for name, value in facts.items()}


def _whose(runs: Sequence[tuple[str, int]]) -> str:
    """Some runs, by network: `plain-20, seeds 1, 2; plain-56, seed 1`."""
    labels = dict.fromkeys(label for label, _ in runs)
    told = [f"{label}, {_seeds([seed for own, seed in runs if own == label])}" for label in labels]
    return "; ".join(told[:8]) + (f"; and {len(told) - 8} more networks" if len(told) > 8 else "")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


# Commands


def _command(curve: Curve, settings: Mapping[int, Mapping[str, Any]], curves: Sequence[Curve]) -> str:
    """What trains a network again, all its seeds, from nothing but degrade; or from its record, where words fail."""
    first, *others = curve.paths
    # Seeds may differ in what computes nothing, such as threads; that is left to the machine.
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
    """What builds a network from a trained one and trains both on; that one by its path as it was then.

    The depth is the greatest of the networks that began as that one; of them this is the built one or its control.
    """
    network, _, rest = str(curve.experiment.model.start).rpartition(".seed-")
    if network.split(",")[0] == f"{curve.family}-{depth}":
        depth += 6  # the control alone is left: a network of whatever greater depth is built beside it
    folder = curve.folder.with_name(curve.folder.name.removesuffix("-construct"))
    run = os.path.relpath(folder / network / f"seed-{rest.split('.')[0]}")
    further = ["--depth", str(depth), "--continue", str(curve.experiment.recipe.iterations)]
    # The network, its recipe, its precision and its place are those of the trained one.
    taken = ("recipe", "model.", "name=", "output=", "runtime.precision=")
    own = [word for word in words if not word.startswith(taken)]
    return shlex.join(["degrade", "probe", "construct", run, *further, *own])


def _overrides(settings: Mapping[str, Any]) -> list[str] | None:
    """The recipe and what differs from it, as the shell takes it; None where a value cannot be told so."""
    recipe = f"recipe={settings['recipe.name']}"
    try:
        usual = compose([recipe]).flat()
    except ConfigError:
        return None
    named = ("model.family", "model.depth")  # whatever the default: a reader looks for them
    told = {k: v for k, v in settings.items() if k in named or k not in usual or usual[k] != v}
    told.pop("seed", None)
    if not all(_is_word(value) for value in told.values() if isinstance(value, str)):
        return None
    # But for text JSON is Hydra's grammar.
    words = {k: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for k, v in told.items()}
    return [recipe, *(f"{key}={word}" for key, word in words.items())]


def _is_word(text: str) -> bool:
    """Whether text needs no quotes of Hydra's."""
    constants = ("null", "true", "false", "nan", "inf")
    return bool(re.fullmatch(r"[A-Za-z_/][\w./-]*", text)) and text.lower() not in constants


# Pictures


def _pictures(curves: Sequence[Curve], room: int) -> tuple[list[dict[str, str]], list[str]]:
    """Pictures beside the runs and in their folders of probes, and the names of those beyond so many bytes."""
    folders = sorted({curve.folder for curve in curves})
    probes = [path / "probes" for curve in curves for path in curve.paths.values()]
    shown, left_out = [], []
    for path in (p for folder in [*folders, *probes] for p in sorted(folder.glob("*")) if p.is_file()):
        kind = {".png": "png", ".svg": "svg+xml"}.get(path.suffix.lower())
        if kind is None:
            continue
        name = os.path.relpath(path)
        # As an image's address and nothing else: scripts in an SVG do not run there.
        address = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        if len(address) > room:
            left_out.append(name)
            continue
        room -= len(address)
        words = next((text for start, text in PICTURES.items() if path.stem.startswith(start)), "A picture")
        shown.append({"name": name, "address": address, "alt": f"{words} ({path.name})."})
    return shown, left_out
