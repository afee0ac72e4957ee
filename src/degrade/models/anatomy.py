"""What can be said of a network without training it."""

from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in a network; batch norm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())
