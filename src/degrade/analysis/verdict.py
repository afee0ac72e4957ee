"""Did the degradation problem appear, and did the shortcuts mend it? Judged from curves; errors are fractions.

Each claim of the paper (section 4.2, Figure 6) is a signed sum of mean errors over seeds, with a 95 % interval. A
claim decides only where the networks that it compares have learnt enough for their recipe to say something, and where
there are enough seeds for an interval.

Two words have one meaning throughout:

- A network is *trained* if it passed its last milestone and ends with a training error below half of chance level
  (below 45 % for ten balanced classes).
- It is *at chance* if its training error ends within 5 points of chance level.

Training error is of one kind in a whole verdict: the column `train_error_clean`, or `train_error` where a clean one
is missing.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from degrade.analysis.curves import Curve
from degrade.analysis.intervals import CONFIDENCE, Interval, Sample, contrast, welch_interval
from degrade.analysis.reference import REPRODUCED_TEST_GAP, paper_error, reproduced_training_gap
from degrade.config import Experiment
from degrade.config.identity import family_settings, shared_settings
from degrade.config.schema import DEPTHS
from degrade.runs import Status

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
TOO_EARLY = "too early"

#: Outcomes in the order in which they decide about several experiments, the worst one first.
OUTCOMES = (NOT_REPRODUCED, TOO_EARLY, INCONCLUSIVE, REPRODUCED)

PAPER_ITERATIONS = Experiment().recipe.iterations

#: Share of chance level below which a network's training error must be for it to count as trained.
TRAINED = 0.5

#: How near to chance level a network's training error must be for it to count as at chance.
AT_CHANCE = 0.05

#: The networks that claims are about, in words for when one is missing. Small letters stand for shallow networks,
#: capitals for deep ones. p and P are plain, or of another family without shortcuts; r and R are residual, or of
#: another with shortcuts; d and D are of that family, too, at the depths of p and P. v and V are the best VGG and the
#: deepest, s and S the best residual network and the deepest beside them.
ROLES = {
    "p": "the shallower {without} network",
    "P": "the deeper {without} network",
    "r": "the shallower {shortcuts} network",
    "R": "the deeper {shortcuts} network",
    "d": "the shallower {shortcuts} network",
    "D": "the deeper {shortcuts} network",
    "v": "a VGG less deep",
    "V": "the deepest VGG",
    "s": "a {shortcuts} network less deep",
    "S": "the deepest {shortcuts} network",
}


class _Statement(NamedTuple):
    """A claim before it is made of certain networks.

    Each pair of roles stands for the difference of their errors. A claim is true if the first difference is above
    zero or, of two, above the second. A `free` claim says that depth costs a family with shortcuts nothing: it is
    true if the difference is below the margin. Early in training depth costs every family something.
    """

    name: str
    text: str
    pairs: tuple[str, ...]
    free: bool = False

    @property
    def error(self) -> str:
        """`train` or `test`."""
        return "test" if self.name.endswith("test") else "train"

    @property
    def signed(self) -> list[tuple[int, str]]:
        """Sign and role of each term."""
        signs = ((1, -1), (-1, 1))
        return [own for pair in zip(signs, self.pairs, strict=False) for own in zip(*pair, strict=True)]


_NO_HIGHER = "has no higher training error than {} (by more than {{margin}} points)"

#: What is claimed of networks without shortcuts and with them: plain and residual ones in the paper.
STATEMENTS = (
    _Statement("plain-train", "{P} has higher training error than {p}", ("Pp",)),
    _Statement("plain-test", "{P} has higher test error than {p}", ("Pp",)),
    _Statement("residual-train", "{R} " + _NO_HIGHER.format("{r}"), ("Rr",), free=True),
    _Statement("deep-train", "{D} has lower training error than {P}", ("PD",)),
    _Statement("deep-test", "{D} has lower test error than {P}", ("PD",)),
    _Statement("cost-of-depth", "shortcuts shrink what depth costs in training error", ("Pp", "Dd")),
)

#: What is claimed of VGGs and the networks with shortcuts beside them.
WALL = (
    _Statement("wall-train", "{V} has higher training error than {v}", ("Vv",)),
    _Statement("wall-residual", "{S} " + _NO_HIGHER.format("{s}"), ("Ss",), free=True),
    _Statement("wall-cost", "depth costs the residual networks less training error than VGG", ("Vv", "Ss")),
)


@dataclass(frozen=True)
class Rules:
    """How strictly claims are judged."""

    margin: float = 0.005
    """How much more training error (a fraction) a deeper residual network may have and still count as no worse."""
    allow_one_seed: bool = False
    """Whether the sign of a gap decides where there is one seed, and so no interval."""


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it. Where recipe and data are the paper's, others' values stand beside its own."""

    name: str
    """A stable name, for programs."""
    text: str
    """The claim in words, for readers."""
    error: str
    """`train` or `test`."""
    contrast: tuple[tuple[int, str], ...]
    """The signed networks that the estimate sums."""
    estimate: float | None
    """The contrast of mean errors; None where a network has no finished run."""
    interval: Interval | None
    """The 95 % interval over seeds (Welch); None where a network has one seed."""
    seeds: int
    """The number of finished seeds of the network that has the fewest."""
    supports: bool | None
    """Whether the estimate lies on the claim's side; None without an estimate."""
    outcome: str
    decides: bool
    """Whether the verdict rests on it."""
    too_early: tuple[str, ...]
    """Which networks have not learnt enough for it to say anything, and where they stand."""
    remarks: tuple[str, ...]
    """Whatever else a reader must know of its networks, or why it decides nothing."""
    running: float | None
    """The same contrast of running training errors; the paper's training errors look like such."""
    paper: float | None
    """The paper's value; its training errors are of the running kind."""
    reproductions: tuple[float, float] | None
    """Least and greatest gap in test error of independent reproductions."""
    one_author_clean: float | None
    """One author's gap in training error of the kind that is judged, from single seeds."""

    @property
    def shown(self) -> bool:
        """Whether it says anything to a reader."""
        return self.decides or self.estimate is not None


