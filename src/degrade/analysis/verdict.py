"""Did the degradation problem appear, and did the shortcuts mend it? From curves; errors are fractions.

Each claim of the paper (section 4.2, Figure 6) is a sum and difference of mean errors with a 95 % interval. A claim
is decided where the whole interval lies on one side of zero.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from degrade.analysis.curves import Curve
from degrade.analysis.intervals import Interval, Sample, sampling_interval, welch_interval
from degrade.analysis.reference import departures, paper_error, reproduced_gap
from degrade.config import Experiment
from degrade.config.schema import flatten
from degrade.runs.record import INCIDENTAL

SCHEMA_VERSION = 1

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"

PAPER_ITERATIONS = Experiment().recipe.iterations

#: Names of the networks that claims are about, for when one is missing. Small letters: shallow; capitals: deep.
#: d and D are the residual networks at the plain pair's depths, r and R the residual pair.
ROLES = {
    "p": "the shallower plain network",
    "P": "the deeper plain network",
    "r": "the shallower residual network",
    "R": "the deeper residual network",
    "d": "the shallower residual network",
    "D": "the deeper residual network",
}


@dataclass(frozen=True)
class _Statement:
    """A claim before it meets networks: `terms` are signed roles; true if their sum is above zero (or not above)."""

    name: str
    text: str
    error: str
    terms: tuple[tuple[int, str], ...]
    above: bool = True


STATEMENTS = (
    _Statement("plain-train", "{P} has higher training error than {p}", "train", ((1, "P"), (-1, "p"))),
    _Statement("plain-test", "{P} has higher test error than {p}", "test", ((1, "P"), (-1, "p"))),
    _Statement(
        "residual-train",
        "{R} has no higher training error than {r}",
        "train",
        ((1, "R"), (-1, "r")),
        above=False,
    ),
    _Statement("deep-train", "{D} has lower training error than {P}", "train", ((1, "P"), (-1, "D"))),
    _Statement("deep-test", "{D} has lower test error than {P}", "test", ((1, "P"), (-1, "D"))),
    _Statement(
        "cost-of-depth",
        "shortcuts shrink what depth costs in training error",
        "train",
        ((1, "P"), (-1, "p"), (-1, "D"), (1, "d")),
    ),
)


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it.

    Attributes:
        name: stable, for programs.
        text: for readers.
        error: `train` or `test`.
        contrast: the signed networks that the estimate sums.
        interval: estimate and 95 % interval; None where there is none.
        method: `welch` (over seeds), `sampling` (of images, one seed) or empty.
        outcome: reproduced, not reproduced or inconclusive.
        decides: whether the verdict rests on it.
        remark: why there is no interval, or why it decides nothing.
        paper: the paper's value where recipe and data are the paper's.
        others: range of independent reproductions, likewise.
    """

    name: str
    text: str
    error: str
    contrast: tuple[tuple[int, str], ...]
    interval: Interval | None
    method: str
    outcome: str
    decides: bool
    remark: str
    paper: float | None
    others: tuple[float, float] | None


class Want(NamedTuple):
    """What would have to be run for more to be judged, and the command that does; empty where none would help."""

    what: str
    command: str


@dataclass(frozen=True)
class Verdict:
    """The claims of one experiment and setting.

    Attributes:
        folder: the experiment's, from the working directory.
        extra: what tells the setting from others in the folder; often empty.
        curves: its networks.
        clean: training error is `train_error_clean` (eval mode, un-augmented), else the running `train_error`.
        claims: all six, in the order of `STATEMENTS`.
        lacking: networks that no run was begun of.
        left_out: runs that were not counted, and why.
    """

    folder: str
    extra: str
    curves: tuple[Curve, ...]
    clean: bool
    claims: tuple[Claim, ...]
    lacking: tuple[Want, ...]
    left_out: tuple[Want, ...]

    @property
    def judged(self) -> bool:
        """Whether there is a plain pair: without one nothing can be said of degradation."""
        return self.claims[0].decides

    @property
    def outcome(self) -> str:
        """Reproduced if every claim that decides is, not reproduced if any is refuted, else inconclusive."""
        outcomes = {claim.outcome for claim in self.claims if claim.decides}
        if not self.judged:
            return INCONCLUSIVE
        if NOT_REPRODUCED in outcomes:
            return NOT_REPRODUCED
        return REPRODUCED if outcomes == {REPRODUCED} else INCONCLUSIVE

    @property
    def qualifiers(self) -> list[str]:
        """What the outcome must not be read without."""
        deciding = [claim for claim in self.claims if claim.decides]
        facts = {
            "SYNTHETIC data": self.curves[0].synthetic,
            "early training only": is_shorter(self.curves[0]),
            "one seed": any(claim.method == "sampling" for claim in deciding),
            "plain networks only": bool(deciding) and all(claim.name.startswith("plain-") for claim in deciding),
        }
        return [words for words, true in facts.items() if true and self.judged]


