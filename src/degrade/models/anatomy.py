"""What can be said of a network without training it: its layers, their sizes and costs, and how far each one sees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from degrade.config import ModelConfig
from degrade.models.family import build_model


@dataclass(frozen=True)
class Layer:
    """A convolution, pooling or linear layer, with the batch norm that follows it; or a parameter outside these."""

    name: str
    kind: str
    """The kind of layer in words, such as `3x3 conv /2`; `parameter` where it is one that no layer holds."""
    weighted: bool
    """Whether it has weights, and so counts as depth; poolings have none."""
    shape: tuple[int, ...]
    """Shape of its output for one image: C x H x W, or C; a parameter's own shape."""
    parameters: int
    """Number of weights and biases, batch norm's scale and shift included."""
    multiply_adds: int
    """Multiply-adds for one image; batch norm's are not counted."""
    field: int | None
    """Side, in pixels, of the square that an output value depends on in a large enough image; None: all of it. A
    parameter sees nothing, which is 0."""


_LAYERS = (nn.Conv2d, nn.Linear, nn.MaxPool2d)


def layers_of(config: ModelConfig, side: int = 32) -> list[Layer]:
    """The layers of the network that a config describes, for images of a side; a thousand of them take no memory."""
    with torch.device("meta"):
        return layers(build_model(config), side)


