"""Did the degradation problem appear, and did the shortcuts mend it? From curves; errors are fractions.

Each claim of the paper (section 4.2, Figure 6) is a signed sum of mean errors over seeds, with a 95 % interval. A
claim decides only where it can: the networks it compares have learnt enough for their recipe to say something, and
there are seeds enough for an interval.

Two words are used in one sense throughout:

- A network is *trained* if it passed its last milestone and ends with a training error below half of chance level
  (below 45 % for ten balanced classes).
- It is *at chance* if its training error ends within 5 points of chance level.
"""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from degrade.analysis.curves import Curve
from degrade.analysis.intervals import CONFIDENCE, Interval, Sample, contrast, welch_interval
from degrade.analysis.reference import departures, paper_error, reproduced_gap, reproduced_training_gap
from degrade.config import Experiment
from degrade.config.identity import family_settings, shared_settings
from degrade.runs import Status

SCHEMA_VERSION = 2

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
TOO_EARLY = "too early"

#: From the one that a verdict on several experiments must not hide to the one that it may.
OUTCOMES = (NOT_REPRODUCED, TOO_EARLY, INCONCLUSIVE, REPRODUCED)

PAPER_ITERATIONS = Experiment().recipe.iterations

#: Share of chance level below which a network's training error must be for it to count as trained.
TRAINED = 0.5

#: How near to chance level a network's training error must be for it to count as at chance.
AT_CHANCE = 0.05

#: By how much a deeper network's training error may exceed a shallower one's and still count as no higher.
MARGIN = 0.005

#: Names of the networks that claims are about, for when one is missing. Small letters: shallow; capitals: deep.
#: d and D are the residual networks at the plain pair's depths, r and R the residual pair; v and V are the best VGG
#: and the deepest, s and S the best residual network and the deepest beside them.
ROLES = {
    "p": "the shallower plain network",
    "P": "the deeper plain network",
    "r": "the shallower residual network",
    "R": "the deeper residual network",
    "d": "the shallower residual network",
    "D": "the deeper residual network",
    "v": "a VGG less deep",
    "V": "the deepest VGG",
    "s": "a residual network less deep",
    "S": "the deepest residual network",
}


class _Statement(NamedTuple):
    """A claim before it meets networks.

    `terms` are signed roles, and it is true if their sum is above zero; a claim that depth costs a family with
    shortcuts nothing, if it is not above the margin. Those are free of depth, and early in training none is.
    """

    name: str
    text: str
    terms: str
    free: bool = False

    @property
    def error(self) -> str:
        """`train` or `test`."""
        return "test" if self.name.endswith("test") else "train"

    @property
    def signed(self) -> list[tuple[int, str]]:
        """Sign and role of each term."""
        return [(-1 if sign == "-" else 1, role) for sign, role in re.findall("([+-])(.)", self.terms)]

    @property
    def pairs(self) -> list[list[str]]:
        """The roles that are compared with each other, a family at a time where there are two."""
        roles = [role for _, role in self.signed]
        return [roles[k : k + 2] for k in range(0, len(roles), 2)]


_NO_HIGHER = "has no higher training error than {} (by more than {{margin}} points)"

#: Of plain networks and residual ones.
STATEMENTS = (
    _Statement("plain-train", "{P} has higher training error than {p}", "+P-p"),
    _Statement("plain-test", "{P} has higher test error than {p}", "+P-p"),
    _Statement("residual-train", "{R} " + _NO_HIGHER.format("{r}"), "+R-r", free=True),
    _Statement("deep-train", "{D} has lower training error than {P}", "+P-D"),
    _Statement("deep-test", "{D} has lower test error than {P}", "+P-D"),
    _Statement("cost-of-depth", "shortcuts shrink what depth costs in training error", "+P-p-D+d"),
)