class Want(NamedTuple):
    """What would have to be run for more to be judged, and the command that runs it, empty where none would help."""

    what: str
    command: str


@dataclass(frozen=True)
class Verdict:
    """The claims of one experiment and setting."""

    folder: str
    """The experiment's folder, from the working directory."""
    extra: str
    """What tells the setting from others in the folder; often empty."""
    curves: tuple[Curve, ...]
    kind: str
    """The kind of training error that is judged, `train_error_clean` or `train_error`."""
    wall: bool
    """Whether VGGs are judged (`WALL`) instead of other networks (`STATEMENTS`)."""
    rules: Rules
    claims: tuple[Claim, ...]
    lacking: tuple[Want, ...]
    """Networks of which no run was begun."""
    left_out: tuple[Want, ...]
    """Runs that were not counted, and why."""

    @property
    def title(self) -> str:
        """The experiment's folder, the setting where there are several, and families that are not the paper's."""
        others = [family for family in self.families if family not in ("plain", "residual")]
        return ", ".join([self.folder, *([self.extra] if self.extra else []), *others])

    @property
    def headline(self) -> str:
        """The outcome and what it must not be read without: `reproduced (early training only, one seed)`."""
        return self.outcome + (f" ({', '.join(self.qualifiers)})" if self.qualifiers else "")

    @property
    def families(self) -> tuple[str, str]:
        """The family without shortcuts, and the one with them, that claims are about."""
        return _family(self.curves, "plain"), _family(self.curves, "residual")

    @property
    def judged(self) -> bool:
        """Whether there are two depths without shortcuts: without them nothing can be said of degradation."""
        return self.claims[0].decides

    @property
    def deciding(self) -> list[Claim]:
        """The claims that the verdict rests on."""
        return [claim for claim in self.claims if claim.decides]

    @property
    def shorter(self) -> bool:
        """Whether its recipe has fewer iterations than the paper's 64,000."""
        return is_shorter(self.curves[0])

    @property
    def lacks_contrast(self) -> bool:
        """Whether a shorter recipe is judged without shortcuts, whose own cost of depth would be needed."""
        return self.shorter and not any(len(claim.contrast) > 2 for claim in self.deciding)

    @property
    def outcome(self) -> str:
        """Not reproduced if a deciding claim is refuted, reproduced if all hold, else too early or inconclusive."""
        if not self.judged:
            return INCONCLUSIVE
        found = _worst(claim.outcome for claim in self.deciding)
        return INCONCLUSIVE if found == REPRODUCED and self.lacks_contrast else found

    @property
    def qualifiers(self) -> list[str]:
        """What the outcome must not be read without."""
        if not self.judged:
            return []
        leaning = [claim.supports for claim in self.deciding]
        way = "the gaps point the paper's way" if all(leaning) else "the gaps do not all point the paper's way"
        decided = self.outcome in (REPRODUCED, NOT_REPRODUCED)
        precisions = {curve.network: curve.precision for curve in self.curves if curve.precision}
        mixed = len(set(precisions.values())) > 1 or " and " in "".join(precisions.values())
        named = ", ".join(f"{network} {precision}" for network, precision in precisions.items())
        one_seed = any(claim.seeds == 1 for claim in self.deciding)
        early = "; ".join(dict.fromkeys(told for claim in self.deciding for told in claim.too_early))
        networks = {network for claim in self.deciding for _, network in claim.contrast}
        compared = any(curve.shortcuts and curve.network in networks for curve in self.curves)
        facts = {
            early: self.outcome == TOO_EARLY,
            "SYNTHETIC data": self.curves[0].synthetic,
            "early training only": self.shorter and decided,
            "one seed, no interval": one_seed and decided,
            f"one seed: {way}": one_seed and not decided and None not in leaning and self.outcome != TOO_EARLY,
            "no residual networks to compare the cost of depth with": self.lacks_contrast,
            f"{self.families[0]} networks only": not (self.wall or self.shorter or compared),
            f"precisions mixed: {named}": mixed,
        }
        return [words for words, true in facts.items() if true]


