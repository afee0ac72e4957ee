"""Writes the tables of README and docs/ from the records in outputs/reference, between `<!-- name -->` marks."""

import math
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from degrade.analysis import error_curves, error_table, verdict_text, verdicts
from degrade.analysis.reference import ONE_AUTHOR, ONE_AUTHOR_TEST, PAPER_LAST, REPRODUCED_TEST, paper_error
from degrade.analysis.speed import Report
from degrade.analysis.table import aligned
from degrade.config import compose, network_matrix
from degrade.probes.remedies import remedy_table, treated
from degrade.runs import Session, find_records, library
from degrade.runs.numbers import read
from degrade.training.schedule import scheduled_rate

TOP = Path(__file__).resolve().parents[1]
REFERENCE = TOP / "outputs" / "reference"

#: What was tried, by the recipe that it was tried for.
TRIED = {
    "quick": [folder for folder in REFERENCE.glob("tried/*") if not folder.name.startswith("short-")],
    "short": list(REFERENCE.glob("tried/short-*")),
}


def errors(recipe: str) -> str:
    """The table of errors that `degrade reproduce` ends in, and where, when and from which commit its records are.

    Those of unfinished runs are left out.
    """
    records = [record for record in find_records([REFERENCE / recipe]) if record.status == "complete"]
    made = {_told(session) for record in records for session in record.sessions}
    return "\n".join([*sorted(made), "", error_table(error_curves(records))])


def compared() -> str:
    """Errors by the paper's recipe in percent, by how training error was measured, beside the paper's and others'.

    Unfinished runs are left out, and so is a batch-statistics error that was measured on a part of the images.
    """
    columns = ("running", "batch", "clean", "not said", "test")
    rows: list[list[str]] = []

    def add(whose: str, errors: dict[str, float | None]) -> None:
        rows.append([whose, *(_share(errors[column]) if column in errors else "" for column in columns)])

    records = [record for record in find_records([REFERENCE / "paper"]) if record.status == "complete"]
    for curve in error_curves(records):
        network, (run,) = (curve.family, curve.depth), curve.paths.values()
        end = {key: errors[0] for key, errors in curve.final.items() if errors}
        kinds = read(run / "probes" / "kinds.csv")[-1]
        batch = float(kinds["train_error_batch"]) if int(kinds["count"]) == 50_000 else None
        ours = {"running": end["train_error"], "batch": batch, "clean": end["train_error_clean"]}
        add(f"{network[0]}-{network[1]}, at the end", {**ours, "test": end["test_error"]})
        late = {"running": curve.train, "test": curve.test}
        since = curve.experiment.recipe.iterations - PAPER_LAST
        add("  last 14,000 updates", {key: own.mean[own.iteration > since].mean() for key, own in late.items()})
        papers = {"not said": paper_error(*network, "train"), "test": paper_error(*network, "test")}
        add("  paper, last 14,000", papers)
        for kind, error in ONE_AUTHOR[network].items():
            test = ONE_AUTHOR_TEST.get(network, {}).get(kind)
            add("  a-martyn/resnet", {kind: error / 100, "test": None if test is None else test / 100})
        low, high = REPRODUCED_TEST[network]
        add("  others, in PyTorch", {})
        rows[-1][-1] = f"{100 * low:.1f} to {100 * high:.1f}"
    return aligned(["network", *(f"{column}%" for column in columns)], rows)


def _told(session: Session) -> str:
    """When a session began, on what, and from which commit, as far as the record knows."""
    threads, commit = session.get("threads"), (session.get("git") or {}).get("commit")
    place = f"{session['device']}, {threads} thread{'s' * (threads > 1)}" if threads else str(session["device"])
    return f"{str(session['started'])[:10]}, {place}, {f'commit {commit[:7]}' if commit else 'commit not recorded'}"


def remedied() -> str:
    """What each remedy bought, as `degrade plot --style remedies` prints it."""
    records = find_records([REFERENCE / "remedies"])
    return remedy_table(treated(error_curves(records)))