#: Of VGGs and the residual networks beside them.
WALL = (
    _Statement("wall-train", "{V} has higher training error than {v}", "+V-v"),
    _Statement("wall-residual", "{S} " + _NO_HIGHER.format("{s}"), "+S-s", free=True),
    _Statement("wall-cost", "depth costs the residual networks less training error than VGG", "+V-v-S+s"),
)

#: Claims that set what depth costs one family beside what it costs the other.
_CONTRAST = ("cost-of-depth", "wall-cost")


@dataclass(frozen=True)
class Rules:
    """How strictly is judged."""

    margin: float = MARGIN
    """A deeper residual network may have this much more training error (a fraction) and count as no worse."""
    allow_one_seed: bool = False
    """The sign of a gap decides where there is one seed, and so no interval."""


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it. Where recipe and data are the paper's, others' values stand beside its own."""

    name: str
    """Stable, for programs."""
    text: str
    """For readers."""
    error: str
    """`train` or `test`."""
    contrast: tuple[tuple[int, str], ...]
    """The signed networks that the estimate sums."""
    estimate: float | None
    """Of the contrast of mean errors; None where a network has no finished run."""
    interval: Interval | None
    """The 95 % interval over seeds (Welch); None with one seed of a network."""
    seeds: int
    """Finished ones of the network that has the fewest."""
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
    """The paper's; of training error it is of the running kind."""
    reproductions: tuple[float, float] | None
    """Range of independent reproductions' gap in test error."""
    one_author_clean: float | None
    """One author's gap in training error of the kind that is judged, of single seeds."""


class Want(NamedTuple):
    """What would have to be run for more to be judged, and the command that does; empty where none would help."""

    what: str
    command: str


@dataclass(frozen=True)
class Verdict:
    """The claims of one experiment and setting."""

    folder: str
    """The experiment's, from the working directory."""
    extra: str
    """What tells the setting from others in the folder; often empty."""
    curves: tuple[Curve, ...]
    clean: bool
    """Whether training error is `train_error_clean` (eval mode, un-augmented), else the running `train_error`."""
    wall: bool
    """Whether VGGs are judged (`WALL`) instead of plain networks (`STATEMENTS`)."""
    rules: Rules
    claims: tuple[Claim, ...]
    lacking: tuple[Want, ...]
    """Networks that no run was begun of."""
    left_out: tuple[Want, ...]
    """Runs that were not counted, and why."""

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
        """Whether a shorter recipe is judged without residual networks, whose own cost of depth would be needed."""
        return self.shorter and not any(claim.name in _CONTRAST for claim in self.deciding)

    @property
    def outcome(self) -> str:
        """Not reproduced if a deciding claim is refuted, reproduced if all hold, else too early or inconclusive."""
        outcomes = {claim.outcome for claim in self.deciding}
        if not self.judged:
            return INCONCLUSIVE
        found = next(outcome for outcome in OUTCOMES if outcome in outcomes)
        return INCONCLUSIVE if found == REPRODUCED and self.lacks_contrast else found

    @property
    def one_seed(self) -> bool:
        """Whether a claim that decides stands on one seed of a network."""
        return any(claim.seeds == 1 for claim in self.deciding)

    @property
    def qualifiers(self) -> list[str]:
        """What the outcome must not be read without."""
        if not self.judged:
            return []
        leaning = [claim.supports for claim in self.deciding]
        way = "the gaps point the paper's way" if all(leaning) else "the gaps do not all point the paper's way"
        decided = self.outcome in (REPRODUCED, NOT_REPRODUCED)
        precisions = {name(curve): curve.precision for curve in self.curves if curve.precision}
        mixed = len(set(precisions.values())) > 1 or " and " in "".join(precisions.values())
        named = ", ".join(f"{network} {precision}" for network, precision in precisions.items())
        early = "; ".join(dict.fromkeys(told for claim in self.deciding for told in claim.too_early))
        families = {network.partition("-")[0] for claim in self.deciding for _, network in claim.contrast}
        facts = {
            early: self.outcome == TOO_EARLY,
            "SYNTHETIC data": self.curves[0].synthetic,
            "early training only": self.shorter and decided,
            "one seed, no interval": self.one_seed and decided,
            f"one seed: {way}": self.one_seed and not decided and None not in leaning and self.outcome != TOO_EARLY,
            "no residual networks to compare the cost of depth with": self.lacks_contrast,
            "plain networks only": not (self.wall or self.shorter or "residual" in families),
            f"precisions mixed: {named}": mixed,
        }
        return [words for words, true in facts.items() if true]