def verdict(curves: Iterable[Curve], rules: Rules | None = None) -> Verdict:
    """The verdict on the networks of one experiment and setting.

    Raises:
        ValueError: the networks are of several; `verdicts` takes those.
    """
    (only,) = verdicts(curves, rules)
    return only


def verdicts(curves: Iterable[Curve], rules: Rules | None = None) -> list[Verdict]:
    """A verdict for each experiment's folder and setting, in the order of their names.

    Each family without shortcuts is judged with each that has them beside it, VGGs by the wall's claims. No network
    that was built from a trained one is judged.
    """
    rules = rules or Rules()

    def shared(curve: Curve) -> object:
        return str(curve.folder), sorted(curve.data_hashes), shared_settings(curve.experiment)

    groups = _grouped((curve for curve in curves if not curve.built), shared)
    found = []
    for group in sorted(groups, key=lambda g: (str(g[0].folder), g[0].extra)):
        plain, residuals, walls = (_comparable(group, kind) for kind in ("plain", "residual", "vgg"))
        for residual in residuals or [[]]:
            found += [_judge([*own, *residual], rules) for own in plain or [[]] * (not walls)]
            found += [_judge([*residual, *wall], rules, wall=True) for wall in walls]
    return found


def _comparable(curves: Iterable[Curve], kind: str) -> list[list[Curve]]:
    """Those of a kind by family, and by the settings that only the family has, which they must have in common."""
    own = (curve for curve in curves if _kind(curve) == kind)
    return _grouped(own, lambda curve: (curve.family != kind, curve.family, family_settings(curve.experiment)))


def _kind(curve: Curve) -> str:
    """`vgg`, or what the network stands for in claims: `residual` with shortcuts, `plain` without them."""
    return "residual" if curve.shortcuts else "vgg" if curve.family == "vgg" else "plain"


def _family(curves: Iterable[Curve], kind: str) -> str:
    """The family that stands for the kind; the kind itself where no network does."""
    return next((curve.family for curve in curves if _kind(curve) == kind), kind)


def _grouped(curves: Iterable[Curve], key: Callable[[Curve], object]) -> list[list[Curve]]:
    """The curves for which the key reads the same, together, in the order of keys."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(repr(key(curve)), []).append(curve)
    return [groups[key] for key in sorted(groups)]


def overall(found: Sequence[Verdict]) -> str:
    """The outcome of several verdicts: the worst of those that can be judged."""
    return _worst([verdict.outcome for verdict in found if verdict.judged] or [INCONCLUSIVE])


def _worst(outcomes: Iterable[str]) -> str:
    return min(outcomes, key=OUTCOMES.index)


# How far a network has come


def is_shorter(curve: Curve) -> bool:
    """Whether its recipe has fewer iterations than the paper's 64,000."""
    return curve.experiment.recipe.iterations < PAPER_ITERATIONS


