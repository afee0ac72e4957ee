"""Charts of the page's chapters as plain data, from records and from the numbers that probes kept beside them.

A chart has one or several views, between which its reader chooses; a view has panels side by side on one scale, each
with lines, or with a map of values on a grid. page.js draws them all.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from degrade.analysis import facts
from degrade.analysis.curves import BANDS, Curve, Series, edges, error_curves, seed_name
from degrade.analysis.layers import (
    CEILING,
    FORWARD,
    GROWTH,
    INITIAL,
    NAMES,
    RELATIVE,
    SIGNALS,
    WEIGHTS,
    Along,
    looked_at,
    norm_words,
    over_seeds,
    plane,
    stages,
    summaries,
)
from degrade.analysis.remedies import EXPERIMENT, shades, treated
from degrade.config import variants
from degrade.errors import RunError
from degrade.runs import Run, find_records
from degrade.runs.numbers import Row, numbers_path, read

Data = dict[str, Any]

#: The most networks whose layers are shown along training, with a panel for each.
PANELS = 6

#: Columns without which gradients-initial.csv is not drawn.
_INITIAL = ("layer", "name", "images", SIGNALS, RELATIVE, FORWARD)

_DASHES = ("dash", "solid", "dot", "dashdot")


class Chart(NamedTuple):
    """A chart of a chapter."""

    chapter: str
    folder: Path
    """The experiment that it is about; pictures of the same chapter in this folder say nothing more."""
    data: Data
    """`title`, `words` (what is drawn, and what to look for), and `views`."""


def charts(curves: Sequence[Curve]) -> Iterator[Chart]:
    """The charts for which there are numbers, experiment by experiment."""
    for folder in dict.fromkeys(curve.folder for curve in curves):
        own = [curve for curve in curves if curve.folder == folder]
        made = {
            "wall": wall(own),
            "gradients-initial": before_training(folder),
            "gradients": along_training(own),
            "remedies": under_remedies(own),
            "responses": responses(own),
            "landscape": landscape(own),
            "trajectory": trajectory(own),
            "construct": constructed(own),
        }
        for chapter, data in made.items():
            if data is not None:
                yield Chart(chapter, folder, data)


def wall(curves: Sequence[Curve]) -> Data | None:
    """Last errors against depth, one line per family, where there are VGGs of several depths."""
    finished = [curve for curve in curves if curve.final["test_error"] and not curve.built]
    if len({curve.depth for curve in finished if curve.family == "vgg"}) < 2:
        return None
    clean = all(curve.clean_train for curve in finished)
    families: dict[str, list[Curve]] = {}
    for curve in finished:
        families.setdefault(", ".join(part for part in (curve.family, curve.extra) if part), []).append(curve)
    views = []
    training = ("train_error_clean", facts.CLEAN) if clean else ("train_error", facts.RUNNING)
    for key, name in (training, ("test_error", facts.TEST)):
        lines = [
            _line(
                family,
                facts.colour(k),
                [curve.depth for curve in own],
                [100 * float(np.mean(curve.final[key])) for curve in own],
                [tuple(100 * edge for edge in edges(curve.final[key], curve.band)) for curve in own],
            )
            for k, (family, own) in enumerate(families.items())
        ]
        views.append(_view(name, "depth (weighted layers)", f"{name} (%)", [_panel("", lines)]))
    band = f" Bands: {BANDS[finished[0].band]}, over seeds." if any(len(c.seeds) > 1 for c in finished) else ""
    words = f"Last errors of finished networks.{band} Look where a line turns up: from there on more layers do harm."
    return _chart("Last errors against depth", words, views)


def before_training(folder: Path) -> Data | None:
    """Signals forwards and gradients backwards over the layers of networks before their first update."""
    networks: dict[tuple[str, str, int], list[Row]] = {}
    for row in read(folder / INITIAL):
        norm = "no" if row.get("norm") == "none" else row.get("norm")
        key = (f"{row.get('family')}, {norm} norm", str(row.get("network")), int(row.get("depth", 0)))
        networks.setdefault(key, []).append(row)
    if not networks or not all(column in row for rows in networks.values() for row in rows for column in _INITIAL):
        return None
    kinds = list(dict.fromkeys(kind for _, kind, _ in networks))
    depths = sorted({depth for *_, depth in networks})
    views = []
    for quantity in (SIGNALS, RELATIVE, FORWARD):
        panels: dict[str, list[Data]] = {}
        for (panel, kind, depth), rows in sorted(networks.items()):
            values = [_drawable(row[quantity]) for row in rows]
            stroke = {"dash": _DASHES[depths.index(depth) % len(_DASHES)], "at": [str(row["name"]) for row in rows]}
            line = _line(f"{kind}, {depth}", facts.colour(kinds.index(kind)), _layers(rows), values) | stroke
            panels.setdefault(panel, []).append(line)
        views.append(_view(_flat(NAMES[quantity]), "layer", _flat(NAMES[quantity]), _panels(panels), log=True))
    words = (
        f"One line per network, of {' or '.join(map(str, depths))} layers; "
        f"{looked_at(next(iter(networks.values())), 'training')}. "
        "A level line keeps its size from layer to layer; one that falls towards the left vanishes on its way back "
        "through the network, and one that rises towards the left explodes."
    )
    return _chart("Before the first update", words, views)


def along_training(curves: Sequence[Curve]) -> Data | None:
    """A map for each network: its layers upwards, its snapshots to the right, in colour what was measured there."""
    networks = []
    for curve in curves:
        path = next(iter(curve.paths.values()))
        iterations, each = stages(_rows(path, "gradients", "snapshot", "layer", "images", WEIGHTS, RELATIVE, SIGNALS))
        if len(iterations) > 1:
            networks.append((seed_name(curve, next(iter(curve.paths))), iterations, each))
    if not networks or (len(networks) > PANELS and _remedies(curves)):
        return None
    views = []
    for quantity in (RELATIVE, WEIGHTS, SIGNALS, GROWTH):
        panels = []
        for title, iterations, each in networks[:PANELS]:
            values = [[_drawable(row[quantity]) for row in layer] for layer in zip(*each, strict=True)]
            if any(value is not None for layer in values for value in layer):
                names = [str(row["name"]) for row in each[0]]
                panels.append(_panel(title, map={"x": iterations, "y": _layers(each[0]), "z": values, "at": names}))
        if panels:
            name = _flat(NAMES[quantity])
            views.append(_view(name, "iteration (snapshots, evenly spaced)", "layer", panels, log=True, z=name))
    more = f" {len(networks) - PANELS} more networks are not shown." if len(networks) > PANELS else ""
    words = (
        f"Norms, of {looked_at(networks[0][2][0], 'training')}; layers from the image upwards.{more} Compare the "
        "lowest layers of deep and shallow networks: a gradient small beside its weights hardly moves them."
    )
    return _chart("Layers along training", words, views)


def under_remedies(curves: Sequence[Curve]) -> Data | None:
    """Error, growth of the weights and gradient of the first layers: a panel per network, a line per remedy."""
    if not _remedies(curves):
        return None
    networks = treated(curves, _found_along)
    colours = shades({own.remedy for own in networks})
    views = []
    for quantity, name in (
        ("error", f"{facts.RUNNING} (%)"),
        (GROWTH, "norm of the weights relative to the initial one, greatest layer"),
        (RELATIVE, "gradient relative to the weights, first layers"),
    ):
        panels: dict[str, list[Data]] = {}
        for own in networks:
            line = _of_series(own.remedy, colours[own.remedy], own.curve.train)
            if quantity != "error":
                line = _line(own.remedy, colours[own.remedy], *over_seeds(list(own.along.values()), quantity))
            if line["y"]:
                panels.setdefault(own.network, []).append(line)
        if panels:
            x = "iterations" if quantity == "error" else "iteration (snapshots, evenly spaced)"
            logarithmic = quantity != "error"
            views.append(_view(name, x, name, _panels(panels), log=logarithmic, even=logarithmic))
    words = (
        "One line per remedy, the same colour in all panels; bands over seeds. A remedy works where its line ends "
        "below the one without a remedy."
    )
    return _chart("Remedies side by side", words, views)


def responses(curves: Sequence[Curve]) -> Data | None:
    """The layers' responses in their order and by size: the median over seeds, and their range."""
    known = []
    dashes = _DASHES[all(curve.family != "plain" for curve in curves) :]
    for curve, (shade, sign) in zip(curves, facts.signs(curves), strict=True):
        seeds = [
            rows for path in curve.paths.values() if (rows := _rows(path, "responses", "layer", "std", "images"))
        ]
        finite = any(math.isfinite(float(row["std"])) for rows in seeds for row in rows)
        if finite and len({len(rows) for rows in seeds}) == 1:
            known.append((curve, {"dash": dashes[sign % len(dashes)]}, shade, seeds))
    if not known:
        return None
    views = []
    for name, x in (("in order", "layer"), ("by size", "rank of the layer, largest response first")):
        lines = []
        for curve, dash, shade, seeds in known:
            std = np.array([[float(row["std"]) for row in rows] for rows in seeds])
            std = -np.sort(-std, axis=1) if name == "by size" else std
            at = {} if name == "by size" else {"at": [str(row["name"]) for row in seeds[0]]}
            middle = [_drawable(value) for value in np.median(std, axis=0)]
            band = list(zip(std.min(axis=0), std.max(axis=0), strict=True)) if len(std) > 1 else None
            label = f"{curve.label}{curve.suffix}"
            lines.append(_line(label, shade, list(range(1, std.shape[1] + 1)), middle, band) | at | dash)
        values = [value for line in lines for value in line["y"] if value is not None]
        log = bool(values) and max(values) > 10 * min(values)
        views.append(_view(name, x, "standard deviation of the response", [_panel("", lines)], log=log))
    spread = " Lines: the median of the seeds; bands: their range." if any(len(s) > 1 for *_, s in known) else ""
    norm = norm_words((curve.family, curve.experiment.model.norm) for curve, *_ in known)
    words = (
        f"Output of each {'3x3 ' * (norm == 'batch norm')}convolution after {norm}, before ReLU and addition, on "
        f"{looked_at(known[0][-1][0], 'test')}; plain networks dashed.{spread} Look whether the residual lines lie "
        "below the plain ones, and the deep one below the shallow one."
    )
    return _chart("Response of each layer", words, views)


