"""Everything that a person looks at, made from run records alone. This package does not import torch."""

from typing import TYPE_CHECKING, Any

from degrade.analysis.curves import Curve, error_curves
from degrade.analysis.export import frame
from degrade.analysis.reference import paper_error
from degrade.analysis.table import error_table, runs_table
from degrade.analysis.text import verdict_json, verdict_text
from degrade.analysis.verdict import Claim, Verdict, verdict, verdicts
from degrade.config.identity import departures

if TYPE_CHECKING:
    from degrade.analysis.figures import draw, draw_figure1, draw_figure6

__all__ = [
    "Claim",
    "Curve",
    "Verdict",
    "departures",
    "draw",
    "draw_figure1",
    "draw_figure6",
    "error_curves",
    "error_table",
    "frame",
    "paper_error",
    "runs_table",
    "verdict",
    "verdict_json",
    "verdict_text",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    # Tables and verdicts do without matplotlib, which takes half a second to import.
    if name in ("draw", "draw_figure1", "draw_figure6"):
        from degrade.analysis import figures

        return getattr(figures, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