def verdict(curves: Iterable[Curve], rules: Rules | None = None) -> Verdict:
    """The verdict on the networks of one experiment and setting.

    Raises:
        ValueError: they are of several; `verdicts` takes those.
    """
    (only,) = verdicts(curves, rules)
    return only


def verdicts(curves: Iterable[Curve], rules: Rules | None = None) -> list[Verdict]:
    """A verdict for each experiment's folder and setting, in the order of their names.

    Where there are plain networks, they are judged; where there are VGGs, the wall is. Residual networks stand beside
    either. No network that was built from a trained one is judged.
    """
    groups: dict[str, list[Curve]] = {}
    for curve in (c for c in curves if not c.built):
        shared = str(curve.folder), sorted(curve.data_hashes), shared_settings(curve.experiment)
        groups.setdefault(repr(shared), []).append(curve)
    found = []
    for group in sorted(groups.values(), key=lambda g: (str(g[0].folder), g[0].extra)):
        plain, residuals, walls = (_by_family_settings(group, family) for family in ("plain", "residual", "vgg"))
        for residual in residuals or [[]]:
            if plain or not walls:
                found.append(_judge([*(curve for own in plain for curve in own), *residual], rules or Rules()))
            found += [_judge([*residual, *wall], rules or Rules(), wall=True) for wall in walls]
    return found


def _by_family_settings(curves: Iterable[Curve], family: str) -> list[list[Curve]]:
    """A family's networks, those together that have the same settings of which other families know nothing."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.family == family:
            groups.setdefault(repr(family_settings(curve.experiment)), []).append(curve)
    return [groups[key] for key in sorted(groups)]


def overall(found: Sequence[Verdict]) -> str:
    """The outcome of several: of those that can be judged, the worst."""
    outcomes = {v.outcome for v in found if v.judged} or {INCONCLUSIVE}
    return next(o for o in OUTCOMES if o in outcomes)


def is_shorter(curve: Curve) -> bool:
    """Whether its recipe has fewer iterations than the paper's 64,000."""
    return curve.experiment.recipe.iterations < PAPER_ITERATIONS


def name(curve: Curve) -> str:
    """Family and depth, `plain-56`."""
    return f"{curve.family}-{curve.depth}"


def errors_of(curve: Curve, error: str = "train", *, clean: bool) -> list[float]:
    """Last error of each finished seed, of training by either kind."""
    return curve.final_test if error == "test" else curve.clean_train if clean else curve.final_train


def _mean_error(curve: Curve, *, clean: bool) -> float:
    """Of training; of a network without a finished seed the worst there is."""
    return float(np.mean(errors_of(curve, clean=clean) or [1.0]))


# How far a network has come


def at_chance(curve: Curve, *, clean: bool) -> int:
    """How many finished seeds end with a training error within 5 points of chance level."""
    return sum(error >= curve.chance - AT_CHANCE for error in errors_of(curve, clean=clean))


def is_trained(curve: Curve, *, clean: bool) -> bool:
    """Whether every finished seed passed its last milestone and ends below half of chance level."""
    errors = errors_of(curve, clean=clean)
    return bool(errors) and _passed(curve) and all(error < TRAINED * curve.chance for error in errors)


def _passed(curve: Curve) -> bool:
    """Whether updates were made at the last rate: a milestone names the last update at the rate before it."""
    recipe = curve.experiment.recipe
    return all(recipe.iterations > milestone for milestone in recipe.milestones)


