"""The nonlinearity: a function of a tensor, which may work in place."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from degrade.config import ModelConfig
from degrade.config.registry import chosen

#: What `model.activation` names.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "gelu": F.gelu,
    "leaky": partial(F.leaky_relu, negative_slope=0.01, inplace=True),
}


def is_relu(function: object) -> bool:
    """Whether a nonlinearity is the ReLU, in place or not."""
    return getattr(function, "func", function) is F.relu


def activation(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    """The network's nonlinearity."""
    function: Callable[[Tensor], Tensor] = chosen("model.activation", config.activation, ACTIVATIONS)
    return function