def landscape(curves: Sequence[Curve]) -> Data | None:
    """The loss on a plane around the first seed of each network that was looked at, one view per way of looking."""
    ways: dict[str, list[Data]] = {}
    for curve in curves:
        seen = set()
        for seed, path in curve.paths.items():
            for file in sorted((path / "probes").glob("landscape*.csv")):
                rows = _rows(path, file.stem, "a", "b", "loss")
                if _is_whole(rows) and file.stem not in seen:
                    seen.add(file.stem)
                    ways.setdefault(file.stem, []).append(_plane(seed_name(curve, seed), rows))
    if not ways:
        return None
    views = [
        _view(_way(stem, ways), "first direction", "second direction", panels, log=True, z="loss", contours=True)
        for stem, panels in ways.items()
    ]
    words = (
        "Loss in eval mode; the trained network is in the middle (+). Directions are random, each filter's as long "
        f"as its weights; losses of {CEILING:.3g} or more have one colour. A narrow valley means that small steps do "
        "much."
    )
    return _chart("Loss around the trained weights", words, views)


def trajectory(curves: Sequence[Curve]) -> Data | None:
    """The path of one seed of each network on the loss, on the plane of the path's first two principal components."""
    panels = []
    for curve in curves:
        found = next(filter(None, (_path(seed_name(curve, seed), path) for seed, path in curve.paths.items())), None)
        panels += [found] if found is not None else []
    if not panels:
        return None
    words = (
        "From the first snapshot to the last weights (+); in brackets the share of the weights' variance that the "
        "plane shows. Loss in eval mode, with batch norm's statistics measured anew at each point; losses of "
        f"{CEILING:.3g} or more have one colour. The plane is one of weights: growth that batch norm takes out again "
        "counts as movement."
    )
    view = _view("path", "first component", "second component", panels, log=True, z="loss", contours=True, apart=True)
    return _chart("The path on the plane that shows most of it", words, [view])