def _standing(curve: Curve, *, clean: bool) -> str:
    """Where a network that is not trained stands, in words."""
    errors = errors_of(curve, clean=clean)
    percent, stuck = f"{100 * float(np.mean(errors)):.0f}%", at_chance(curve, clean=clean)
    if stuck == len(errors):
        return f"{name(curve)} is at {percent}: it has hardly begun to learn"
    if stuck:
        return f"{name(curve)} is at {percent}, {stuck} of {len(errors)} seeds at chance"
    if not _passed(curve):
        return f"{name(curve)} is at {percent}: it ended before its last milestone"
    return f"{name(curve)} is at {percent}: not trained, which would be below {100 * TRAINED * curve.chance:.0f}%"


def _untold(curve: Curve, *, clean: bool) -> list[str]:
    """What became of seeds that a mean over the finished ones would hide."""
    told, total = [], len(curve.seeds)
    diverged = sum(status == Status.DIVERGED for status in curve.seeds.values())
    if diverged:
        told.append(f"{diverged} of {total} seeds of {name(curve)} diverged, and the mean is of the others")
    stuck, finished = at_chance(curve, clean=clean), len(errors_of(curve, clean=clean))
    if stuck and not is_shorter(curve):
        whose = name(curve) if stuck == finished else f"{stuck} of {finished} seeds of {name(curve)}"
        told.append(f"{whose} stayed at chance to the end of the paper's iterations, which is evidence")
    return told


# What is compared


def _judge(curves: list[Curve], rules: Rules, *, wall: bool = False) -> Verdict:
    finished = [curve for curve in curves if curve.final_train]
    clean = all(len(curve.clean_train) == len(curve.final_train) for curve in finished)
    roles, tries = _wall_roles(curves, clean=clean) if wall else (_roles(curves), {})
    statements = WALL if wall else STATEMENTS
    claims = tuple(_claim(statement, roles, clean=clean, rules=rules, tries=tries) for statement in statements)
    return Verdict(
        folder=os.path.relpath(curves[0].folder),
        extra=max((curve.extra for curve in curves if curve.family != "vgg"), key=len, default=curves[0].extra),
        curves=tuple(curves),
        clean=clean,
        wall=wall,
        rules=rules,
        claims=claims,
        lacking=() if wall else tuple(_lacking(curves, roles)),
        left_out=tuple(want for curve in curves for want in _left_out(curve)),
    )


def _roles(curves: Sequence[Curve]) -> dict[str, Curve]:
    """Who is compared: the shallowest and the deepest depth, of those that both families have if they share two.

    A depth all of whose runs diverged has nothing to compare, and never will have: the next one stands in for it,
    since a missing result is not evidence.
    """
    by_name = {(c.family, c.depth): c for c in curves if set(c.seeds.values()) != {Status.DIVERGED}}
    depths = {family: {d for f, d in by_name if f == family} for family in ("plain", "residual")}
    common = depths["plain"] & depths["residual"]
    plain, residual = (common if len(common) > 1 else depths[family] for family in ("plain", "residual"))
    wanted = {}
    if len(plain) > 1:
        low, high = min(plain), max(plain)
        wanted = {"p": ("plain", low), "P": ("plain", high), "d": ("residual", low), "D": ("residual", high)}
    if len(residual) > 1:
        wanted |= {"r": ("residual", min(residual)), "R": ("residual", max(residual))}
    return {role: by_name[key] for role, key in wanted.items() if key in by_name}


def _wall_roles(curves: Sequence[Curve], *, clean: bool) -> tuple[dict[str, Curve], dict[str, int]]:
    """The deepest network of each family and the best of the others; and of how many the best is the best."""
    roles: dict[str, Curve] = {}
    tries: dict[str, int] = {}
    for family, shallow, deep in (("vgg", "v", "V"), ("residual", "s", "S")):
        own = [c for c in curves if c.family == family and set(c.seeds.values()) != {Status.DIVERGED}]
        own.sort(key=lambda curve: curve.depth)
        if own:
            roles[deep] = own.pop()
        measured = [curve for curve in own if errors_of(curve, clean=clean)]
        if own:
            roles[shallow] = min(measured or own, key=lambda curve: _mean_error(curve, clean=clean))
            tries[shallow] = max(1, len(measured))
    return roles, tries


