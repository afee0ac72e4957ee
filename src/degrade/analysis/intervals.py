"""Intervals for means, and for sums and differences of errors. Errors are fractions throughout.

scipy is imported inside: listing runs should not wait for it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95

Array = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and where it lies with a confidence of 95 %."""

    estimate: float
    low: float
    high: float


class Sample(NamedTuple):
    """Errors of one network.

    Attributes:
        sign: +1 or -1, how it enters a contrast.
        errors: last error of each seed.
        images: how many images each error was measured on; None if that is not known.
    """

    sign: int
    errors: Sequence[float]
    images: int | None = None


def student_factor(freedom: npt.ArrayLike) -> Array:
    """Half the width of a 95 % t interval in standard errors, by degrees of freedom."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, (1 + CONFIDENCE) / 2), dtype=np.float64)


def estimate(samples: Sequence[Sample]) -> float:
    """The contrast: the signed sum of the networks' mean errors."""
    return float(sum(sample.sign * np.mean(sample.errors) for sample in samples))


def welch_interval(samples: Sequence[Sample]) -> Interval:
    """Interval of a contrast over seeds, without supposing that the networks scatter alike.

    Welch's t interval for two samples; for more, its generalisation by Satterthwaite's degrees of freedom.

    Args:
        samples: of two or more seeds each.
    """
    parts = [(float(np.var(s.errors, ddof=1)) / len(s.errors), len(s.errors) - 1) for s in samples]
    variance, middle = sum(v for v, _ in parts), estimate(samples)
    if variance == 0:
        return Interval(middle, middle, middle)
    freedom = variance**2 / sum(v**2 / f for v, f in parts)
    half = float(student_factor(freedom)) * math.sqrt(variance)
    return Interval(middle, middle - half, middle + half)


def sampling_interval(samples: Sequence[Sample]) -> Interval | None:
    """Interval of a contrast from the number of images alone; it holds nothing of the chance in training.

    Wilson's score interval of each error, joined as Newcombe (1998) does for a difference of two proportions and
    MOVER for longer sums. Seeds of one network are averaged but not counted as more images: they share them.

    Returns:
        None where a number of images is not known.
    """
    middle, below, above = estimate(samples), 0.0, 0.0
    for sample in samples:
        if sample.images is None:
            return None
        error = float(np.mean(sample.errors))
        low, high = wilson(error, sample.images)
        down, up = error - low, high - error
        if sample.sign < 0:
            down, up = up, down
        below, above = below + down**2, above + up**2
    return Interval(middle, middle - math.sqrt(below), middle + math.sqrt(above))


def wilson(error: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of an error measured on so many images."""
    z = float(student_factor(math.inf))
    centre = (error + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(error * (1 - error) / images + (z / (2 * images)) ** 2)
    return min(error, centre - half), max(error, centre + half)