def at_chance(curve: Curve, kind: str) -> int:
    """How many finished seeds end with a training error within 5 points of chance level."""
    return sum(error >= curve.chance - AT_CHANCE for error in curve.final[kind])


def is_trained(curve: Curve, kind: str) -> bool:
    """Whether every finished seed passed its last milestone and ends below half of chance level."""
    errors = curve.final[kind]
    passed = not curve.experiment.recipe.missed
    return bool(errors) and passed and all(error < TRAINED * curve.chance for error in errors)


def _mean_error(curve: Curve, kind: str) -> float:
    """The mean training error; 1, the worst there is, for a network without a finished seed."""
    return float(np.mean(curve.final[kind] or [1.0]))


def _standing(curve: Curve, kind: str) -> str:
    """Where a network that is not trained stands, in words."""
    seeds, stuck = len(curve.final[kind]), at_chance(curve, kind)
    told = f"{curve.network} is at {100 * _mean_error(curve, kind):.0f}%"
    if stuck == seeds:
        return f"{told}: it has hardly begun to learn"
    if stuck:
        return f"{told}, {stuck} of {seeds} seeds at chance"
    if curve.experiment.recipe.missed:
        return f"{told}: it ended before its last milestone"
    return f"{told}: not trained, which would be below {100 * TRAINED * curve.chance:.0f}%"


def _untold(curve: Curve, kind: str) -> list[str]:
    """What became of seeds that a mean over the finished ones would hide."""
    told = []
    if diverged := list(curve.seeds.values()).count(Status.DIVERGED):
        told.append(
            f"{diverged} of {len(curve.seeds)} seeds of {curve.network} diverged, and the mean is of the others"
        )
    stuck, finished = at_chance(curve, kind), len(curve.final[kind])
    if stuck and not is_shorter(curve):
        whose = curve.network if stuck == finished else f"{stuck} of {finished} seeds of {curve.network}"
        told.append(f"{whose} stayed at chance to the end of the paper's iterations, which is evidence")
    return told


# Which networks are compared


def _judge(curves: list[Curve], rules: Rules, *, wall: bool = False) -> Verdict:
    clean = all(len(curve.clean_train) >= len(curve.final["train_error"]) for curve in curves)
    kind = "train_error_clean" if clean else "train_error"
    roles, tries = _wall_roles(curves, kind) if wall else (_roles(curves), {})
    families = {"without": _family(curves, "plain"), "shortcuts": _family(curves, "residual")}
    names = {role: words.format(**families) for role, words in ROLES.items()}
    names |= {role: curve.network for role, curve in roles.items()}
    statements = WALL if wall else STATEMENTS
    return Verdict(
        folder=os.path.relpath(curves[0].folder),
        extra=max((curve.extra for curve in curves if curve.family != "vgg"), key=len, default=curves[0].extra),
        curves=tuple(curves),
        kind=kind,
        wall=wall,
        rules=rules,
        claims=tuple(_claim(statement, roles, names, tries, kind, rules) for statement in statements),
        lacking=() if wall else tuple(_lacking(curves, roles)),
        left_out=tuple(want for curve in curves for want in _left_out(curve)),
    )


def _roles(curves: Sequence[Curve]) -> dict[str, Curve]:
    """The shallowest and the deepest depth of each kind, of those that both kinds have if they share two.

    The next depth stands in for one where every run diverged, since a missing result is not evidence.
    """
    by_name = {(_kind(c), c.depth): c for c in curves if not c.diverged}
    depths = {kind: {d for own, d in by_name if own == kind} for kind in ("plain", "residual")}
    common = depths["plain"] & depths["residual"]
    plain, residual = (common if len(common) > 1 else depths[kind] for kind in ("plain", "residual"))
    wanted = {}
    if len(plain) > 1:
        low, high = min(plain), max(plain)
        wanted = {"p": ("plain", low), "P": ("plain", high), "d": ("residual", low), "D": ("residual", high)}
    if len(residual) > 1:
        wanted |= {"r": ("residual", min(residual)), "R": ("residual", max(residual))}
    return {role: by_name[key] for role, key in wanted.items() if key in by_name}


