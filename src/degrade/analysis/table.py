"""Tables of errors, from curves and records: text of 80 columns where names allow, markdown, or csv of numbers."""

import csv
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from degrade.analysis.curves import Curve, told_apart
from degrade.analysis.facts import papers
from degrade.config import Experiment
from degrade.config.schema import settings
from degrade.errors import RunError
from degrade.metrics import ERRORS
from degrade.runs.record import Run

if TYPE_CHECKING:
    from degrade.models.anatomy import Layer, Stack

_WIDTH = 80

#: Columns of a table of errors in percent, and their names where there is room; `batch%` is shown if any run has it.
ERROR_HEAD = {
    "network": "network",
    "seeds": "finished seeds",
    "running%": "training, running",
    "clean%": "training, clean",
    "batch%": "training, batch-statistics",
    "test%": "test",
    "paper": "paper: training (like running)/test",
}
#: Columns of a table of runs; those of errors have the same names.
RUN_HEAD = ("run", "status", "iters", "running%", "clean%", "test%", "time")

PAPER_NOTE = (
    "paper: its training and test error at the end of its recipe; the former looks like a running one, so it is to "
    "be set beside running%"
)


def error_table(curves: Sequence[Curve], *, form: str = "text", width: int | None = _WIDTH) -> str:
    """Final errors of each network, mean ± standard deviation over its finished seeds, beside the paper's.

    Errors are in percent; in `csv` they are fractions, and there are more columns: the experiment, and the settings
    that are not the same in all networks.

    Args:
        curves: the networks.
        form: `text`, `csv` or `markdown`.
        width: the most characters in a line of text, in which experiments and differing settings have lines of their
            own; None for as many as it takes, with one line per network.
    """
    if form == "csv":
        differing = differing_settings([curve.experiment for curve in curves])
        return as_csv([_error_fields(curve) | own for curve, own in zip(curves, differing, strict=True)])
    rows = [error_cells(curve) for curve in curves]
    kept = [key for key in ERROR_HEAD if key != "batch%" or any(row[key] != "-" for row in rows)]
    cells = [[row[key] for key in kept] for row in rows]
    written = table(kept, cells, form, width=None)
    if form == "text" and width is not None and max(map(len, written.splitlines())) > width:
        written = _by_experiment(curves, kept, cells, width)
    blocks = [written]
    if any(row["paper"] != "-" for row in rows):
        blocks.append(textwrap.fill(PAPER_NOTE, _WIDTH))
    if remarks := [f"{curve.label}: {curve.remark}" for curve in curves if curve.remark]:
        blocks.append("\n".join(remarks))
    return "\n\n".join(blocks)


def _by_experiment(curves: Sequence[Curve], head: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """The table with shorter names: a line for each experiment, and what sets a network apart below its errors."""
    lines: list[str] = []
    short = [[_short_name(curve), *row[1:]] for curve, row in zip(curves, cells, strict=True)]
    written, *rows = table(head, short, "text", width=width).splitlines()
    for folder, name in told_apart(dict.fromkeys(curve.folder for curve in curves)).items():
        own = [k for k, curve in enumerate(curves) if curve.folder == folder]
        lines += [f"{name}:"] if name else []
        apart = _apart([curves[k] for k in own])
        for k, told in zip(own, apart, strict=True):
            indent = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}
            lines += [rows[k], *textwrap.wrap(told, width, **indent)]  # type: ignore[arg-type]
    return "\n".join([written, *lines])


def _short_name(curve: Curve) -> str:
    """Family and depth, and that a network was built."""
    return curve.label.split(", ")[0] + (" (synthetic)" if curve.synthetic else "")


def _apart(curves: Sequence[Curve]) -> list[str]:
    """For each network of an experiment what tells it from those of the same name; empty for the only one.

    Of a built network it is what it was built from.
    """
    names = [_short_name(curve) for curve in curves]
    differing = differing_settings([curve.experiment for curve in curves])
    told = []
    for name, curve, own in zip(names, curves, differing, strict=True):
        settings = ", ".join(f"{key}={own[key]}" for key in own if key not in ("model.family", "model.depth"))
        if curve.built:
            told.append(f"model.start={curve.experiment.model.start}")
        elif names.count(name) == 1:
            told.append("")
        else:
            told.append(settings if "~" in curve.extra else curve.extra)
    return told