def _path(title: str, run: Path) -> Data | None:
    """A panel with the path of a run on contours of the loss, if both were looked at on as many images."""
    for file in sorted((run / "probes").glob("trajectory-path-*.csv")):
        along = _rows(run, file.stem, "snapshot", "a", "b", "loss", "share1", "share2")
        images = file.stem.removeprefix("trajectory-path-")
        for grid in sorted((run / "probes").glob(f"trajectory-grid*-{images}.csv")):
            rows = _rows(run, grid.stem, "a", "b", "loss")
            if along and _is_whole(rows):
                shown = float(along[0]["share1"]) + float(along[0]["share2"])
                a, b = ([float(row[key]) for row in along] for key in ("a", "b"))
                at = [f"iteration {int(row['snapshot']):,}, loss {float(row['loss']):.3g}" for row in along]
                line = _line(title, "#ffffff", a, b) | {"at": at}
                return _plane(f"{title} ({shown:.0%})", rows) | {"lines": [line]}
    return None


def _is_whole(rows: Sequence[Row]) -> bool:
    """Whether all points of a square grid were measured."""
    a, b = ({float(row[key]) for row in rows} for key in ("a", "b"))
    return len(a) == len(b) > 1 and len(rows) == len(a) * len(b)


def _plane(title: str, rows: Sequence[Row]) -> Data:
    a, b, loss = plane(rows)
    x, y = ([float(f"{place:.6g}") for place in places] for places in (a, b))
    return _panel(title, map={"x": x, "y": y, "z": [[_drawable(v) for v in line] for line in loss.T]})


