"""Families of networks by name, and what a network of any family must have.

It is a module that maps float N x 3 x S x S, mean already subtracted, to logits, N x classes. Its `convolutions()`
yields, in the order of their work, each convolution's module path, the convolution, and the module whose output is
its response: its norm, or the convolution itself where no norm follows it. It may have `recompute`, a flag to compute
activations again in the backward pass, `depths`, the `range` of its depths, and `shortcuts`, whether signals can go
around its layers, which the verdict sets against networks where they cannot.
"""

from typing import Any

import torch
from torch import nn

from degrade.config import ModelConfig
from degrade.config.registry import chosen
from degrade.errors import ConfigError
from degrade.models.cifar import CifarNet
from degrade.models.initial import initialise
from degrade.models.preact import PreactNet
from degrade.models.vgg import VggNet

#: Makes the network that `model.family` names from its settings.
FAMILIES: dict[str, type[nn.Module]] = {
    **dict.fromkeys(("plain", "residual"), CifarNet),
    "vgg": VggNet,
    **dict.fromkeys(("preact", "bottleneck", "wide"), PreactNet),
}


def build_model(config: ModelConfig, *, generator: torch.Generator | None = None) -> Any:
    """Build a network on the CPU with freshly drawn weights.

    Args:
        config: the network's settings.
        generator: source of the weights; None uses PyTorch's global one. Weights that plain and residual networks
            share are drawn first, so both start from identical ones.

    Raises:
        ConfigError: nothing of this family's name is there, or it is no network of the kind described above.
    """
    model = chosen("model.family", config.family, FAMILIES)(config)
    if not isinstance(model, nn.Module) or not callable(getattr(model, "convolutions", None)):
        raise ConfigError(f"model.family={config.family}: it is no nn.Module with a method convolutions()")
    initialise(model, config, generator)
    return model