def verdict(curves: Iterable[Curve]) -> Verdict:
    """The verdict on the networks of one experiment and setting.

    Raises:
        ValueError: they are of several; `verdicts` takes those.
    """
    (only,) = verdicts(curves)
    return only


def verdicts(curves: Iterable[Curve]) -> list[Verdict]:
    """A verdict for each experiment's folder and setting, in the order of their names.

    No VGG is judged, and no network that was built from a trained one.
    """
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in (c for c in curves if c.family != "vgg" and not c.built):
        groups.setdefault((str(curve.folder), _setting(curve)), []).append(curve)
    return [_judge(group) for _, group in sorted(groups.items(), key=lambda g: (g[0][0], g[1][0].extra))]


def overall(found: Sequence[Verdict]) -> str:
    """The outcome of several: of those that can be judged, the worst."""
    outcomes = {v.outcome for v in found if v.judged} or {INCONCLUSIVE}
    return next(o for o in (NOT_REPRODUCED, INCONCLUSIVE, REPRODUCED) if o in outcomes)


def is_shorter(curve: Curve) -> bool:
    """Whether its recipe has fewer iterations than the paper's 64,000."""
    return int(curve.config["recipe"]["iterations"]) < PAPER_ITERATIONS


def name(curve: Curve) -> str:
    """Family and depth, `plain-56`."""
    return f"{curve.family}-{curve.depth}"


def training_errors(curve: Curve, *, clean: bool) -> list[float]:
    """Last training error of each finished seed, of either kind."""
    return curve.clean_train if clean else curve.final_train


def _setting(curve: Curve) -> str:
    """Everything that networks must have in common to be compared; a setting younger than a record is its default."""
    own = {"seed", "model.family", "model.depth", *INCIDENTAL}
    if curve.config["data"]["name"] != "folder":
        own.add("data.root")
    settings = Experiment().flat() | flatten(curve.config)
    return repr(sorted((key, value) for key, value in settings.items() if key not in own))


def _judge(curves: list[Curve]) -> Verdict:
    roles = _roles(curves)
    finished = [curve for curve in roles.values() if curve.final_train]
    clean = all(len(curve.clean_train) == len(curve.final_train) for curve in finished)
    claims = tuple(_claim(statement, roles, clean) for statement in STATEMENTS)
    return Verdict(
        folder=os.path.relpath(curves[0].folder),
        extra=curves[0].extra,
        curves=tuple(curves),
        clean=clean,
        claims=claims,
        lacking=tuple(_lacking(curves, roles)),
        left_out=tuple(want for curve in curves for want in _left_out(curve)),
    )


def _roles(curves: Sequence[Curve]) -> dict[str, Curve]:
    """Who is compared: the shallowest and the deepest depth, of those that both families have if they share two.

    A depth all of whose runs diverged has nothing to compare, and never will have: the next one stands in for it.
    """
    by_name = {(c.family, c.depth): c for c in curves if set(c.seeds.values()) != {"diverged"}}
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


def _claim(statement: _Statement, roles: dict[str, Curve], clean: bool) -> Claim:
    names = {role: name(roles[role]) if role in roles else words for role, words in ROLES.items()}
    present = [(sign, roles[role]) for sign, role in statement.terms if role in roles]
    missing = [names[role] for _, role in statement.terms if role not in roles]
    samples = [_sample(sign, curve, statement.error, clean) for sign, curve in present]
    unfinished = [name(c) for (_, c), sample in zip(present, samples, strict=True) if not sample.errors]
    complete = not missing and not unfinished
    interval, method = _interval(samples) if complete else (None, "")
    papers = complete and not any(departures(curve.config) for _, curve in present)
    hindrance = f"not judged, there is no run of {missing[0]}" if missing else _hindrance(statement, present)
    remark = hindrance
    if not remark and unfinished:
        remark = f"{' and '.join(unfinished)}: no finished run"
    elif not remark and interval is None:
        remark = "the records do not say how many images there are; a second seed gives an interval"
    return Claim(
        name=statement.name,
        text=statement.text.format(**names),
        error=statement.error,
        contrast=tuple((sign, names[role]) for sign, role in statement.terms),
        interval=interval,
        method=method,
        outcome=_outcome(interval, statement.above),
        decides=not hindrance,
        remark=remark,
        paper=_paper_contrast(present, statement.error) if papers else None,
        others=reproduced_gap(statement.error, *_depths(present)) if papers and _is_plain(statement) else None,
    )