def error_cells(curve: Curve) -> dict[str, str]:
    """The cells of `ERROR_HEAD`: seeds, last errors in percent (training by its three kinds, test), the paper's."""
    finished, total = len(curve.final["test_error"]), len(curve.seeds)
    both = [papers(curve, which) for which in ("train", "test")]
    columns = ("running%", "clean%", "batch%", "test%")
    return {
        "network": curve.label + (" (synthetic)" if curve.synthetic else ""),
        "seeds": str(total) if finished == total else f"{finished}/{total}",
        **{column: spread(curve.final[key]) for column, key in zip(columns, ERRORS, strict=True)},
        "paper": "/".join(map(_percent, both)) if any(both) else "-",
    }


def _error_fields(curve: Curve) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "network": curve.label,
        "experiment": curve.folder.name,
        "family": curve.family,
        "depth": curve.depth,
        "recipe": curve.experiment.recipe.name,
        "synthetic": curve.synthetic,
        "seeds": len(curve.seeds),
        "finished": len(curve.final["test_error"]),
    }
    for name, errors in curve.final.items():
        fields[f"{name}_mean"] = float(np.mean(errors)) if errors else None
        fields[f"{name}_std"] = float(np.std(errors, ddof=1)) if len(errors) > 1 else None
    ours, theirs = fields["test_error_mean"], papers(curve, "test")
    fields |= {"paper_train_error": papers(curve, "train"), "paper_test_error": theirs}
    return fields | {"test_error_difference": None if ours is None or theirs is None else ours - theirs}


def runs_table(
    records: Sequence[Run],
    *,
    below: Path,
    form: str = "text",
    statuses: Sequence[str] | None = None,
    width: int | None = _WIDTH,
) -> str:
    """One line for each run: where it is below a folder, what became of it, how far it came, its last errors.

    Args:
        records: the runs.
        below: the folder.
        form: `text`, `csv` or `markdown`.
        statuses: what became of each run, where the caller knows it better than the records.
        width: the most characters in a line of text; None for as many as it takes.
    """
    fields = [run_fields(record, below) for record in records]
    if statuses is not None:
        fields = [own | {"status": status} for own, status in zip(fields, statuses, strict=True)]
    if form == "csv":
        known = {place: own for place, record in enumerate(records) if (own := _experiment(record)) is not None}
        for place, more in zip(known, differing_settings(list(known.values())), strict=True):
            fields[place] |= {"experiment": known[place].name, "seed": known[place].seed, **more}
        return as_csv(fields)
    return table(RUN_HEAD, [run_cells(own) for own in fields], form, width=width)


def differing_settings(experiments: Sequence[Experiment], *, every: bool = False) -> list[dict[str, Any]]:
    """For each experiment, by key, the settings that are not the same in all of them, the seed apart.

    They are those that change the result, or `every` one.
    """
    flat = [own.flat() for own in experiments]
    keys = [
        key
        for key, about in settings().items()
        if key != "seed"
        and (every or any(about.changes_result(own) for own in experiments))
        and len({str(own.get(key)) for own in flat}) > 1
    ]
    return [{key: "/".join(map(str, v)) if isinstance(v := own[key], list) else v for key in keys} for own in flat]


def _experiment(record: Run) -> Experiment | None:
    """What was trained; None where the record cannot tell."""
    try:
        return record.experiment
    except RunError:
        return None


def run_fields(record: Run, below: Path) -> dict[str, Any]:
    """Where a run is below a folder, what became of it, how far it came; errors are fractions."""
    summary = record.summary
    keys = ("iteration", "iterations", "train_error", "train_error_clean", "test_error", "seconds", "synthetic")
    path = os.path.relpath(record.path, below)
    return {"run": path, "status": record.status_of(summary)} | {key: summary.get(key) for key in keys}


def run_cells(fields: Mapping[str, Any]) -> list[str]:
    """The cells of `RUN_HEAD`, for readers."""
    return [
        fields["run"] + (" (synthetic)" if fields["synthetic"] else ""),
        fields["status"],
        _progress(fields["iteration"], fields["iterations"]),
        *(_percent(fields[key]) for key in ("train_error", "train_error_clean", "test_error")),
        _duration(fields["seconds"]),
    ]


