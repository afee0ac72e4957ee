"""What figures, page, tables and text all say of networks and their errors, without matplotlib."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from degrade.analysis.curves import BANDS, Curve
from degrade.analysis.reference import REPRODUCED_TEST, paper_error
from degrade.config import Experiment
from degrade.config.identity import departures, open_choices
from degrade.errors import ConfigError, RunError
from degrade.files import regular
from degrade.runs import Status

#: Okabe and Ito's colours, which colour-blind readers can tell apart, dark ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")

#: Kinds of error as axes, legends and sentences name them, and how each kind of training error is measured.
RUNNING, CLEAN, TEST = "running training error", "clean training error", "test error"
MEASURED = {
    RUNNING: "train mode, augmented images",
    CLEAN: "eval mode, un-augmented images",
}

#: What is said where the paper's training error stands beside ours.
LIKE_RUNNING = "its training error looks like running"

#: Where the paper's axis of error ends, in percent (Figures 1 and 6).
PAPER_TOP = 20

PAPER_AXIS = f"axis as in the paper, 0 to {PAPER_TOP} %: the curves begin above it"


def has_paper_axis(curves: Sequence[Curve]) -> bool:
    """Whether the paper's axis shows what matters: all recipes are the paper's, and all curves come down into it."""
    ends = [float(s.mean[-1]) for curve in curves for s in (curve.train, curve.test) if len(s.mean)]
    return all(curve.follows_paper for curve in curves) and 100 * max(ends, default=1) < 0.9 * PAPER_TOP


def colour(place: int) -> str:
    """The colour of the network, remedy or kind at a place; colours repeat where they run out."""
    return COLOURS[place % len(COLOURS)]


def signs(curves: Sequence[Curve]) -> list[tuple[str, int]]:
    """A colour for each network, and the number of its mark or stroke, for charts that show several of them.

    Networks that differ in nothing but their family have one colour, as a depth has in Figure 6, and the family
    gives the mark: plain networks 0, which is none. Where colours run out, further marks tell networks apart.
    """
    names = [(curve.depth, curve.label.removeprefix(curve.family)) for curve in curves]
    order = sorted(set(names))
    families = sorted({curve.family for curve in curves}, key=lambda family: (family != "plain", family))
    places = [order.index(name) for name in names]
    return [
        (colour(place), families.index(curve.family) + len(families) * (place // len(COLOURS)))
        for place, curve in zip(places, curves, strict=True)
    ]


def ended(curve: Curve) -> str:
    """What became of a curve that no seed finished: `diverged` or `unfinished`; empty where a seed is complete."""
    statuses = set(curve.seeds.values())
    if Status.COMPLETE in statuses or not statuses:
        return ""
    return "diverged" if Status.DIVERGED in statuses else "unfinished"


def plural(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def several(count: int) -> str:
    """` (3 seeds)`, to be put behind a network's label; empty for one seed."""
    return f" ({plural(count, 'seed')})" if count > 1 else ""


def papers(curve: Curve, which: str) -> float | None:
    """The paper's `train` or `test` error; None for other data, a built network, or a depth that it lacks."""
    others = curve.experiment.data.name != "cifar10" or curve.built
    return None if others else paper_error(curve.family, curve.depth, which)


def reproductions(curve: Curve) -> tuple[float, float] | None:
    """Range of other reproductions' test error; None where there is none or the recipe is not the paper's."""
    return REPRODUCED_TEST.get((curve.family, curve.depth)) if curve.follows_paper else None


def is_inside(others: tuple[float, float] | None, value: float | None) -> bool | None:
    """Whether a value is inside a range; None without either."""
    return others[0] <= value <= others[1] if others and value is not None else None


def inside(others: tuple[float, float] | None, value: float | None) -> str:
    """A range, and where a value lies relative to it: `9.4 to 9.8: inside`; `-` without either."""
    if others is None or value is None:
        return "-"
    place = "below" if value < others[0] else "above" if value > others[1] else "inside"
    return f"{100 * others[0]:.1f} to {100 * others[1]:.1f}: {place}"


def data_name(name: str) -> str:
    """How a figure names a data set."""
    return {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "synthetic": "SYNTHETIC"}.get(name, name)


def runs_facts(curves: Sequence[Curve], *, banded: bool) -> list[str]:
    """Recipe, data, precision, number of seeds, and what the band shows, if there is one."""
    counts = sorted({len(c.seeds) for c in curves})
    seeds = plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    if banded and counts != [1]:
        seeds += f", band: {BANDS[curves[0].band]}"
    if banded and any(len(set(s.seeds)) > 1 for c in curves for s in (c.train, c.test)):
        seeds += " (n/N: of so many seeds from there on)"
    recipes = "/".join(sorted({c.experiment.recipe.name for c in curves}))
    data = "/".join(sorted({data_name(c.experiment.data.name) + " data" * c.synthetic for c in curves}))
    precisions = "/".join(sorted({c.precision for c in curves if c.precision}))
    return [fact for fact in (f"recipe {recipes}", data, precisions, seeds, "last iterate") if fact]


def told_apart(curves: Sequence[Curve], of: Callable[[Experiment], list[str]]) -> list[tuple[list[str], list[str]]]:
    """Which facts of the settings hold for which networks: pairs of labels and facts.

    The first pair has no labels, and holds what all networks have in common.
    """
    found = [of(curve.experiment) for curve in curves]
    common = [item for item in found[0] if all(item in other for other in found)]
    labels: dict[tuple[str, ...], list[str]] = {}
    for curve, items in zip(curves, found, strict=True):
        if own := tuple(item for item in items if item not in common):
            labels.setdefault(own, []).append(curve.label)
    apart = [(list(dict.fromkeys(whose)), list(own)) for own, whose in labels.items()]
    return [*([([], common)] if common else []), *apart]


def footer(curves: Sequence[Curve], *, banded: bool = True) -> str:
    """The facts of the runs, what departs from the paper, and unusual choices where the paper leaves them open."""
    lines = [" · ".join(runs_facts(curves, banded=banded))]
    for head, of, otherwise in (
        ("departs from the paper", departures, ["the paper's recipe"]),
        ("open in the paper", open_choices, []),
    ):
        parts = []
        for whose, items in told_apart(curves, of):
            who = ", ".join(whose) if len(whose) < 3 else f"{whose[0]} to {whose[-1]}"
            parts += [f"{who}: {', '.join(items)}"] if whose else items
        lines += [f"{head}: {'; '.join(parts)}"] if parts else otherwise
    return "\n".join(lines)


def refuse_unmeasured(curves: Sequence[Curve]) -> Sequence[Curve]:
    """Return the curves if at least one of them has a point.

    Raises:
        RunError: no curve has a point.
    """
    if not any(len(curve.train.iteration) for curve in curves):
        where = next(iter(curves[0].paths.values()))
        raise RunError(f"{where}: nothing measured yet; the first row comes with the first evaluation")
    return curves


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Make the folder of a file that is about to be written.

    Raises:
        ConfigError: the file cannot be written; one line says why.
    """
    try:
        regular(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); choose another --output") from error
