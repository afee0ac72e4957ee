"""VGG (Simonyan and Zisserman, arXiv 1409.1556) fitted to 32x32 images, and stacked beyond its 19 layers.

Five stages of 3x3 convolutions with w, 2w, 4w, 8w and 8w channels, each ended by 2x2 max pooling: 32 pixels a side
become 1. Three fully connected layers follow, 8w -> 8w -> 8w -> classes. The paper's 4096 units and the dropout
between them are left out: they are made for 7x7 maps of ImageNet, and dropout would mask the network's own training
error.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from degrade.config import ModelConfig
from degrade.models.activation import activation
from degrade.models.norm import convolution, normalisation
from degrade.models.recompute import recomputed

#: Channels of each stage, in units of `width`.
CHANNELS = (1, 2, 4, 8, 8)


def convolutions_by_stage(depth: int) -> tuple[int, ...]:
    """How many convolutions each stage has: configurations A (11), B (13), D (16), E (19), and deeper ones like them.

    Args:
        depth: 11 or 7 + 3k, the three fully connected layers included.
    """
    if depth == 11:
        return 1, 1, 2, 2, 2
    deep = (depth - 7) // 3
    return 2, 2, deep, deep, deep


class ConvLayer(nn.Module):
    """A 3x3 convolution, its norm if there is any (the convolution then has no bias), and the nonlinearity."""

    def __init__(self, channels_in: int, channels_out: int, config: ModelConfig) -> None:
        super().__init__()
        self.conv = convolution(channels_in, channels_out, 3, config, bias=config.norm == "none")
        self.norm = normalisation(channels_out, config)
        self.activate = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map float N x channels_in x H x W to N x channels_out x H x W."""
        return self.activate(self.norm(self.conv(x)))


class VggNet(nn.Module):
    """The VGG network with `config.depth` weighted layers and `config.width` channels in its first stage.

    Input: float N x 3 x 32 x 32, mean already subtracted. Output: float N x classes, logits.
    """

    recompute = False
    """Whether train mode computes activations again in the backward pass instead of keeping them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        before = 3
        for stage, (factor, count) in enumerate(
            zip(CHANNELS, convolutions_by_stage(config.depth), strict=True), start=1
        ):
            channels = factor * config.width
            layers = [ConvLayer(before if k == 0 else channels, channels, config) for k in range(count)]
            self.add_module(f"stage{stage}", nn.Sequential(*layers, nn.MaxPool2d(2)))
            before = channels
        self.linear1 = nn.Linear(before, before)
        self.linear2 = nn.Linear(before, before)
        self.linear = nn.Linear(before, config.classes)
        self.activate = activation(config)
        self.activate2 = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        layers = [layer for stage in self._stages() for layer in stage]
        if self.recompute and self.training:
            x = recomputed(layers, x)
        else:
            for layer in layers:
                x = layer(x)
        x = x.mean(dim=(2, 3))  # with 32x32 images the map is one pixel
        x = self.activate(self.linear1(x))
        x = self.activate2(self.linear2(x))
        return self.linear(x)  # type: ignore[no-any-return]

    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d, nn.Module]]:
        """The 3x3 convolutions in the order of their work: name, convolution, and what normalises its output.

        The normalisation is `nn.Identity` without batch norm.
        """
        for stage, layers in enumerate(self._stages(), start=1):
            for k, layer in enumerate(layers):
                if isinstance(layer, ConvLayer):
                    yield f"stage{stage}.{k}.conv", layer.conv, layer.norm

    def _stages(self) -> list[nn.Sequential]:
        return [self.get_submodule(f"stage{k}") for k in range(1, len(CHANNELS) + 1)]  # type: ignore[misc]