def tried(recipe: str) -> str:
    """Last clean training errors, in percent, of what was tried for a recipe."""
    families, depths = ("plain", "residual"), (20, 56)
    rows: dict[tuple[str, ...], dict[tuple[str, int], list[float]]] = {}
    for record in find_records(TRIED[recipe]):
        own = record.experiment
        model, schedule = own.model, own.recipe
        ramp = f"linear, {schedule.warmup_iterations}" if schedule.warmup == "linear" else "none"
        setting = (
            f"{own.data.pixels}",
            f"{own.data.train_limit or 50_000:,}",
            f"{schedule.batch_size}",
            f"{schedule.iterations:,}",
            "/".join(f"{milestone:,}" for milestone in schedule.milestones),
            f"{own.optim.lr:g}",
            "zero init" if model.zero_init else ramp,
            f"{own.optim.weight_decay:g}",
            "none" if own.optim.clip is None else f"{own.optim.clip:g}",
        )
        error = record.summary["train_error_clean"]
        errors = rows.setdefault(setting, {}).setdefault((model.family, model.depth), [])
        errors.append(math.nan if error is None else error)
    networks = [(family, depth) for family in families for depth in depths]
    head = ["pixels", "images", "batch", "updates", "milestones", "rate", "warm-up", "decay", "clip"]
    head += [f"{family}-{depth}" for family, depth in networks]
    cells = [
        [*setting, *(_percent(found.get(network)) for network in networks)] for setting, found in sorted(rows.items())
    ]
    kept = [k for k in range(len(head)) if len({row[k] for row in cells}) > 1]  # what they all share is said in words
    return aligned([head[k] for k in kept], [[row[k] for k in kept] for row in cells])


def _percent(errors: list[float] | None) -> str:
    """Each run's error; runs of one setting differ by the machine that they were made on."""
    return "/".join("stopped" if math.isnan(error) else f"{100 * error:.1f}" for error in sorted(errors or [])) or "-"


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
    timed = {
        r.contender.depth: r.paper_hours
        for r in report.results
        if r.contender.label == "eager fp32" and r.paper_hours is not None
    }
    depths = sorted(timed)

    def hours(depth: int) -> float:
        return float(np.interp(depth, depths, [timed[d] for d in depths]))

    matrices = {"Figure 1": "figure1", "the story": "story", "Figure 6": "figure6"}
    rows = []
    for name, experiment in matrices.items():
        networks = network_matrix(experiment)
        once = sum(hours(compose(network).model.depth) for network in networks)
        rows.append([name, str(len(networks)), f"{once:,.0f} h", f"{5 * once / 24:,.0f} days"])
    return aligned([report.machine["device"], "networks", "one seed", "five seeds"], rows)


def healing() -> str:
    """How the weights of the paper's plain-56 that the first updates made large shrink, and by weight decay alone."""
    run = REFERENCE / "paper" / "plain-56" / "seed-0"
    paper, growth = compose(["recipe=paper"]), {}
    for row in read(run / "probes" / "kinds.csv"):
        growth[int(row["snapshot"])] = float(row["growth"])
    first = min(iteration for iteration in growth if iteration)
    optim = paper.optim

    def decayed(iteration: int) -> float:
        """What weight decay alone leaves of the first growth."""
        rates = sum(scheduled_rate(at, paper.recipe, base=optim.lr) for at in range(first + 1, iteration + 1))
        return growth[first] * math.exp(-rates * optim.weight_decay / (1 - optim.momentum))

    rows = [[f"{at:,}", f"{own:.2f}", f"{decayed(at):.2f}"] for at, own in growth.items() if at]
    return aligned(["update", "growth", "by decay alone"], rows)


def trained() -> str:
    """The trained networks that come with degrade, with their last errors in percent."""
    rows = [
        [
            name,
            own.recipe,
            f"{own.iterations:,}",
            str(own.seed),
            *map(_share, (own.train_error_clean, own.test_error)),
        ]
        for name, own in library.networks().items()
    ]
    return aligned(["name", "recipe", "updates", "seed", "clean%", "test%"], rows)


def _share(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.2f}"


TABLES: dict[str, Callable[[], str]] = {
    "quick": partial(errors, "quick"),
    "short": partial(errors, "short"),
    "paper": partial(errors, "paper"),
    "compared": compared,
    "healing": healing,
    "remedies": remedied,
    "tried-quick": partial(tried, "quick"),
    "tried-short": partial(tried, "short"),
    "verdict": verdict,
    "networks": trained,
    "cost": partial(cost, "epyc"),
    "bench": partial(bench, "epyc"),
    "bench-bf16": partial(bench, "xeon"),
}


def filled(text: str) -> tuple[str, set[str]]:
    """A page with every marked block made anew, and the marks that it has."""
    found = set(re.findall(r"<!-- ([\w-]+) -->\n```\n", text))
    for name in found:
        head, mark, rest = text.partition(f"<!-- {name} -->\n```\n")
        text = head + mark + TABLES[name]() + "\n```\n" + rest.partition("```\n")[2]
    return text, found


if __name__ == "__main__":
    os.chdir(TOP)
    missing = set(TABLES)
    for page in [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]:
        before = page.read_text()
        after, found = filled(before)
        missing -= found
        if before != after and "--check" in sys.argv:
            raise SystemExit(f"{page}: its tables differ from outputs/reference; run scripts/tables")
        if before != after:
            page.write_text(after)
            print(f"{page}: tables written")
    if missing:
        raise SystemExit(f"no page has a block marked {', '.join(sorted(missing))}")
    print("The tables of README.md and docs/ are those of outputs/reference")