def _way(stem: str, among: Iterable[str]) -> str:
    """How a file's points were looked at, in words; what all files share is left out."""
    others = [set(other.split("-")) for other in among]
    own = [part for part in stem.split("-")[1:] if not all(part in other for other in others)]
    return ", ".join(own) or "loss"


def constructed(curves: Sequence[Curve]) -> Data | None:
    """Errors of a trained network, of what was built from it and trained on, and of the same depth from scratch."""
    built = [curve for curve in curves if curve.built]
    if not built:
        return None
    start = str(built[0].experiment.model.start)
    own = [curve for curve in built if curve.experiment.model.start == start]
    network, _, rest = start.rpartition(".seed-")
    seed, _, begins = rest.partition(".")
    beside = own[0].folder.with_name(own[0].folder.name.removesuffix("-construct"))
    base, comma, extra = network.partition(",")
    lines = [(curve, curve.network, 0) for curve in _records(beside / network / f"seed-{seed}")]
    for depth in sorted({curve.depth for curve in own}):
        if (name := f"{own[0].family}-{depth}") != base:
            scratch = _records(beside / f"{name}{comma}{extra}")
            lines += [(curve, f"{curve.network} from scratch", 0) for curve in scratch]
    lines += [(curve, curve.label, int(begins or 0)) for curve in own]
    views = []
    for which, name in (("train", facts.RUNNING), ("test", facts.TEST)):
        drawn = [
            _of_series(label, facts.colour(k), getattr(curve, which), after=first)
            for k, (curve, label, first) in enumerate(lines)
        ]
        views.append(_view(name, "iterations", f"{name} (%)", [_panel("", drawn)]))
    words = (
        "Where the built network begins, it computes what the shallower one did. Look whether training keeps it "
        "there, and how far a network of the same depth came from scratch."
    )
    return _chart("The built network trained on", words, views)


