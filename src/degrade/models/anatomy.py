"""What can be said of a network without training it."""

from typing import Any

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in a network; batch norm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, side: int = 32) -> int:
    """Multiply-adds of one image's forward pass in convolutions and linear layers; the rest is not counted.

    Args:
        model: any network of 3-channel images; it is not changed.
        side: pixels a side.
    """
    return sum(
        layer.weight.numel() * shape[1:].numel() for layer, shape in _outputs(model, (nn.Conv2d, nn.Linear), side)
    )


def conv_outputs(model: nn.Module, side: int = 32) -> list[torch.Size]:
    """Shapes, C x H x W, of what the convolutions give for one image, in the order of their work."""
    return [shape for _, shape in _outputs(model, (nn.Conv2d,), side)]


def _outputs(model: nn.Module, kinds: tuple[type[nn.Module], ...], side: int) -> list[tuple[Any, torch.Size]]:
    """Layers of some kinds, each with its output's shape for one image, in the order of their work."""
    found: list[tuple[Any, torch.Size]] = []

    def note(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((module, output.shape[1:]))

    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, kinds)]
    training = model.training
    try:
        with torch.inference_mode():
            parameter = next(model.parameters())
            model.eval()(torch.zeros(1, 3, side, side, device=parameter.device, dtype=parameter.dtype))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found
