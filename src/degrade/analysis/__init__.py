"""Everything a person looks at, drawn from run records alone. No torch."""

from degrade.analysis.curves import Curve, error_curves
from degrade.analysis.figures import draw, draw_figure1, draw_figure6
from degrade.analysis.reference import departures, paper_error
from degrade.analysis.table import error_table, runs_table

__all__ = [
    "Curve",
    "departures",
    "draw",
    "draw_figure1",
    "draw_figure6",
    "error_curves",
    "error_table",
    "paper_error",
    "runs_table",
]