# What becomes of a claim


def _claim(
    statement: _Statement, roles: dict[str, Curve], *, clean: bool, rules: Rules, tries: dict[str, int]
) -> Claim:
    names = {role: name(roles[role]) if role in roles else words for role, words in ROLES.items()}
    present = [(sign, roles[role]) for sign, role in statement.signed if role in roles]
    missing = [names[role] for _, role in statement.signed if role not in roles]
    unfinished = [name(c) for _, c in present if not errors_of(c, statement.error, clean=clean)]
    complete = not missing and not unfinished
    # The best of several shallower networks is the best by chance as well: each of them could have been it.
    chosen_among = int(np.prod([tries.get(role, 1) for _, role in statement.signed]))
    samples = [Sample(sign, errors_of(curve, statement.error, clean=clean)) for sign, curve in present]
    estimate = contrast(samples) if complete else None
    fewest = min((len(sample.errors) for sample in samples), default=0)
    interval = welch_interval(samples, 1 - (1 - CONFIDENCE) / chosen_among) if complete else None
    hindrance = f"not judged, there is no run of {missing[0]}" if missing else _hindrance(statement, present)
    early = [] if not complete else _too_early(statement, roles, clean=clean)
    remarks = [hindrance] if hindrance else []
    if unfinished:
        remarks.append(f"{' and '.join(unfinished)}: no finished run")
    if not missing and not early:
        remarks += [told for _, curve in present for told in _untold(curve, clean=clean)]
    if complete and interval is not None and interval.low == interval.high and any(s.errors[0] for s in samples):
        remarks.append("all seeds of a network have the very same error, and such scatter says nothing")
        interval = None
    if chosen_among > 1 and interval is not None:
        remarks.append(f"the interval allows for the best having been chosen among {chosen_among}")
    papers = complete and not any(departures(curve.experiment) for _, curve in present)
    trained_on = papers and statement.error == "train"
    return Claim(
        name=statement.name,
        text=statement.text.format(**names, margin=f"{100 * rules.margin:g}"),
        error=statement.error,
        contrast=tuple((sign, names[role]) for sign, role in statement.signed),
        estimate=estimate,
        interval=interval,
        seeds=fewest,
        supports=_supports(statement, estimate, rules),
        outcome=TOO_EARLY if early else _outcome(statement, fewest, estimate, interval, rules),
        decides=not hindrance,
        too_early=tuple(early),
        remarks=tuple(remarks),
        running=contrast([Sample(sign, curve.final_train) for sign, curve in present]) if trained_on else None,
        paper=_paper_contrast(present, statement.error) if papers else None,
        reproductions=reproduced_gap(*_depths(present)) if papers and statement.name == "plain-test" else None,
        one_author_clean=reproduced_training_gap("clean", *_depths(present))
        if papers and clean and statement.name == "plain-train"
        else None,
    )


def _supports(statement: _Statement, estimate: float | None, rules: Rules) -> bool | None:
    if estimate is None:
        return None
    return estimate > 0 if not statement.free else estimate < rules.margin


def _outcome(
    statement: _Statement, seeds: int, estimate: float | None, interval: Interval | None, rules: Rules
) -> str:
    """Reproduced where the whole interval is on the claim's side of zero or of the margin; refuted on the other."""
    if interval is not None:
        edge = 0.0 if not statement.free else rules.margin
        above, below = interval.low > edge, interval.high < edge
        return INCONCLUSIVE if not (above or below) else REPRODUCED if above != statement.free else NOT_REPRODUCED
    if estimate is not None and seeds == 1 and rules.allow_one_seed:
        return REPRODUCED if _supports(statement, estimate, rules) else NOT_REPRODUCED
    return INCONCLUSIVE


