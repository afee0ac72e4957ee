"""The nonlinearity: a function of a tensor, or a module, which may work in place."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from degrade.config import ModelConfig
from degrade.config.registry import arguments, chosen
from degrade.errors import ConfigError
from degrade.files import reason

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
    """The nonlinearity of one layer: a class, such as `torch.nn.PReLU`, is made anew for each.

    Raises:
        ConfigError: there is none of this name, or the class cannot be made.
    """
    found = chosen("model.activation", config.activation, ACTIVATIONS)
    if arguments("model.activation", found) == 0:
        try:
            found = found()
        except TypeError as error:
            raise ConfigError(f"model.activation={config.activation}: cannot be made ({reason(error)})") from error
    function: Callable[[Tensor], Tensor] = found
    return function
