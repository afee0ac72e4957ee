"""Whether an engine computes what an eager one does, apart from rounding: a few updates and an evaluation of each.

Early in training rounding alone may turn an update of a deep plain network by a third, so what rounding does is
measured, by a second eager engine whose images lie in memory in another way.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degrade.config import Experiment
from degrade.data import Batches
from degrade.files import reason
from degrade.training.engine import Engine
from degrade.training.graph import new_engine

#: Each engine makes so many updates: the first of a graph, those that it replays. Another one follows, of the epoch's
#: last batch, which may be smaller and is recorded by itself.
UPDATES = 3

#: An engine may be so many times as far from the eager one as rounding moves that.
TIMES = 10

#: Relative distances below these count as rounding anyway, since a single number may be near by luck.
ANYWAY = {
    "fp32": {"loss": 1e-3, "first update": 0.02, "later loss": 0.05},
    "bf16": {"loss": 0.02, "first update": 0.2, "later loss": 0.1},
}


class Trial(NamedTuple):
    """What an engine makes of the next batches."""

    loss: Tensor
    """Of the first batch, scalar."""
    update: Tensor
    """All weights after the first update less those before it, a vector."""
    later: Tensor
    """Losses of the other batches, and of an evaluated one."""


def disagreement(
    engine: Engine,
    experiment: Experiment,
    state: dict[str, Any],
    *,
    batches: Batches,
    iteration: int,
    lr: float,
    test: Sequence[Tensor],
) -> str | None:
    """Why an engine is not to be trusted; None if it computes what eager ones do. Its state is another afterwards.

    It and the eager engines begin with `state`, which is left as it is; `iteration` is the last one that was made.
    `test` holds images, uint8 N x 3 x H x W, and labels, int64 N, on the device.
    """

    def of(tried: Engine) -> Trial:
        return _trial(tried, copy.deepcopy(state), batches, iteration, lr, test)

    def eager(memory_format: str) -> Trial:
        own = replace(experiment, runtime=replace(experiment.runtime, memory_format=memory_format))
        return of(new_engine(own, device=engine.device, precision=engine.precision, name="eager"))

    mine = experiment.runtime.memory_format
    expected, rounded = eager(mine), eager("channels_last" if mine == "contiguous" else "contiguous")
    try:
        found = of(engine)
    except Exception as error:  # whatever recording or compiling raises, training can go on without it
        return f"{type(error).__name__}: {reason(error)}"
    for what, own, other, noisy in zip(ANYWAY[engine.precision], found, expected, rounded, strict=True):
        distance, noise = _distance(own, other), _distance(noisy, other)
        if math.isnan(noise):  # eager training diverges here, and nothing can be compared
            break
        if not distance <= TIMES * noise + ANYWAY[engine.precision][what]:  # NaN is no agreement
            return f"its {what} differs from the eager one by {distance:.2g}, relatively, rounding's by {noise:.2g}"
    return None


def _trial(
    engine: Engine, state: dict[str, Any], batches: Batches, iteration: int, lr: float, test: Sequence[Tensor]
) -> Trial:
    engine.load_state_dict(state)
    before, sums = _weights(engine), [float(engine.loss_sum)]
    for k in (*range(1, UPDATES + 1), -iteration % batches.per_epoch or batches.per_epoch):
        engine.train(batches, iteration + k, lr)
        sums.append(float(engine.loss_sum))
        if len(sums) == 2:
            update = _weights(engine) - before
    images, labels = (both[: engine.evaluation_size] for both in test)
    evaluated = float(engine.evaluate(images, labels, batches.mean).loss)
    first, *later = torch.tensor(sums).diff()
    return Trial(first, update, torch.tensor([*later, evaluated]))


def _weights(engine: Engine) -> Tensor:
    return torch.cat([weight.detach().flatten().float() for weight in engine.model.parameters()])


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
