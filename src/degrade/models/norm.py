"""A convolution, and what stands between it and its nonlinearity."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from degrade.config import ModelConfig
from degrade.config.registry import arguments, chosen
from degrade.errors import ConfigError
from degrade.files import reason

#: Number of channels in a group of group norm.
GROUP = 8


def normalisation(channels: int, config: ModelConfig) -> nn.Module:
    """What normalises a convolution's output of so many `channels`; the identity where `config.norm` is `none`.

    Raises:
        ConfigError: there is none of this name, or it cannot be made.
    """
    found = chosen("model.norm", config.norm, NORMS)
    try:
        norm: nn.Module = found(*(channels, config)[: arguments("model.norm", found)])
    except TypeError as error:
        raise ConfigError(f"model.norm={config.norm}: cannot be made ({reason(error)})") from error
    return norm


def convolution(
    channels_in: int, channels_out: int, size: int, config: ModelConfig, *, bias: bool = False, **more: Any
) -> nn.Conv2d:
    """A convolution that keeps the map's size, but for its stride, as `config.norm` wants it.

    Args:
        channels_in: channels before.
        channels_out: channels after.
        size: side of the kernel, an odd number.
        config: the network's settings, of which norm matters.
        bias: whether it has a bias.
        more: further arguments of `nn.Conv2d`, such as `stride`.
    """
    kind = StandardisedConv2d if config.norm == "weight_standardised" else nn.Conv2d
    return kind(channels_in, channels_out, size, padding=size // 2, bias=bias, **more)


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 as they are used (Qiao et al., arXiv 1903.10520)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in PyTorch
        """Map N x C x H x W to N x C' x H' x W'."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-10)
        return self._conv_forward(input, weight, self.bias)  # type: ignore[no-any-return]


def _batch(channels: int, config: ModelConfig) -> nn.Module:
    norm = nn.BatchNorm2d(channels, eps=config.bn_epsilon, momentum=config.bn_momentum)
    nn.init.constant_(norm.weight, config.bn_scale)
    return norm


#: Makes what `model.norm` names, from the number of channels and the network's settings.
NORMS: dict[str, Callable[[int, ModelConfig], nn.Module]] = {
    "batch": _batch,
    "layer": lambda channels, _: nn.GroupNorm(1, channels),
    **dict.fromkeys(("group", "weight_standardised"), lambda channels, _: nn.GroupNorm(channels // GROUP, channels)),
    "none": lambda *_: nn.Identity(),
}
