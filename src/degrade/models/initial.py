"""Initial weights of convolutions and linear layers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from degrade.config import ModelConfig
from degrade.config.registry import chosen
from degrade.errors import ConfigError
from degrade.files import reason


def initialise(model: nn.Module, config: ModelConfig, generator: torch.Generator | None) -> None:
    """Draw all weights as `config.init` says, in place; biases are 0.

    Weights that plain and residual networks share are drawn first, so both start from identical ones.

    Raises:
        ConfigError: it takes other arguments than a weight and `generator`.
    """
    draw = chosen("model.init", config.init, INITS)
    shared = [m for name, m in model.named_modules() if "shortcut" not in name]
    projections = [m for name, m in model.named_modules() if "shortcut" in name]
    for module in shared + projections:
        if isinstance(module, nn.Conv2d | nn.Linear):
            try:
                with torch.no_grad():
                    draw(module.weight, generator=generator)
            except TypeError as error:
                raise ConfigError(f"model.init={config.init}: cannot be called ({reason(error)})") from error
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _dirac(weight: Tensor, generator: torch.Generator | None) -> None:
    if weight.dim() == 4 and weight.shape[0] == weight.shape[1]:
        nn.init.dirac_(weight)
    else:
        INITS["he"](weight, generator=generator)


#: Fills a weight in place, as `model.init` names it: linear weights are out x in, a convolution's out x in x k x k.
INITS: dict[str, Callable[..., Any]] = {
    "he": partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"),
    "he_fan_out": partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "orthogonal": partial(nn.init.orthogonal_, gain=math.sqrt(2)),
    "gaussian": partial(nn.init.normal_, std=0.01),
    "dirac": _dirac,
}
