"""What stands between a convolution and its ReLU."""

from torch import nn

from degrade.config import ModelConfig


def normalisation(channels: int, config: ModelConfig) -> nn.Module:
    """Batch norm over `channels`, or the identity where `config.norm` is `none`."""
    if config.norm == "none":
        return nn.Identity()
    norm = nn.BatchNorm2d(channels, eps=config.bn_epsilon, momentum=config.bn_momentum)
    nn.init.constant_(norm.weight, config.bn_scale)
    return norm
