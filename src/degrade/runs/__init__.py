"""Runs on disk: a record's directory, and the training of an experiment into it."""

from typing import TYPE_CHECKING, Any

from degrade.runs.checked import Status
from degrade.runs.record import Run, RunRecord, Session, find_records, run_directory

if TYPE_CHECKING:
    from degrade.runs.many import run_matrix
    from degrade.runs.train import run

__all__ = ["Run", "RunRecord", "Session", "Status", "find_records", "run", "run_directory", "run_matrix"]


def __getattr__(name: str) -> Any:
    # Records are read without torch (plot, runs); only training needs it, and it takes seconds to import.
    if name == "run":
        from degrade.runs.train import run

        return run
    if name == "run_matrix":
        from degrade.runs.many import run_matrix

        return run_matrix
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
