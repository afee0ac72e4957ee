"""Tables of errors, from curves and records, as text."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from degrade.analysis.curves import Curve
from degrade.analysis.reference import paper_error
from degrade.runs.record import RunRecord


def error_table(curves: Sequence[Curve]) -> str:
    """Final errors of each network beside the paper's: this run, the paper, difference, in percent."""
    head = ["network", "seeds", "train %", "clean %", "test %", "paper train", "paper test", "diff"]
    rows = []
    for curve in curves:
        test = curve.final_test
        paper_train, paper = (
            None if curve.synthetic else paper_error(curve.family, curve.depth, which) for which in ("train", "test")
        )
        difference = 100 * (float(np.mean(test)) - paper) if test and paper is not None else None
        rows.append(
            [
                curve.label
                + (" (synthetic)" if curve.synthetic else "")
                + (f" [{curve.remark}]" if curve.remark else ""),
                str(len(curve.seeds)),
                _spread(curve.final_train),
                _spread(curve.clean_train),
                _spread(test),
                _percent(paper_train),
                _percent(paper),
                "-" if difference is None else f"{difference:+.1f}",
            ]
        )
    return aligned(head, rows)


def runs_table(records: Sequence[RunRecord], *, below: Path) -> str:
    """One line a run: where it is below a folder, what became of it, how far it came, its last errors."""
    head = ["run", "status", "iters", "train %", "clean %", "test %", "time"]
    rows = []
    for record in records:
        summary = record.summary
        rows.append(
            [
                os.path.relpath(record.path, below) + (" (synthetic)" if summary.get("synthetic") else ""),
                record.status,
                _progress(summary.get("iteration"), summary.get("iterations")),
                _percent(summary.get("train_error")),
                _percent(summary.get("train_error_clean")),
                _percent(summary.get("test_error")),
                _duration(summary.get("seconds")),
            ]
        )
    return aligned(head, rows)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first flush left, the others flush right."""
    widths = [max(len(line[k]) for line in [head, *rows]) for k in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    return "\n".join([line(head), *map(line, rows)])


def _progress(iteration: Any, planned: Any) -> str:
    if not isinstance(iteration, int) or not isinstance(planned, int):
        return "-"
    return f"{planned:,}" if iteration == planned else f"{iteration:,}/{planned:,}"


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if isinstance(value, int | float) else "-"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = _percent(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean}±{100 * float(np.std(values, ddof=1)):.2f}"


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "-"
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
