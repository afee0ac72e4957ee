"""Which network a curve is of, and under which remedy for early degradation it was trained."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from degrade.analysis.curves import Curve
from degrade.analysis.facts import COLOURS
from degrade.analysis.layers import Along
from degrade.config import Experiment, Variant, variants
from degrade.config.schema import settings
from degrade.config.setting import Kind

#: The experiment whose variants the remedies are.
EXPERIMENT = "remedies"

#: Black for networks without a remedy, then one colour for each remedy.
_COLOURS = (COLOURS[6], *COLOURS[:6], COLOURS[7])


@dataclass(frozen=True)
class Treated:
    """A network trained under a remedy, or under none."""

    network: str
    """Family and depth, and whatever else tells it from the others without being a remedy."""
    remedy: str
    """The remedy's name, or the settings themselves where no remedy has them."""
    curve: Curve
    along: dict[int, Along]
    """What was found in the snapshots of each seed that has any."""


def treated(curves: Sequence[Curve], along: Callable[[Curve], dict[int, Along]]) -> list[Treated]:
    """Networks and their remedies, sorted by network and in the order of the remedies.

    `along` gives what was found in the snapshots of a network's seeds.
    """
    known = variants(EXPERIMENT)
    keys = {key for variant in known for key in variant.changes}
    found = [
        Treated(_network(curve, curves, keys), remedy(curve.experiment, known), curve, along(curve))
        for curve in curves
    ]
    order = list(shades(own.remedy for own in found))
    return sorted(found, key=lambda t: (t.curve.family, t.curve.depth, t.network, order.index(t.remedy)))


def _network(curve: Curve, among: Sequence[Curve], keys: Collection[str]) -> str:
    """Family and depth, and other settings in which such networks differ; `keys` are those that make remedies."""
    alike = [c.experiment.flat() for c in among if (c.family, c.depth) == (curve.family, curve.depth)]
    own = curve.experiment.flat()
    told = {key for key, about in settings().items() if about.kind is Kind.INCIDENTAL and key != "name"}
    told |= {"seed", "data.root", *keys}
    extra = [f"{key}={own[key]}" for key in own if key not in told and any(c[key] != own[key] for c in alike)]
    return ", ".join([f"{curve.family}-{curve.depth}", *extra])


def remedy(experiment: Experiment, known: Sequence[Variant]) -> str:
    """The name of the variant whose settings an experiment has, or else those settings themselves.

    Only settings that one of the known variants changes are looked at.
    """
    usual, ours = Experiment().flat(), experiment.flat()
    keys = sorted({key for variant in known for key in variant.changes})
    changed = {key: ours[key] for key in keys if ours[key] != usual[key]}
    named = (variant.name for variant in known if variant.changes == changed)
    return next(named, ", ".join(f"{key}={value}" for key, value in changed.items()))


def shades(remedies: Iterable[str]) -> dict[str, str]:
    """The colour of each remedy: those of the experiment first, as it lists them, then all others by name."""
    named = dict.fromkeys([*(variant.name for variant in variants(EXPERIMENT)), *sorted(remedies)])
    return {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(named)}