def _wall_roles(curves: Sequence[Curve], kind: str) -> tuple[dict[str, Curve], dict[str, int]]:
    """The deepest network of each kind and the best of the others, and among how many the latter was chosen."""
    roles: dict[str, Curve] = {}
    tries: dict[str, int] = {}
    for of, shallow, deep in (("vgg", "v", "V"), ("residual", "s", "S")):
        own = sorted((c for c in curves if _kind(c) == of and not c.diverged), key=lambda c: c.depth)
        if own:
            roles[deep] = own.pop()
        if own:
            roles[shallow] = min(own, key=lambda curve: (not curve.final[kind], _mean_error(curve, kind)))
            tries[shallow] = max(1, sum(bool(curve.final[kind]) for curve in own))
    return roles, tries


# What becomes of a claim


def _claim(
    statement: _Statement,
    roles: dict[str, Curve],
    names: dict[str, str],
    tries: dict[str, int],
    kind: str,
    rules: Rules,
) -> Claim:
    present = [(sign, roles[role]) for sign, role in statement.signed if role in roles]
    missing = [names[role] for _, role in statement.signed if role not in roles]
    column = "test_error" if statement.error == "test" else kind
    samples = [Sample(sign, curve.final[column]) for sign, curve in present]
    unfinished = [curve.network for _, curve in present if not curve.final[column]]
    complete = not missing and not unfinished
    # The best of several shallower networks is the best by chance as well: each of them could have been it.
    chosen_among = int(np.prod([tries.get(role, 1) for _, role in statement.signed]))
    estimate = contrast(samples) if complete else None
    interval = welch_interval(samples, 1 - (1 - CONFIDENCE) / chosen_among) if complete else None
    seeds = min((len(sample.errors) for sample in samples), default=0)
    hindrance = (
        f"not judged, there is no run of {missing[0]}"
        if missing
        else _hindrance(statement, [curve for _, curve in present])
    )
    early = _too_early(statement, roles, kind) if complete else []
    remarks = [hindrance] if hindrance else []
    if unfinished:
        remarks.append(f"{' and '.join(unfinished)}: no finished run")
    if not missing and not early:
        remarks += [told for _, curve in present for told in _untold(curve, kind)]
    if interval is not None and interval.low == interval.high and any(sample.errors[0] for sample in samples):
        remarks.append("all seeds of a network have the very same error, and such scatter says nothing")
        interval = None
    if chosen_among > 1 and interval is not None:
        remarks.append(f"the interval allows for the best having been chosen among {chosen_among}")
    supports = None if estimate is None else estimate < rules.margin if statement.free else estimate > 0
    return Claim(
        name=statement.name,
        text=statement.text.format(**names, margin=f"{100 * rules.margin:g}"),
        error=statement.error,
        contrast=tuple((sign, names[role]) for sign, role in statement.signed),
        estimate=estimate,
        interval=interval,
        seeds=seeds,
        supports=supports,
        outcome=TOO_EARLY if early else _outcome(statement, seeds, supports, interval, rules),
        decides=not hindrance,
        too_early=tuple(early),
        remarks=tuple(remarks),
        **_beside(statement, present if complete else [], kind),
    )


def _outcome(
    statement: _Statement, seeds: int, supports: bool | None, interval: Interval | None, rules: Rules
) -> str:
    """Reproduced where the whole interval is on the claim's side of zero or of the margin; refuted on the other."""
    if interval is not None:
        edge = rules.margin if statement.free else 0.0
        above, below = interval.low > edge, interval.high < edge
        holds, fails = (below, above) if statement.free else (above, below)
        return REPRODUCED if holds else NOT_REPRODUCED if fails else INCONCLUSIVE
    if supports is not None and seeds == 1 and rules.allow_one_seed:
        return REPRODUCED if supports else NOT_REPRODUCED
    return INCONCLUSIVE


