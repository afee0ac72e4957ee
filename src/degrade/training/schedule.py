"""The learning rate as a pure function of the iteration and of whether the network is still warming up.

Iterations are counted from 1, and a milestone is the last update made at the old rate. With the paper's milestones,
updates 1 to 32,000 use 0.1, updates 32,001 to 48,000 use 0.01, and the rest use 0.001.
"""

from collections.abc import Sequence

#: Iterations over which training error is averaged to decide whether warming up has ended.
WARMUP_WINDOW = 50


def learning_rate(
    iteration: int,
    *,
    base: float,
    milestones: Sequence[int],
    warming: bool = False,
    warmup_lr: float = 0.01,
    ramp: tuple[int, int] = (0, 1),
) -> float:
    """The rate of the update made at `iteration`, counted from 1 (paper, section 4.2).

    Args:
        iteration: the update, counted from 1.
        base: the rate before the first milestone.
        milestones: iterations after which the rate is divided by 10.
        warming: whether the network still warms up; the rate is then `warmup_lr` whatever the iteration.
        warmup_lr: the rate while warming up.
        ramp: the number N of updates over which the rate rises from 0, and the power p of its rise, by the factor
            (iteration / N)^p.
    """
    if warming:
        return warmup_lr
    passed = sum(milestone < iteration for milestone in milestones)
    length, power = ramp
    risen = min(1.0, (iteration / length) ** power) if length else 1.0
    return risen * base / float(10**passed)