def layers(model: nn.Module, side: int = 32, channels: int = 3) -> list[Layer]:
    """The layers of a network in the order of their work, projections in shortcuts among them.

    They are found in one forward pass of a `channels` x `side` x `side` image, which leaves the network as it is; on
    the meta device nothing is computed. Parameters that no layer of that pass holds, such as a block's own scale,
    follow as rows of their own, so that the rows add up to the network.
    """
    names = {module: name for name, module in model.named_modules()}
    found: list[Layer] = []
    counted: set[nn.Parameter] = set()  # a layer that is passed twice has its parameters once

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        own = set(module.parameters()) - counted
        counted.update(own)
        count = sum(parameter.numel() for parameter in own)
        if not isinstance(module, _LAYERS) and found:  # a norm, of whatever kind, belongs to the layer before it
            found[-1] = replace(found[-1], parameters=found[-1].parameters + count)
            return
        shape = tuple(output.shape[1:])
        weighted = count_parameters(module) > 0
        found.append(Layer(names[module], _kind(module), weighted, shape, count, 0, fields.of(output)))

    leaves = [module for module in model.modules() if not list(module.children())]
    noted = [own for own in leaves if isinstance(own, _LAYERS) or count_parameters(own)]
    hooks = [module.register_forward_hook(note) for module in noted]
    training = model.training
    parameter = next(model.parameters())
    image = torch.zeros(1, channels, side, side, device=parameter.device, dtype=parameter.dtype)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter, _Fields(image) as fields:
            model.eval()(image)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    # PyTorch counts a multiply-add as two operations, and puts the network's name before each module's.
    counts = {name.partition(".")[2]: sum(own.values()) // 2 for name, own in counter.get_flop_counts().items()}
    others = [(name, own) for name, own in model.named_parameters() if own not in counted]
    found += [Layer(name, "parameter", False, tuple(own.shape), own.numel(), 0, 0) for name, own in others]
    return [replace(layer, multiply_adds=counts.pop(layer.name, 0)) for layer in found]


def count_parameters(model: nn.Module) -> int:
    """Number of a network's parameters; batch norm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module) -> int:
    """Multiply-adds of a 32 x 32 image's forward pass in convolutions and linear layers; the rest is not counted."""
    return sum(layer.multiply_adds for layer in layers(model, 32))


@dataclass(frozen=True)
class Stack:
    """Convolutions with as many channels in as out, each followed by a ReLU; together they see `field` pixels a side.

    Multiply-adds are those on a 32x32 map, and nonlinearities are the ReLUs.
    """

    field: int
    kernels: tuple[int, ...]
    parameters: int
    multiply_adds: int
    nonlinearities: int

    @property
    def name(self) -> str:
        """The stack in words, such as `3 of 3x3`."""
        size = f"{self.kernels[0]}x{self.kernels[0]}"
        return size if len(self.kernels) == 1 else f"{len(self.kernels)} of {size}"


def stacks(size: int, channels: int) -> tuple[Stack, Stack]:
    """A stack of 3x3 convolutions, and the one large convolution that sees as much (VGG paper, section 2.3).

    The large one's `size` is odd, 3 or more; all have the same number of channels in and out.
    """
    small, large = ([3] * ((size - 1) // 2), [size])
    return _stack(small, channels), _stack(large, channels)


def _stack(kernels: list[int], channels: int) -> Stack:
    with torch.device("meta"):
        modules = [(nn.Conv2d(channels, channels, k, padding=k // 2, bias=False), nn.ReLU()) for k in kernels]
    rows = layers(nn.Sequential(*(module for pair in modules for module in pair)), channels=channels)
    parameters, cost = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    return Stack(rows[-1].field or 0, tuple(kernels), parameters, cost, len(modules))


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d):
        return type(module).__name__
    size, step = _single(module.kernel_size), _single(module.stride)
    name = "conv" if isinstance(module, nn.Conv2d) else "max pool"
    return f"{size}x{size} {name}" + (f" /{step}" if step > 1 else "")


class _Fields(TorchFunctionMode):
    """Follows through a forward pass how far tensors see: the side and the step of their values' fields, in pixels.

    A convolution or pooling of size k widens the field by k - 1 steps, and its stride lengthens the step; so does a
    strided slice. A sum sees as much as the widest of its terms. A mean over the map sees the whole image, as does a
    matrix product.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        # Tensors are kept, since another could get the id of one that is gone.
        self._seen: dict[int, tuple[Tensor, int | None, int]] = {id(image): (image, 1, 1)}

    def of(self, tensor: Tensor) -> int | None:
        """The receptive field of a tensor's values; None for the whole image."""
        return self._seen[id(tensor)][1] if id(tensor) in self._seen else None

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Compute, and note how far the result sees."""
        result = function(*args, **(kwargs or {}))
        # In place means that the same tensor comes back, and what it saw before counts as well.
        given = [
            x for own in (*args, *(kwargs or {}).values()) for x in (own if isinstance(own, list | tuple) else [own])
        ]
        sources = [self._seen[id(x)][1:] for x in given if id(x) in self._seen]
        if isinstance(result, Tensor) and sources:
            whole = any(field is None for field, _ in sources) or function in _OVER_ALL
            field = None if whole else max(field for field, _ in sources if field is not None)
            step = max(step for _, step in sources)
            self._seen[id(result)] = (result, *_widened(function, args, kwargs or {}, field, step))
        return result


_OVER_ALL = (Tensor.mean, torch.mean, F.linear, F.adaptive_avg_pool2d, F.adaptive_max_pool2d)


def _widened(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], field: int | None, step: int
) -> tuple[int | None, int]:
    if function is torch.conv2d:  # input, weight, bias, stride, padding, dilation
        stride, dilation = (
            _argument(args, kwargs, place, name, 1) for place, name in ((3, "stride"), (5, "dilation"))
        )
        size = 1 + dilation * (args[1].shape[-1] - 1)
    elif function in (F.max_pool2d, F.avg_pool2d):  # input, size, stride
        size = _single(args[1])
        stride = _argument(args, kwargs, 2, "stride", size)
    elif function is Tensor.__getitem__ and isinstance(args[1], tuple):
        size, stride = 1, max([part.step or 1 for part in args[1] if isinstance(part, slice)], default=1)
    else:
        return field, step
    return None if field is None else field + (size - 1) * step, step * stride


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, otherwise: int) -> int:
    value = args[place] if len(args) > place else kwargs.get(name)
    return otherwise if value is None else _single(value)


def _single(size: Any) -> int:
    """The size of a kernel or stride, which PyTorch holds as one number or as two equal ones."""
    return int(size[-1]) if isinstance(size, tuple | list) else int(size)
