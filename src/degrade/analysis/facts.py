"""What figures and page share without matplotlib: where the axis of error ends, and what is then said of it."""

from collections.abc import Sequence

from degrade.analysis.curves import Curve
from degrade.analysis.reference import follows_paper

#: Where the paper's axis of error ends, in percent (Figures 1 and 6).
PAPER_TOP = 20

PAPER_AXIS = f"axis as in the paper, 0 to {PAPER_TOP} %: the curves begin above it"


def has_paper_axis(curves: Sequence[Curve]) -> bool:
    """Whether the paper's axis shows what matters: all recipes are the paper's, and all curves come down into it."""
    ends = [float(s.mean[-1]) for curve in curves for s in (curve.train, curve.test) if len(s.mean)]
    return all(follows_paper(curve.experiment) for curve in curves) and 100 * max(ends, default=1) < 0.9 * PAPER_TOP
