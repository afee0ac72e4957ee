"""Verdicts as text for people and as JSON for programs."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from degrade.analysis.curves import Curve
from degrade.analysis.intervals import CONFIDENCE
from degrade.analysis.reference import departures, follows_paper, reproduced_test_error
from degrade.analysis.table import aligned, spread
from degrade.analysis.verdict import SCHEMA_VERSION, Claim, Verdict, name, overall, training_errors

_WIDTH, _INDENT = 80, 18

METHODS = {
    "welch": "of the difference of means over seeds (Welch)",
    "sampling": "from the number of images (one seed: the chance in training is not in them)",
}


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
    """The verdicts as JSON, `schema_version` 1; README.md lists the fields. Errors are fractions."""
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


def _report(verdict: Verdict) -> str:
    kind = "eval mode, un-augmented images" if verdict.clean else "running, train mode, augmented images"
    methods = sorted({claim.method for claim in verdict.claims if claim.method})
    parts = [title(verdict), _networks(verdict), f"training error: {kind}; last iterate"]
    parts += [f"{CONFIDENCE:.0%} intervals {METHODS[method]}" for method in methods]
    different = departures(verdict.curves[0].config)
    if different:
        parts.append(f"not the paper's recipe: {'; '.join(different)}")
    blocks = ["\n".join(_wrapped(part) if "\n" not in part else part for part in parts)]
    shown = [claim for claim in verdict.claims if claim.decides or claim.interval]
    if shown:
        blocks.append("\n".join(line for claim in shown for line in _claim(claim)))
    if not verdict.judged:
        blocks.append("nothing to judge by: a verdict needs plain networks of two depths")
    for head, wants in (("not counted:", verdict.left_out), ("not trained:", verdict.lacking)):
        if wants:
            # Commands stay whole, to be copied.
            blocks.append("\n".join([head, *(f"  {line}" for want in wants for line in want if line)]))
    return "\n\n".join([*blocks, f"verdict: {headline(verdict)}"])


def _networks(verdict: Verdict) -> str:
    ranges = any(others_test(curve) for curve in verdict.curves)
    head = ["network", "parameters", "seeds", "train%", "test%"] + ["others' test%"] * ranges
    rows = []
    for curve in verdict.curves:
        count = "-" if curve.parameters is None else f"{curve.parameters:,}"
        train = training_errors(curve, clean=verdict.clean)
        cells = [name(curve), count, str(len(curve.final_test)), spread(train), spread(curve.final_test)]
        rows.append(cells + [inside(others_test(curve), _mean(curve.final_test))] * ranges)
    return "\n" + aligned(head, rows) + "\n"


def others_test(curve: Curve) -> tuple[float, float] | None:
    """Range of other reproductions' test error; None where there is none or the recipe is not the paper's."""
    return reproduced_test_error(curve.family, curve.depth) if follows_paper(curve.config) else None


def _claim(claim: Claim) -> list[str]:
    outcome = claim.outcome if claim.decides else f"({claim.outcome})"
    lines = [f"{outcome:<{_INDENT}}{claim.text}"]
    if claim.interval is not None:
        estimate, low, high = (f"{100 * value:+.2f}" for value in claim.interval)
        values = f"= {estimate} points, {low} to {high}"
        one = f"{' ' * _INDENT}{contrast_text(claim)} {values}"
        lines += [one] if len(one) <= _WIDTH else _indented(contrast_text(claim)) + _indented(values)
    if claim.paper is not None:
        lines += _indented(f"the paper: {100 * claim.paper:+.2f}")
    if claim.others is not None and claim.interval is not None:
        lines += _indented(f"other reproductions: {inside(claim.others, claim.interval.estimate)}")
    return lines + (_indented(claim.remark) if claim.remark else [])


def contrast_text(claim: Claim) -> str:
    """The signed networks: `plain-56 - plain-20`."""
    terms = [f"{'+' if sign > 0 else '-'} {network}" for sign, network in claim.contrast]
    return " ".join(terms).removeprefix("+ ")


def inside(others: tuple[float, float] | None, value: float | None) -> str:
    """A range and where a value lies to it: `9.4 to 9.8: inside`; `-` without either."""
    if others is None or value is None:
        return "-"
    low, high = (100 * edge for edge in others)
    place = "below" if value < others[0] else "above" if value > others[1] else "inside"
    return f"{low:.1f} to {high:.1f}: {place}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ")


def _indented(text: str) -> list[str]:
    space = " " * _INDENT
    return textwrap.wrap(text, _WIDTH, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)


def _mean(errors: Sequence[float]) -> float | None:
    return float(np.mean(errors)) if errors else None


def _plain(verdict: Verdict) -> dict[str, Any]:
    config = verdict.curves[0].config
    return {
        "experiment": verdict.folder,
        "setting": verdict.extra,
        "outcome": verdict.outcome,
        "judged": verdict.judged,
        "qualifiers": verdict.qualifiers,
        "recipe": config["recipe"]["name"],
        "iterations": config["recipe"]["iterations"],
        "departures": departures(config),
        "data": config["data"]["name"],
        "training_error": "train_error_clean" if verdict.clean else "train_error",
        "networks": [_plain_network(curve, verdict.clean) for curve in verdict.curves],
        "claims": [_plain_claim(claim) for claim in verdict.claims],
        "not_counted": [want._asdict() for want in verdict.left_out],
        "not_trained": [want._asdict() for want in verdict.lacking],
    }


def _plain_network(curve: Curve, clean: bool) -> dict[str, Any]:
    others, error = others_test(curve), _mean(curve.final_test)
    return {
        "network": name(curve),
        "parameters": curve.parameters,
        "seeds": {str(seed): status for seed, status in curve.seeds.items()},
        "train_error": training_errors(curve, clean=clean),
        "test_error": curve.final_test,
        "reproductions_test_error": others,
        "inside_reproductions": others[0] <= error <= others[1] if others and error is not None else None,
    }


def _plain_claim(claim: Claim) -> dict[str, Any]:
    estimate, low, high = claim.interval or (None, None, None)
    others = claim.others
    return {
        "name": claim.name,
        "text": claim.text,
        "error": claim.error,
        "contrast": [[sign, network] for sign, network in claim.contrast],
        "estimate": estimate,
        "low": low,
        "high": high,
        "confidence": CONFIDENCE,
        "method": claim.method or None,
        "outcome": claim.outcome,
        "decides": claim.decides,
        "remark": claim.remark or None,
        "paper": claim.paper,
        "reproductions": others,
        "inside_reproductions": others[0] <= estimate <= others[1] if others and estimate is not None else None,
    }
