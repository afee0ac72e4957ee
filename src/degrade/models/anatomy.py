"""What can be said of a network without training it."""

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
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weights = module.weight.numel() if isinstance(module.weight, Tensor) else 0
        places = output.shape[2:].numel() if output.dim() == 4 else 1
        total += weights * places

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = model.training
    try:
        with torch.inference_mode():
            parameter = next(model.parameters())
            model.eval()(torch.zeros(1, 3, side, side, device=parameter.device, dtype=parameter.dtype))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total
