"""Writes the README's tables from the records in outputs/reference, between its `<!-- name -->` marks."""

import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from degrade.analysis import error_curves, error_table, verdict_text, verdicts
from degrade.analysis.speed import Report
from degrade.analysis.table import aligned
from degrade.config import compose, network_matrix
from degrade.runs import Session, find_records

TOP = Path(__file__).resolve().parents[1]
REFERENCE = TOP / "outputs" / "reference"


def errors(recipe: str) -> str:
    """The table of errors that `degrade reproduce` ends in, and where, when and from which commit its records are."""
    records = find_records([REFERENCE / recipe])
    made = {_told(session) for record in records for session in record.sessions}
    return "\n".join([*sorted(made), "", error_table(error_curves(records))])


def _told(session: Session) -> str:
    """When a session began, on what, and from which commit, as far as the record knows."""
    threads, commit = session.get("threads"), (session.get("git") or {}).get("commit")
    place = f"{session['device']}, {threads} thread{'s' * (threads > 1)}" if threads else str(session["device"])
    return f"{str(session['started'])[:10]}, {place}, {f'commit {commit[:7]}' if commit else 'commit not recorded'}"


def tried() -> str:
    """Last clean training errors, in percent, of what was tried for the quick recipe."""
    families, depths = ("plain", "residual"), (20, 56)
    rows: dict[tuple[str, ...], dict[tuple[str, int], list[float]]] = {}
    for record in find_records([REFERENCE / "tried"]):
        own = record.experiment
        model, recipe = own.model, own.recipe
        ramp = f"linear, {recipe.warmup_iterations}" if recipe.warmup == "linear" else "none"
        setting = (
            f"{own.data.train_limit:,}",
            f"{recipe.iterations:,}",
            "/".join(f"{milestone:,}" for milestone in recipe.milestones),
            f"{own.optim.lr:g}",
            "zero init" if model.zero_init else ramp,
        )
        network = (model.family, model.depth)
        rows.setdefault(setting, {}).setdefault(network, []).append(record.summary["train_error_clean"])
    networks = [(family, depth) for family in families for depth in depths]
    head = [
        "images",
        "updates",
        "milestones",
        "rate",
        "warm-up",
        *(f"{family}-{depth}" for family, depth in networks),
    ]
    cells = [
        [*setting, *(f"{100 * np.mean(found[own]):.1f}" if own in found else "-" for own in networks)]
        for setting, found in sorted(rows.items(), key=lambda row: int(row[0][0].replace(",", "")), reverse=True)
    ]
    return aligned(head, cells)


def verdict() -> str:
    """What `degrade verify` says of the same records."""
    command = "degrade verify outputs/reference/quick"
    found = verdicts(error_curves(find_records([Path("outputs/reference/quick")])))
    return f"$ {command}\n{verdict_text(found)}"


def newest_bench(machine: str) -> Report:
    """The newest bench on record of a machine, named as its file is."""
    return Report.from_json(max(REFERENCE.glob(f"bench/*-{machine}-*.json")).read_text())


def bench(machine: str) -> str:
    """A bench, as `degrade bench` prints it, its date and commit before it."""
    report = newest_bench(machine)
    made, git = report.machine["date"], report.machine["git"]
    return f"{made[:10]}, commit {str(git['commit'])[:7]}\n{report.as_text()}"


def cost(machine: str) -> str:
    """What the paper's recipe takes on a bench's machine, by hours a layer between the depths that it timed."""
    report = newest_bench(machine)
    timed = {r.contender.depth: r.paper_hours for r in report.results if r.contender.label == "eager fp32"}
    depths = sorted(timed)

    def hours(depth: int) -> float:
        return float(np.interp(depth, depths, [timed[d] or math.nan for d in depths]))

    matrices = {"Figure 1": "figure1", "the story": "story", "Figure 6": "figure6"}
    rows = []
    for name, experiment in matrices.items():
        networks = network_matrix(experiment)
        once = sum(hours(compose(network).model.depth) for network in networks)
        rows.append([name, str(len(networks)), f"{once:,.0f} h", f"{5 * once / 24:,.0f} days"])
    return aligned([report.machine["device"], "networks", "one seed", "five seeds"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "short": partial(errors, "short"),
    "quick": partial(errors, "quick"),
    "tried": tried,
    "verdict": verdict,
    "cost": partial(cost, "epyc"),
    "bench": partial(bench, "epyc"),
    "bench-bf16": partial(bench, "xeon"),
}


def filled(text: str) -> str:
    """The README with every marked block made anew."""
    for name, table in TABLES.items():
        head, mark, rest = text.partition(f"<!-- {name} -->\n```\n")
        if not mark:
            raise SystemExit(f"README.md: no block marked <!-- {name} -->")
        _, fence, tail = rest.partition("```\n")
        text = head + mark + table() + "\n" + fence + tail
    return text


if __name__ == "__main__":
    os.chdir(TOP)
    readme = TOP / "README.md"
    before = readme.read_text()
    after = filled(before)
    if before == after:
        print("README.md: its tables are those of outputs/reference")
    elif "--check" in sys.argv:
        raise SystemExit("README.md: its tables differ from outputs/reference; run scripts/readme")
    else:
        readme.write_text(after)
        print("README.md: tables written")
