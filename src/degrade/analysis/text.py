"""Verdicts as text for people and as JSON for programs; and what an evaluation found, as text."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from degrade.analysis.curves import Curve
from degrade.analysis.facts import CLEAN, MEASURED, RUNNING, TEST, inside, reproductions
from degrade.analysis.intervals import CONFIDENCE
from degrade.analysis.reference import departures
from degrade.analysis.table import aligned, spread
from degrade.analysis.verdict import SCHEMA_VERSION, Claim, Verdict, at_chance, is_trained, name, overall
from degrade.config import Experiment

if TYPE_CHECKING:
    from degrade.training import Evaluation

_WIDTH, _INDENT = 80, 18


def verdict_text(found: Sequence[Verdict]) -> str:
    """A report of each verdict that can be judged, a line of each that cannot; of one alone, what it lacks."""
    judged = [verdict for verdict in found if verdict.judged]
    reports = [_report(verdict) for verdict in judged or found]
    others = [
        f"not judged: {title(verdict)}: {', '.join(map(name, verdict.curves))}"
        for verdict in found
        if judged and not verdict.judged
    ]
    return "\n\n".join(reports + ["\n".join(others)] * bool(others))


def verdict_json(found: Sequence[Verdict]) -> str:
    """The verdicts as JSON, `schema_version` 2; README.md lists the fields. Errors are fractions."""
    outcome = overall(found)
    content = {"schema_version": SCHEMA_VERSION, "outcome": outcome, "verdicts": [_plain(v) for v in found]}
    return json.dumps(content, indent=2, allow_nan=False)


def headline(verdict: Verdict) -> str:
    """The outcome and what it must not be read without: `reproduced (early training only, one seed)`."""
    qualifiers = f" ({', '.join(verdict.qualifiers)})" if verdict.qualifiers else ""
    return f"{verdict.outcome}{qualifiers}"


def title(verdict: Verdict) -> str:
    """The experiment's folder, and the setting where there are several."""
    return verdict.folder + (f", {verdict.extra}" if verdict.extra else "")


def notes(verdict: Verdict) -> list[str]:
    """How it was judged, each a sentence: kind of training error, intervals, and what a shorter recipe can say."""
    kind, lacking = (CLEAN, "") if verdict.clean else (RUNNING, ", since a clean one is missing")
    told = [f"Claims are judged by the {kind} ({MEASURED[kind]}){lacking} of the last iterate."]
    if any(claim.interval for claim in verdict.claims):
        told.append(f"Intervals of {CONFIDENCE:.0%} are of the difference of means over seeds (Welch).")
    if any(claim.seeds == 1 for claim in verdict.claims):
        told.append("One seed gives no interval: how far chance in training moves an error shows only between seeds.")
    if verdict.shorter:
        told.append(
            "In a recipe shorter than the paper's both families pay for depth; only the difference between what it "
            "costs them says something."
        )
    if any(claim.running is not None for claim in verdict.claims):
        told.append("The paper's training errors look like running ones, and stand beside those.")
    return told


def _report(verdict: Verdict) -> str:
    parts = [title(verdict), _networks(verdict), *notes(verdict)]
    different = departures(verdict.curves[0].experiment)
    if different:
        parts.append(f"Not the paper's recipe: {'; '.join(different)}.")
    blocks = ["\n".join(_wrapped(part) if "\n" not in part else part for part in parts)]
    shown = [claim for claim in verdict.claims if claim.decides or claim.estimate is not None]
    if shown:
        blocks.append("\n".join(line for claim in shown for line in _claim(claim)))
    if not verdict.judged:
        lacking = "VGGs" if verdict.wall else "plain networks"
        blocks.append(f"nothing to judge by: a verdict needs {lacking} of two depths")
    for head, wants in (("not counted:", verdict.left_out), ("not trained:", verdict.lacking)):
        if wants:
            # Commands stay whole, to be copied.
            blocks.append("\n".join([head, *(f"  {line}" for want in wants for line in want if line)]))
    return "\n\n".join([*blocks, _wrapped(f"verdict: {headline(verdict)}")])


def _networks(verdict: Verdict) -> str:
    head = ["network", "parameters", "seeds", "running%", "clean%", "test%"]
    rows = []
    for curve in verdict.curves:
        count = "-" if curve.parameters is None else f"{curve.parameters:,}"
        errors = map(spread, (curve.final_train, curve.clean_train, curve.final_test))
        rows.append([name(curve), count, str(len(curve.final_test)), *errors])
    others = [
        f"{name(curve)} {inside(reproductions(curve), _mean(curve.final_test))}"
        for curve in verdict.curves
        if reproductions(curve)
    ]
    told = [_wrapped(f"test% of other reproductions: {'; '.join(others)}")] if others else []
    return "\n".join(["", aligned(head, rows), *told, ""])