def layers_table(layers: "Sequence[Layer]", form: str = "text") -> str:
    """The layers of a network, and their sums."""
    shapes = ["x".join(map(str, layer.shape)) for layer in layers]
    if form == "csv":
        return as_csv([{**vars(layer), "shape": shape} for layer, shape in zip(layers, shapes, strict=True)])
    rows = [
        [own.name, own.kind, shape, f"{own.parameters:,}", f"{own.multiply_adds:,}", _sees(own.field)]
        for own, shape in zip(layers, shapes, strict=True)
    ]
    head = ["layer", "kind", "output", "parameters", "multiply-adds", "sees"]
    return table(head, [*rows, ["total", "", "", *(f"{total:,}" for total in _totals(layers)), ""]], form)


def _sees(field: int | None) -> str:
    return "all" if field is None else str(field or "-")


def layers_note(name: str, layers: "Sequence[Layer]") -> str:
    """What stands below the table of a network's layers."""
    parameters, cost = _totals(layers)
    return (
        f"\n{name}: {parameters:,} parameters, {cost / 1e6:,.1f} million multiply-adds per image\n"
        "sees: receptive field, pixels a side; parameters: batch norm's included"
    )


def _totals(layers: "Sequence[Layer]") -> tuple[int, int]:
    """Parameters and multiply-adds of all layers."""
    return sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers)


def stacks_table(stacks: "Sequence[Stack]", channels: int, form: str = "text") -> str:
    """Stacks of convolutions with `channels` channels, and the large ones that see as much."""
    if form == "csv":
        return as_csv([{**vars(stack), "kernels": stack.name, "channels": channels} for stack in stacks])
    rows = [
        [
            stack.name,
            f"{stack.field}x{stack.field}",
            f"{stack.parameters:,}",
            f"{stack.parameters // channels**2} C²",
            f"{stack.multiply_adds:,}",
            str(stack.nonlinearities),
        ]
        for stack in stacks
    ]
    return table(["convolutions", "sees", "parameters", "", "multiply-adds", "ReLUs"], rows, form)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], form: str, *, width: int | None = _WIDTH) -> str:
    """Cells as `markdown`, or as `text`.

    In text the names in the first column are cut so that a line has `width` characters, or as many more as it takes
    to tell the names apart.
    """
    if form == "markdown":
        rule = [":--", *["--:"] * (len(head) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rows])
    names = [row[0] for row in rows]
    if width is not None:
        others = sum(2 + max(len(line[k]) for line in [head, *rows]) for k in range(1, len(head)))
        names = _fitted(names, max(20, width - others))
    return aligned(head, [[name, *row[1:]] for name, row in zip(names, rows, strict=True)])


def _fitted(texts: Sequence[str], width: int) -> list[str]:
    """Texts, with the middle left out of those longer than `width`, or than it takes to tell them apart."""
    for room in range(width, max(map(len, texts), default=0)):
        for part in (2 / 3, 1 / 2, 1 / 3, 1 / 4):  # the share that is taken from the end, which tells seeds apart
            tail = int((room - 1) * part)
            short = [text if len(text) <= room else f"{text[: room - 1 - tail]}…{text[-tail:]}" for text in texts]
            if len(set(short)) == len(set(texts)):
                return short
    return list(texts)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under their keys; numbers to ten digits, empty where there is none."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue().rstrip("\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else value


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first flush left, the others flush right."""
    first, *others = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    line = "  ".join([f"{{:<{first}}}", *(f"{{:>{width}}}" for width in others)])
    return "\n".join(line.format(*cells).rstrip() for cells in [head, *rows])


def _progress(iteration: int | None, planned: int | None) -> str:
    if iteration is None or planned is None:
        return "-"
    if iteration == planned:
        return f"{planned:,}"
    return f"{iteration:,}/{planned // 1000}k" if planned % 1000 == 0 else f"{iteration:,}/{planned:,}"


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.2f}"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of errors in percent; the mean alone where there is one."""
    if not values:
        return "-"
    mean = _percent(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean}±{100 * float(np.std(values, ddof=1)):.2f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