def _sample(sign: int, curve: Curve, error: str, clean: bool) -> Sample:
    if error == "test":
        return Sample(sign, curve.final_test, images(curve, "test"))
    if clean:
        return Sample(sign, curve.clean_train, images(curve, "train"))
    return Sample(sign, curve.final_train, curve.window)


def images(curve: Curve, which: str) -> int | None:
    """How many training or test images its settings leave; None for a folder of images without a limit."""
    data = curve.config["data"]
    whole = {"train": 50_000, "test": 10_000}
    if data.get("split", "full") != "full":
        whole = {"train": 45_000, "test": 5_000}
    limit: int | None = data.get(f"{which}_limit")
    if data["name"] == "folder":
        return limit
    return whole[which] if limit is None else min(limit, whole[which])


def _interval(samples: Sequence[Sample]) -> tuple[Interval | None, str]:
    if min(len(sample.errors) for sample in samples) > 1:
        interval = welch_interval(samples)
        if interval.low < interval.high:
            return interval, "welch"
    # One seed; or several with the very same errors, whose scatter then says nothing.
    sampled = sampling_interval(samples)
    return sampled, "sampling" if sampled else ""


def _outcome(interval: Interval | None, above: bool) -> str:
    if interval is None or interval.low <= 0 < interval.high:
        return INCONCLUSIVE
    return REPRODUCED if (interval.low > 0) == above else NOT_REPRODUCED


def _hindrance(statement: _Statement, present: Sequence[tuple[int, Curve]]) -> str:
    """Why a claim is shown but decides nothing; empty if it decides."""
    if statement.name == "residual-train" and is_shorter(present[0][1]):
        return "decides nothing this early in training, when the deeper residual network may still be behind"
    by_depth: dict[int, list[Curve]] = {}
    for _, curve in present:
        by_depth.setdefault(curve.depth, []).append(curve)
    for pair in by_depth.values():
        counts = [curve.parameters for curve in pair]
        if len(pair) > 1 and (None in counts or len(set(counts)) > 1):
            told = [f"{name(c)} has {_count(c.parameters)}" for c in pair]
            return f"decides nothing: parameters differ, {' and '.join(told)}"
    return ""


def _count(parameters: int | None) -> str:
    return "no count on record" if parameters is None else f"{parameters:,}"


def _is_plain(statement: _Statement) -> bool:
    return statement.name.startswith("plain-")


def _depths(present: Sequence[tuple[int, Curve]]) -> tuple[int, int]:
    depths = [curve.depth for _, curve in present]
    return min(depths), max(depths)


def _paper_contrast(present: Sequence[tuple[int, Curve]], error: str) -> float | None:
    values = [(sign, paper_error(curve.family, curve.depth, error)) for sign, curve in present]
    if any(value is None for _, value in values):
        return None
    return sum(sign * value for sign, value in values if value is not None)


def _left_out(curve: Curve) -> list[Want]:
    """For each status but complete: which seeds, and the command that goes on with the first of them."""
    found = []
    for status in sorted(set(curve.seeds.values()) - {"complete"}):
        seeds = [seed for seed, own in curve.seeds.items() if own == status]
        listed = ", ".join(map(str, seeds[:5])) + (f" and {len(seeds) - 5} more" if len(seeds) > 5 else "")
        note = ", counts neither for nor against a claim" if status == "diverged" else ""
        command = _command(curve, seed=seeds[0]) if status in ("interrupted", "failed") else ""
        found.append(Want(f"{name(curve)}, seed {listed}: {status}{note}", command))
    return found


def _lacking(curves: Sequence[Curve], roles: dict[str, Curve]) -> list[Want]:
    """What no run was begun of: two depths, plain and residual."""
    begun = {(c.family, c.depth) for c in curves if set(c.seeds.values()) != {"diverged"}}
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
