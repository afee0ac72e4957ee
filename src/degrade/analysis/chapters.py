"""The page's chapters: what each says, its charts where there are numbers, and else the pictures beside the runs.

Here, too, many networks become experiments, each with its own chart, colours and names.
"""

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from degrade.analysis import facts
from degrade.analysis.charts import Chart, charts
from degrade.analysis.curves import Curve, legible, told_apart

#: The most networks of one experiment in one chart, where their names tell several kinds apart.
TOGETHER = 8


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
    "kinds": Chapter(
        "Kinds of training error",
        "The paper does not say how its training error was measured. Measured while weights change, or with them "
        "fixed, on augmented images or not, the same network has errors that differ.",
        "Each kind of training error along training, one panel per network, and the growth of its weights",
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


class Told(NamedTuple):
    """A chapter as the page shows it."""

    key: str
    chapter: Chapter
    charts: list[dict[str, Any]]
    pictures: list[dict[str, str]]


def chapters(curves: Sequence[Curve], room: int) -> tuple[list[Told], list[str]]:
    """The chapters in the order of the story, and the names of charts and pictures for which there was no room.

    A picture is shown where no chart tells the same from its numbers. All charts and pictures together take at most
    `room` bytes.
    """
    drawn: dict[str, list[Chart]] = {}
    left_out = []
    for chart in charts(curves):
        size = len(json.dumps(chart.data))
        if size > room:
            left_out.append(f"{os.path.relpath(chart.folder)}: {chart.data['title']}")
            continue
        room -= size
        drawn.setdefault(chart.chapter, []).append(chart)
    told = {(key, chart.folder) for key, own in drawn.items() for chart in own}
    shown, without_room = _pictures(curves, room, told)
    found = []
    number = 0
    for key, chapter in CHAPTERS.items():
        own = []
        names = told_apart({chart.folder for chart in drawn.get(key, [])})
        for chart in drawn.get(key, []):
            where = f"{names[chart.folder]}: " if names[chart.folder] else ""
            own.append({**chart.data, "title": where + chart.data["title"], "id": f"chart-{number}"})
            number += 1
        if own or key in shown:
            found.append(Told(key or "other", chapter, own, shown.get(key, [])))
    return found, left_out + without_room


def _pictures(
    curves: Sequence[Curve], room: int, told: set[tuple[str, Path]]
) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """Pictures beside the runs and in their folders of probes, by chapter, and the names of those left out.

    Figures of curves are not among them, since the page's own charts show the same. Neither are pictures of
    the chapters that charts tell already, which `told` has with their experiments' folders. `room` is in bytes.
    """
    places = {curve.folder: curve.folder for curve in curves}
    places |= {path / "probes": curve.folder for curve in curves for path in curve.paths.values()}
    shown: dict[str, list[dict[str, str]]] = {}
    left_out = []
    files = [(path, experiment) for folder, experiment in places.items() for path in sorted(folder.glob("*"))]
    for path, experiment in files:
        kind = {".png": "png", ".svg": "svg+xml"}.get(path.suffix.lower())
        key = next(start for start in CHAPTERS if path.stem.startswith(start))
        if kind is None or not path.is_file() or path.stem.startswith("figure") or (key, experiment) in told:
            continue
        name = os.path.relpath(path)
        # The picture becomes an image's address, since scripts in an SVG don't run there.
        data = _small(path) if kind == "png" else path.read_bytes()
        address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        if len(address) > room:
            left_out.append(name)
            continue
        room -= len(address)
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


# Experiments


class Group(NamedTuple):
    """Networks that share a chart."""

    title: str
    facts: list[str]
    members: list[int]
    """Their places among all networks."""
    names: list[str]
    """What tells each of them from the others of the group."""


def experiments(curves: Sequence[Curve], first: Path | None = None) -> list[Group]:
    """The networks by experiment; one of many networks by family and depth, too, where several have the same.

    Where there is one group, its networks have their own labels. The experiment in the folder `first` comes first.
    """
    folders: dict[Path, list[int]] = {}
    for k, curve in enumerate(curves):
        folders.setdefault(curve.folder, []).append(k)
    groups, ends = [], told_apart(folders)
    for folder, members in sorted(folders.items(), key=lambda own: own[0] != first):
        name = ends[folder] or legible(folder.name)
        kinds: dict[str, list[int]] = {}
        for k in members:
            kinds.setdefault(curves[k].network, []).append(k)
        split = len(members) > TOGETHER and len(members) >= 2 * len(kinds)
        for kind, own in kinds.items() if split else (("", members),):
            title = f"{name}, {kind}" if kind else name
            groups.append(_group(title, [curves[k] for k in own], own, ends[folder]))
    if len(groups) == 1:
        return [groups[0]._replace(names=[curve.label for curve in curves])]
    return groups


def _group(title: str, curves: Sequence[Curve], members: list[int], folder: str) -> Group:
    """A group whose names leave out the folder, and what all of its networks have in common."""
    parts = [curve.label.removesuffix(f", {folder}" if folder else "").split(", ") for curve in curves]
    shared = set.intersection(*(set(own[1:]) for own in parts))
    apart = [[part for part in own[1:] if part not in shared] for own in parts]
    kinds = [own[0] for own in parts]
    if len(set(kinds)) == len(parts):
        names = kinds
    elif len(set(kinds)) == 1:  # the title says the kind
        names = [", ".join(own) or kinds[0] for own in apart]
    else:
        names = [", ".join([kind, *own]) for kind, own in zip(kinds, apart, strict=True)]
    return Group(
        title, [facts.plural(len(curves), "network"), *facts.runs_facts(curves, banded=False)], members, names
    )