def _records(path: Path) -> list[Curve]:
    """The curve of the runs in a folder; none where there are none, or one cannot be read."""
    try:
        return error_curves(find_records([path])) if path.is_dir() else []
    except RunError:
        return []


# What charts are made of


def _chart(title: str, words: str, views: Sequence[Data]) -> Data:
    return {"title": title, "words": words, "views": list(views)}


def _view(name: str, x: str, y: str, panels: Sequence[Data], **more: Any) -> Data:
    """One view: what readers choose it by, the axes' names, and panels; `more` as given.

    `log` makes the scale of the values logarithmic; `even` spaces the values along x evenly; `z` names the values of
    maps, which have `contours` or cells; with `apart` each panel has axes of its own.
    """
    return {"name": name, "x": x, "y": y, "panels": list(panels), **more}


def _panel(title: str, lines: Sequence[Data] = (), **more: Any) -> Data:
    return {"title": title, "lines": list(lines), **more}


def _panels(lines: "dict[str, list[Data]]") -> list[Data]:
    return [_panel(title, own) for title, own in lines.items()]


def _line(
    name: str,
    shade: str,
    x: Sequence[float],
    y: Sequence[float | None],
    band: Sequence[Sequence[float]] | None = None,
) -> Data:
    line: Data = {"name": name, "colour": shade, "x": list(x), "y": [_drawable(value, zero=True) for value in y]}
    if band is not None and any(high > low for low, high in band):
        line |= {"low": [rounded(low) for low, _ in band], "high": [rounded(high) for _, high in band]}
    return line


def _of_series(name: str, shade: str, series: Series, after: int = 0) -> Data:
    """A line of errors in percent, which begins after so many iterations."""
    band = list(zip(100 * series.low, 100 * series.high, strict=True)) if (series.seeds > 1).any() else None
    return _line(name, shade, [after + int(k) for k in series.iteration], (100 * series.mean).tolist(), band)


def _found_along(curve: Curve) -> dict[int, Along]:
    """What probes found in the snapshots of a network's seeds, as far as they did."""
    rows = {
        seed: _rows(path, "gradients", "snapshot", "layer", "images", WEIGHTS, RELATIVE, SIGNALS)
        for seed, path in curve.paths.items()
    }
    return {seed: summaries(own) for seed, own in rows.items() if own}


def _remedies(curves: Sequence[Curve]) -> bool:
    """Whether a network is among them with a remedy and without one."""
    none = variants(EXPERIMENT)[0].name
    kinds: dict[str, set[bool]] = {}
    for own in treated(curves, lambda _: {}):
        kinds.setdefault(own.network, set()).add(own.remedy == none)
    return any(len(kind) == 2 for kind in kinds.values())


def _rows(path: Path, probe: str, *columns: str) -> list[Row]:
    """What a probe found in a run; nothing where its file lacks one of these columns of numbers."""
    rows = read(numbers_path(Run(path), probe))
    return rows if all(isinstance(row.get(column), int | float) for row in rows for column in columns) else []


def _layers(rows: Sequence[Row]) -> list[float]:
    return [int(row["layer"]) for row in rows]


def _flat(name: str) -> str:
    return name.replace("\n", " ")


def _drawable(value: Any, *, zero: bool = False) -> float | int | None:
    """The value to four digits; None where it is not finite, or no logarithm shows it."""
    if value is None or not math.isfinite(number := float(value)) or not (zero or 1e-30 < number < 1e30):
        return None
    return rounded(number)


def rounded(value: float, digits: int = 4) -> float | int:
    """The value to some significant digits, without a point where it is a whole number."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
