"""Intervals over seeds, of means and of sums and differences of means. Errors are fractions throughout.

scipy is imported where it is needed, so that listing runs doesn't wait for it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate, and the range in which the truth lies with some confidence."""

    estimate: float
    low: float
    high: float


class Sample(NamedTuple):
    """The last error of each seed of one network, which enters a contrast with the sign +1 or -1."""

    sign: int
    errors: Sequence[float]


def student_factor(freedom: npt.ArrayLike, confidence: float = CONFIDENCE) -> npt.NDArray[np.float64]:
    """Half the width of a t interval in standard errors, by degrees of freedom."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, (1 + confidence) / 2), dtype=np.float64)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of some values and the interval in which that of all such values lies, whatever their distribution.

    It reaches from one of the ordered values to another; with fewer than six values, over all of them.
    """
    from scipy.special import bdtr

    ordered, count = sorted(values), len(values)
    # The median of all lies below the k-th value, counted from 0, with the probability that k coins of `count` show
    # heads at most.
    inside = [k for k in range(count // 2) if 2 * bdtr(k, count, 0.5) <= 1 - confidence]
    k = inside[-1] if inside else 0
    return Interval(float(np.median(ordered)), ordered[k], ordered[-1 - k])


def contrast(samples: Sequence[Sample]) -> float:
    """The signed sum of the networks' mean errors."""
    return float(sum(sample.sign * np.mean(sample.errors) for sample in samples))


def welch_interval(samples: Sequence[Sample], confidence: float = CONFIDENCE) -> Interval | None:
    """Interval of a contrast over seeds, which doesn't suppose that the networks scatter alike.

    Of two samples it is Welch's t interval; of more, its generalisation by Satterthwaite's degrees of freedom.

    Returns:
        None if a network has one seed: its scatter is then unknown.
    """
    if min(len(sample.errors) for sample in samples) < 2:
        return None
    parts = [(float(np.var(s.errors, ddof=1)) / len(s.errors), len(s.errors) - 1) for s in samples]
    variance, middle = sum(v for v, _ in parts), contrast(samples)
    if variance == 0:
        return Interval(middle, middle, middle)
    freedom = variance**2 / sum(v**2 / f for v, f in parts)
    half = float(student_factor(freedom, confidence)) * math.sqrt(variance)
    return Interval(middle, middle - half, middle + half)