def _too_early(statement: _Statement, roles: dict[str, Curve], kind: str) -> list[str]:
    """Which networks have not come far enough for the claim to say anything, and where they stand; empty if none.

    The better network of each pair must be trained: else the recipe is too short even for it. None may be at chance,
    unless it is the end of the paper's iterations, where a network at chance is evidence.
    """
    told = []
    for pair in statement.pairs:
        curves = [roles[role] for role in pair]
        better = min(curves, key=lambda curve: _mean_error(curve, kind))
        for curve in curves:
            stuck = at_chance(curve, kind) > 0 and is_shorter(curve)
            if stuck or (curve is better and not is_trained(curve, kind)):
                told.append(_standing(curve, kind))
    return list(dict.fromkeys(told))


def _hindrance(statement: _Statement, curves: Sequence[Curve]) -> str:
    """Why a claim is shown but decides nothing; empty if it decides."""
    if statement.free and is_shorter(curves[0]):
        return (
            "decides nothing in a recipe shorter than the paper's: early in training depth costs both families, "
            "and only the difference between what it costs them says something"
        )
    for one, other in combinations([curve for curve in curves if curve.family != "vgg"], 2):
        unequal = one.parameters is None or one.parameters != other.parameters
        if unequal and one.depth == other.depth and one.family != other.family:
            counts = [
                f"{c.network} has {f'{c.parameters:,}' if c.parameters else 'no count on record'}"
                for c in (one, other)
            ]
            return f"decides nothing: parameters differ, {' and '.join(counts)}"
    return ""


def _beside(statement: _Statement, signed: Sequence[tuple[int, Curve]], kind: str) -> dict[str, Any]:
    """What others have in place of the estimate of these networks, where recipe and data are the paper's."""
    found: dict[str, Any] = dict.fromkeys(("running", "paper", "reproductions", "one_author_clean"))
    if not signed or not all(curve.follows_paper for _, curve in signed):
        return found
    papers = [(sign, paper_error(curve.family, curve.depth, statement.error)) for sign, curve in signed]
    known = [sign * error for sign, error in papers if error is not None]
    depths = min(curve.depth for _, curve in signed), max(curve.depth for _, curve in signed)
    if len(known) == len(papers):
        found["paper"] = sum(known)
    if statement.error == "train":
        found["running"] = contrast([Sample(sign, curve.final["train_error"]) for sign, curve in signed])
    if statement.name == "plain-test":
        found["reproductions"] = REPRODUCED_TEST_GAP.get(depths)
    if statement.name == "plain-train" and kind == "train_error_clean":
        found["one_author_clean"] = reproduced_training_gap(*depths)
    return found


# What would have to be run


def _left_out(curve: Curve) -> list[Want]:
    """The seeds of each status but complete, and the command that goes on with the first of them."""
    found = []
    for status in sorted(set(curve.seeds.values()) - {Status.COMPLETE}):
        seeds = [seed for seed, own in curve.seeds.items() if own is status]
        listed = ", ".join(map(str, seeds[:5])) + (f" and {len(seeds) - 5} more" if len(seeds) > 5 else "")
        note = ", counts neither for nor against a claim" if status is Status.DIVERGED else ""
        goes_on = status in (Status.INTERRUPTED, Status.FAILED)
        command = _command(curve.paths[seeds[0]]) if goes_on else ""
        found.append(Want(f"{curve.network}, seed {listed}: {status}{note}", command))
    return found


def _lacking(curves: Sequence[Curve], roles: dict[str, Curve]) -> list[Want]:
    """Networks of two depths, without shortcuts and with them, of which no run was begun."""
    begun = {(curve.family, curve.depth) for curve in curves if not curve.diverged}
    depth = min((depth for _, depth in begun), default=20)
    pair = [depth, 56 if depth < 56 else 20]
    for shallow, deep in ("rR", "pP"):
        if deep in roles:
            pair = [roles[shallow].depth, roles[deep].depth]
    path = next(iter(curves[0].paths.values()))
    return [
        Want(f"{family}-{depth}", _command(path, f"model.family={family}", f"model.depth={depth}"))
        for family in (_family(curves, "plain"), _family(curves, "residual"))
        for depth in sorted(pair)
        if (family, depth) not in begun and depth in DEPTHS.get(family, (depth,))
    ]


def _command(path: Path, *settings: str) -> str:
    return shlex.join(["degrade", "train", "--config", str(path / "config.yaml"), *settings])
