"""The learning rate as a pure function of the iteration and of whether the network is still warming up.

Iterations are counted from 1, and a milestone is the last update made at the old rate. With the paper's milestones,
updates 1 to 32,000 use 0.1, updates 32,001 to 48,000 use 0.01, and the rest use 0.001.
"""

import math
from collections.abc import Callable, Sequence

from degrade.config import RecipeConfig
from degrade.config.registry import chosen

#: Iterations over which training error is averaged to decide whether warming up has ended.
WARMUP_WINDOW = 50

#: One cycle rises over this share of the updates, from the rate divided by RISE, and ends at that divided by FALL.
RISING, RISE, FALL = 0.3, 25, 1e4


def scheduled_rate(iteration: int, recipe: RecipeConfig, *, base: float, warming: bool = False) -> float:
    """The rate of the update made at `iteration`, counted from 1, by a recipe's schedule.

    Of the recipe, schedule, milestones, iterations and warm-up matter. `base` is `optim.lr`, to which the schedule's
    share belongs.

    Raises:
        ConfigError: there is no such schedule.
    """
    if recipe.schedule == "steps" or warming:
        milestones, shares = recipe.milestones, 1.0
    else:
        length, _ = recipe.ramp
        total = max(1, recipe.iterations - length)
        done = min(max(0, iteration - 1 - length), total - 1)
        milestones, shares = [], float(chosen("recipe.schedule", recipe.schedule, SCHEDULES)(done, total))
    return learning_rate(
        iteration,
        base=shares * base,
        milestones=milestones,
        warming=warming,
        warmup_lr=recipe.warmup_lr,
        ramp=recipe.ramp,
    )


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


def _cosine(done: int, total: int) -> float:
    return (1 + math.cos(math.pi * done / total)) / 2


def _linear(done: int, total: int) -> float:
    return 1 - done / total


def _one_cycle(done: int, total: int) -> float:
    """The policy of Smith and Topin (2018) as PyTorch has it, without a cycle of momentum."""
    top = RISING * total - 1
    if done <= top:
        return _between(1 / RISE, 1.0, done / top if top > 0 else 1.0)
    return _between(1.0, 1 / RISE / FALL, (done - top) / max(1e-9, total - 1 - top))


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


#: What `recipe.schedule` names, but for `steps`: the number of updates made since the warm-up's ramp, from 0, and the
#: number of all of them, to the share of the rate.
SCHEDULES: dict[str, Callable[[int, int], float]] = {"cosine": _cosine, "linear": _linear, "one_cycle": _one_cycle}
