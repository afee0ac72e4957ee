"""Verdicts as text for people and as JSON for programs; and what an evaluation found, as text."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from degrade.analysis.curves import Curve
from degrade.analysis.facts import CLEAN, MEASURED, RUNNING, TEST, inside, is_inside, reproductions
from degrade.analysis.intervals import CONFIDENCE
from degrade.analysis.table import aligned, spread
from degrade.analysis.verdict import Claim, Verdict, at_chance, is_trained, overall
from degrade.config import Experiment
from degrade.config.identity import departures

if TYPE_CHECKING:
    from degrade.training import Evaluation

_WIDTH, _INDENT = 80, 18


def verdict_text(found: Sequence[Verdict]) -> str:
    """A report of each verdict that can be judged, and a line for each that cannot; one alone is always reported."""
    judged = [verdict for verdict in found if verdict.judged]
    reports = [_report(verdict) for verdict in judged or found]
    others = [
        f"not judged: {verdict.title}: {', '.join(curve.network for curve in verdict.curves)}"
        for verdict in found
        if judged and not verdict.judged
    ]
    return "\n\n".join(reports + ["\n".join(others)] * bool(others))


def notes(verdict: Verdict) -> list[str]:
    """Sentences on how it was judged: kind of training error, intervals, and what a shorter recipe can say."""
    clean = verdict.kind == "train_error_clean"
    kind, lacking = (CLEAN, "") if clean else (RUNNING, ", since a clean one is missing")
    told = {
        f"Claims are judged by the {kind} ({MEASURED[kind]}){lacking} of the last iterate.": True,
        f"Intervals of {CONFIDENCE:.0%} are of the difference of means over seeds (Welch).": any(
            claim.interval for claim in verdict.claims
        ),
        "One seed gives no interval: how far chance in training moves an error shows only between seeds.": any(
            claim.seeds == 1 for claim in verdict.claims
        ),
        "In a recipe shorter than the paper's both families pay for depth; only the difference between what it costs "
        "them says something.": verdict.shorter,
        "The paper's training errors look like running ones, and stand beside those.": any(
            claim.running is not None for claim in verdict.claims
        ),
    }
    return [sentence for sentence, true in told.items() if true]


def _report(verdict: Verdict) -> str:
    about = [_wrapped(verdict.title), _networks(verdict), *map(_wrapped, notes(verdict))]
    if different := dict.fromkeys(own for curve in verdict.curves for own in departures(curve.experiment)):
        about.append(_wrapped(f"Not the paper's recipe: {'; '.join(different)}."))
    blocks = [about, [line for claim in verdict.claims if claim.shown for line in _claim(claim)]]
    if not verdict.judged:
        lacking = "VGGs" if verdict.wall else f"{verdict.families[0]} networks"
        blocks.append([f"nothing to judge by: a verdict needs {lacking} of two depths"])
    for head, wants in (("not counted:", verdict.left_out), ("not trained:", verdict.lacking)):
        if wants:  # their commands stay whole, to be copied
            blocks.append([head, *(f"  {line}" for want in wants for line in want if line)])
    blocks.append([_wrapped(f"verdict: {verdict.headline}")])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _networks(verdict: Verdict) -> str:
    head = ["network", "parameters", "seeds", "running%", "clean%", "test%"]
    rows, others = [], []
    for curve in verdict.curves:
        count = "-" if curve.parameters is None else f"{curve.parameters:,}"
        errors = [spread(curve.final[key]) for key in ("train_error", "train_error_clean", "test_error")]
        rows.append([curve.network, count, str(len(curve.final["test_error"])), *errors])
        if found := reproductions(curve):
            others.append(f"{curve.network} {inside(found, _mean(curve.final['test_error']))}")
    told = [_wrapped(f"test% of other reproductions: {'; '.join(others)}")] if others else []
    return "\n".join(["", aligned(head, rows), *told, ""])


def _claim(claim: Claim) -> list[str]:
    outcome = claim.outcome if claim.decides else f"({claim.outcome})"
    lines = textwrap.wrap(claim.text, _WIDTH, initial_indent=f"{outcome:<{_INDENT}}", subsequent_indent=" " * _INDENT)
    if claim.estimate is not None:
        values = f"= {_points(claim.estimate)} points"
        if claim.interval is not None:
            values += f", {_points(claim.interval.low)} to {_points(claim.interval.high)}"
        whole = f"{_contrast(claim)} {values}"
        fits = _INDENT + len(whole) <= _WIDTH
        lines += _indented(whole) if fits else _indented(_contrast(claim)) + _indented(values)
    return lines + [line for told in said(claim) for line in _indented(told)]


def headline(verdict: Verdict) -> str:
    """What was found, as one sentence with numbers: what more layers cost each family; empty without such a pair."""
    costs = {
        claim.contrast[0][1].split("-")[0]: claim
        for claim in verdict.claims
        if claim.error == "train" and claim.estimate is not None and _is_cost_of_depth(claim)
    }
    if not costs:
        return ""
    parts: list[str] = []
    verb, told = "", 0
    for family in sorted(costs, key=lambda family: (family == verdict.families[1], family)):
        claim = costs[family]
        deep, shallow = (int(network.rpartition("-")[2]) for _, network in claim.contrast)
        points, before = 100 * (claim.estimate or 0.0), verb
        verb = "raise" if points >= 0 else "lower"
        whose = "VGG's" if family == "vgg" else f"a {family} network's"
        what = f"{whose} training error" if not parts else "that of one with shortcuts"
        layers = "" if deep - shallow == told else f"{deep - shallow} more layers "
        told = deep - shallow
        parts.append(f"{layers}{f'{verb} ' if layers or verb != before else ''}{what} by {abs(points):.1f} points")
    return ", and ".join(parts)


def _is_cost_of_depth(claim: Claim) -> bool:
    """Whether it sets the deeper network of one family beside the shallower one."""
    families = {network.split("-")[0] for _, network in claim.contrast}
    return len(claim.contrast) == 2 and len(families) == 1


def said(claim: Claim) -> list[str]:
    """All that stands below a claim: what the paper and others have in its place, and what hinders it."""
    told = []
    if claim.running is not None:
        papers = "" if claim.paper is None else f"; the paper: {_points(claim.paper)}"
        told.append(f"of running training error: {_points(claim.running)}{papers}")
    elif claim.paper is not None:
        told.append(f"the paper: {_points(claim.paper)}")
    if claim.one_author_clean is not None:
        told.append(f"another author, clean training error, one seed: {_points(claim.one_author_clean)}")
    if claim.reproductions is not None:
        told.append(f"other reproductions: {inside(claim.reproductions, claim.estimate)}")
    if claim.too_early:
        told.append("; ".join(claim.too_early))
    return [*told, *claim.remarks]


def _contrast(claim: Claim) -> str:
    """The signed networks: `plain-56 - plain-20`."""
    return " ".join(f"{'+' if sign > 0 else '-'} {network}" for sign, network in claim.contrast).removeprefix("+ ")


def interval_in_words(claim: Claim) -> str:
    """The estimate and its interval as a sentence; empty without an estimate."""
    if claim.estimate is None:
        return ""
    which = "training" if claim.error == "train" else "test"
    told = f"{_contrast(claim)} = {_points(claim.estimate)} points of {which} error"
    if claim.interval is None:
        return f"{told}."
    _, low, high = claim.interval
    place = "wholly above zero" if low > 0 else "wholly below zero" if high < 0 else "with zero inside"
    return f"{told}; the {CONFIDENCE:.0%} interval runs from {_points(low)} to {_points(high)}, {place}."


def evaluation_text(
    experiment: Experiment,
    train: "Evaluation",
    test: "Evaluation",
    classes: Sequence[str],
    *,
    batch_statistics: bool,
    augmented: bool,
) -> str:
    """Errors of one network on training and test images, how they were measured, and errors by class."""
    kinds = ["batch-statistics"] * batch_statistics + ["augmented"] * augmented or ["clean"]
    names = [", ".join(["training error", *kinds]), TEST + ", batch-statistics" * batch_statistics]
    wide = max(map(len, names))
    lines = [f"{name:{wide}}  {found.error:.2%}" for name, found in zip(names, (train, test), strict=True)]
    norm = "its running statistics"
    if not experiment.model.batch_norm:
        norm = "no statistics: the network has no batch norm"
    elif batch_statistics:
        size = experiment.recipe.batch_size
        norm = f"each batch's own statistics, over shuffled batches of {size}, of the test images too"
    views = "cropped and flipped as in the first epoch (test images are not)" if augmented else "not augmented"
    told = f"Measured with the weights fixed. Batch norm: {norm}.\nTraining images: {views}."
    by_class = zip(classes, train.by_class, test.by_class, strict=False)
    rows = [[name, f"{ours:.2%}", f"{theirs:.2%}"] for name, ours, theirs in by_class]
    return "\n".join([*lines, "", told, "", aligned(["class", "train", "test"], rows)])


def _points(error: float) -> str:
    """A difference of errors in points of a percent, with its sign."""
    return f"{100 * error:+.2f}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ")


def _indented(text: str) -> list[str]:
    space = " " * _INDENT
    return textwrap.wrap(text, _WIDTH, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)


def _mean(errors: Sequence[float]) -> float | None:
    return float(np.mean(errors)) if errors else None


def verdict_json(found: Sequence[Verdict]) -> str:
    """The verdicts as JSON, whose fields docs/explanation/verdict.md lists. Errors are fractions."""
    content = {"schema_version": 2, "outcome": overall(found), "verdicts": [_fields(verdict) for verdict in found]}
    return json.dumps(content, indent=2, allow_nan=False)


def _fields(verdict: Verdict) -> dict[str, Any]:
    experiment = verdict.curves[0].experiment
    return {
        "experiment": verdict.folder,
        "setting": verdict.extra,
        "outcome": verdict.outcome,
        "judged": verdict.judged,
        "qualifiers": verdict.qualifiers,
        "recipe": experiment.recipe.name,
        "iterations": experiment.recipe.iterations,
        "departures": departures(experiment),
        "data": experiment.data.name,
        "kind": "wall" if verdict.wall else "degradation",
        "margin": verdict.rules.margin,
        "one_seed_allowed": verdict.rules.allow_one_seed,
        "training_error": verdict.kind,
        "networks": [_network_fields(curve, verdict.kind) for curve in verdict.curves],
        "claims": [_claim_fields(claim) for claim in verdict.claims],
        "not_counted": [want._asdict() for want in verdict.left_out],
        "not_trained": [want._asdict() for want in verdict.lacking],
    }


def _network_fields(curve: Curve, kind: str) -> dict[str, Any]:
    others = reproductions(curve)
    return {
        "network": curve.network,
        "parameters": curve.parameters,
        "seeds": {str(seed): status for seed, status in curve.seeds.items()},
        "precision": curve.precision or None,
        "chance_error": curve.chance,
        "trained": is_trained(curve, kind),
        "seeds_at_chance": at_chance(curve, kind),
        **curve.final,
        "reproductions_test_error": others,
        "inside_reproductions": is_inside(others, _mean(curve.final["test_error"])),
    }


def _claim_fields(claim: Claim) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in asdict(claim).items():
        if key == "interval":
            _, low, high = claim.interval or (None, None, None)
            fields |= {"low": low, "high": high, "confidence": CONFIDENCE}
        else:
            fields[key] = value
    return {**fields, "inside_reproductions": is_inside(claim.reproductions, claim.estimate)}