def _claim(claim: Claim) -> list[str]:
    outcome = claim.outcome if claim.decides else f"({claim.outcome})"
    lines = textwrap.wrap(claim.text, _WIDTH, initial_indent=f"{outcome:<{_INDENT}}", subsequent_indent=" " * _INDENT)
    if claim.estimate is not None:
        values = f"= {100 * claim.estimate:+.2f} points"
        if claim.interval is not None:
            values += ", {:+.2f} to {:+.2f}".format(*(100 * v for v in claim.interval[1:]))
        one = f"{' ' * _INDENT}{_contrast(claim)} {values}"
        lines += [one] if len(one) <= _WIDTH else _indented(_contrast(claim)) + _indented(values)
    return lines + [line for told in said(claim) for line in _indented(told)]


def said(claim: Claim) -> list[str]:
    """All that stands below a claim."""
    return [*beside(claim), *(["; ".join(claim.too_early)] if claim.too_early else []), *claim.remarks]


def beside(claim: Claim) -> list[str]:
    """What the paper and others have in place of the estimate, each with the kind of error that it is of."""
    told = []
    if claim.running is not None:
        papers = "" if claim.paper is None else f"; the paper: {100 * claim.paper:+.2f}"
        told.append(f"of running training error: {100 * claim.running:+.2f}{papers}")
    elif claim.paper is not None:
        told.append(f"the paper: {100 * claim.paper:+.2f}")
    if claim.one_author_clean is not None:
        told.append(f"another author, clean training error, one seed: {100 * claim.one_author_clean:+.2f}")
    if claim.reproductions is not None:
        told.append(f"other reproductions: {inside(claim.reproductions, claim.estimate)}")
    return told


def _contrast(claim: Claim) -> str:
    """The signed networks: `plain-56 - plain-20`."""
    terms = [f"{'+' if sign > 0 else '-'} {network}" for sign, network in claim.contrast]
    return " ".join(terms).removeprefix("+ ")


def interval_in_words(claim: Claim) -> str:
    """The estimate and its interval as a sentence; empty without an estimate."""
    if claim.estimate is None:
        return ""
    which = "training" if claim.error == "train" else "test"
    told = f"{_contrast(claim)} = {100 * claim.estimate:+.2f} points of {which} error"
    if claim.interval is None:
        return f"{told}."
    _, low, high = claim.interval
    place = "wholly above zero" if low > 0 else "wholly below zero" if high < 0 else "with zero inside"
    return f"{told}; the {CONFIDENCE:.0%} interval runs from {100 * low:+.2f} to {100 * high:+.2f}, {place}."


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
    if experiment.model.norm != "batch":
        norm = "no statistics: the network has no batch norm"
    elif batch_statistics:
        size = experiment.recipe.batch_size
        norm = f"each batch's own statistics, over shuffled batches of {size}, of the test images too"
    views = "cropped and flipped as in the first epoch (test images are not)" if augmented else "not augmented"
    told = f"Measured with the weights fixed. Batch norm: {norm}.\nTraining images: {views}."
    by_class = zip(classes, train.by_class, test.by_class, strict=False)
    rows = [[name, f"{ours:.2%}", f"{theirs:.2%}"] for name, ours, theirs in by_class]
    return "\n".join([*lines, "", told, "", aligned(["class", "train", "test"], rows)])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ")


def _indented(text: str) -> list[str]:
    space = " " * _INDENT
    return textwrap.wrap(text, _WIDTH, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)


def _mean(errors: Sequence[float]) -> float | None:
    return float(np.mean(errors)) if errors else None


def _plain(verdict: Verdict) -> dict[str, Any]:
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
        "training_error": "train_error_clean" if verdict.clean else "train_error",
        "networks": [_plain_network(curve, verdict.clean) for curve in verdict.curves],
        "claims": [_plain_claim(claim) for claim in verdict.claims],
        "not_counted": [want._asdict() for want in verdict.left_out],
        "not_trained": [want._asdict() for want in verdict.lacking],
    }


def _plain_network(curve: Curve, clean: bool) -> dict[str, Any]:
    others, error = reproductions(curve), _mean(curve.final_test)
    return {
        "network": name(curve),
        "parameters": curve.parameters,
        "seeds": {str(seed): status for seed, status in curve.seeds.items()},
        "precision": curve.precision or None,
        "chance_error": curve.chance,
        "trained": is_trained(curve, clean=clean),
        "seeds_at_chance": at_chance(curve, clean=clean),
        "train_error": curve.final_train,
        "train_error_clean": curve.clean_train,
        "train_error_batch": curve.batch_train,
        "test_error": curve.final_test,
        "reproductions_test_error": others,
        "inside_reproductions": _is_inside(others, error),
    }


def _plain_claim(claim: Claim) -> dict[str, Any]:
    _, low, high = claim.interval or (None, None, None)
    others, estimate = claim.reproductions, claim.estimate
    plain: dict[str, Any] = {}
    for key, value in asdict(claim).items():
        plain |= {"low": low, "high": high, "confidence": CONFIDENCE} if key == "interval" else {key: value}
    return {**plain, "inside_reproductions": _is_inside(others, estimate)}


def _is_inside(others: tuple[float, float] | None, value: float | None) -> bool | None:
    return others[0] <= value <= others[1] if others and value is not None else None