def _too_early(statement: _Statement, roles: dict[str, Curve], *, clean: bool) -> list[str]:
    """Which networks have not come far enough for the claim to say anything, and where they stand; empty if none.

    The better network of each pair must be trained: else the recipe is too short even for it. None may be at chance,
    unless it is the end of the paper's iterations, where a network at chance is evidence.
    """
    told = []
    for pair in statement.pairs:
        curves = [roles[role] for role in pair]
        better = min(curves, key=lambda curve: _mean_error(curve, clean=clean))
        for curve in curves:
            stuck = at_chance(curve, clean=clean) > 0 and is_shorter(curve)
            if stuck or (curve is better and not is_trained(curve, clean=clean)):
                told.append(_standing(curve, clean=clean))
    return list(dict.fromkeys(told))


def _hindrance(statement: _Statement, present: Sequence[tuple[int, Curve]]) -> str:
    """Why a claim is shown but decides nothing; empty if it decides."""
    if statement.free and is_shorter(present[0][1]):
        return (
            "decides nothing in a recipe shorter than the paper's: early in training depth costs both families, "
            "and only the difference between what it costs them says something"
        )
    by_depth: dict[int, list[Curve]] = {}
    for _, curve in present:
        if curve.family != "vgg":
            by_depth.setdefault(curve.depth, []).append(curve)
    for pair in by_depth.values():
        counts = [curve.parameters for curve in pair]
        if len({curve.family for curve in pair}) > 1 and (None in counts or len(set(counts)) > 1):
            told = [
                f"{name(c)} has {'no count on record' if n is None else f'{n:,}'}"
                for c, n in zip(pair, counts, strict=True)
            ]
            return f"decides nothing: parameters differ, {' and '.join(told)}"
    return ""


def _depths(present: Sequence[tuple[int, Curve]]) -> tuple[int, int]:
    depths = [curve.depth for _, curve in present]
    return min(depths), max(depths)


def _paper_contrast(present: Sequence[tuple[int, Curve]], error: str) -> float | None:
    values = [(sign, paper_error(curve.family, curve.depth, error)) for sign, curve in present]
    return None if any(v is None for _, v in values) else sum(sign * v for sign, v in values if v is not None)


# What would have to be run


def _left_out(curve: Curve) -> list[Want]:
    """For each status but complete: which seeds, and the command that goes on with the first of them."""
    found = []
    for status in sorted(set(curve.seeds.values()) - {Status.COMPLETE}):
        seeds = [seed for seed, own in curve.seeds.items() if own == status]
        listed = ", ".join(map(str, seeds[:5])) + (f" and {len(seeds) - 5} more" if len(seeds) > 5 else "")
        note = ", counts neither for nor against a claim" if status == Status.DIVERGED else ""
        command = _command(curve, seed=seeds[0]) if status in (Status.INTERRUPTED, Status.FAILED) else ""
        found.append(Want(f"{name(curve)}, seed {listed}: {status}{note}", command))
    return found


def _lacking(curves: Sequence[Curve], roles: dict[str, Curve]) -> list[Want]:
    """What no run was begun of: two depths, plain and residual."""
    begun = {(c.family, c.depth) for c in curves if set(c.seeds.values()) != {Status.DIVERGED}}
    depth = min((depth for _, depth in begun), default=20)
    pair = [depth, 56 if depth < 56 else 20]
    for shallow, deep in ("pP", "rR"):
        if deep in roles:
            pair = [roles[shallow].depth, roles[deep].depth]
            break
    return [
        Want(f"{family}-{depth}", _command(curves[0], f"model.family={family}", f"model.depth={depth}"))
        for family in ("plain", "residual")
        for depth in sorted(pair)
        if (family, depth) not in begun
    ]


def _command(curve: Curve, *settings: str, seed: int | None = None) -> str:
    path = next(iter(curve.paths.values())) if seed is None else curve.paths[seed]
    return shlex.join(["degrade", "train", "--config", str(path / "config.yaml"), *settings])
