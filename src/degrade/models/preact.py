"""Residual networks whose norm and activation stand before each convolution (He et al. 2016, arXiv 1603.05027).

A first 3x3 convolution to 16 channels is followed by three stages of n blocks on maps of 32, 16 and 8 pixels, a last
norm and activation, global average pooling, and a linear layer. Three kinds of block make three families:

- `preact`: two 3x3 convolutions, 16, 32 and 64 channels, depth 6n + 2.
- `bottleneck`: 1x1, 3x3 and 1x1, 64, 128 and 256 channels after a quarter as many within, depth 9n + 2. ResNet-164
  and ResNet-1001 of that paper are these.
- `wide`: as preact with w, 2w and 4w channels (Zagoruyko and Komodakis 2016, arXiv 1605.07146), depth 6n + 4, since
  their count holds the 1x1 convolutions. WRN-d-k has a width of 16k.

Where a block changes the shape, its shortcut is a 1x1 convolution of the activated input in the latter two, and the
padded identity in preact.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from degrade.config import ModelConfig
from degrade.models.activation import activation
from degrade.models.norm import convolution, normalisation
from degrade.models.recompute import recomputed
from degrade.models.shortcut import PaddedIdentity


class PreactBlock(nn.Module):
    """Convolutions of the sizes `kernels`, each after norm and activation, with a shortcut around all of them."""

    kernels: tuple[int, ...] = (3, 3)
    within = 1
    """How many times as many channels leave the block as its inner convolutions have."""
    projects = False
    """Whether a shortcut that changes the shape is a 1x1 convolution instead of the padded identity."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, config: ModelConfig) -> None:
        super().__init__()
        inner, count = channels_out // self.within, len(self.kernels)
        for k in range(count):
            setattr(self, f"activate{k}", activation(config))  # a function or a module
        channels = [channels_in, *[inner] * (count - 1), channels_out]
        self.norms = nn.ModuleList(normalisation(before, config) for before in channels[:-1])
        self.convs = nn.ModuleList(
            convolution(channels[k], channels[k + 1], size, config, stride=stride if k == count - 2 else 1)
            for k, size in enumerate(self.kernels)
        )
        self.shortcut: nn.Module | None = None
        if self.projects and (stride > 1 or channels_in != channels_out):
            self.shortcut = convolution(channels_in, channels_out, 1, config, stride=stride)
        elif channels_in != channels_out:
            self.shortcut = PaddedIdentity(channels_out - channels_in, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map float N x channels_in x H x W to N x channels_out x H/stride x W/stride."""
        normed = self.norms[0](x)
        out = self._activated(0, x.clone() if normed is x else normed)  # x goes on, and it may be done in place
        added = x if self.shortcut is None else self.shortcut(out if self.projects else x)
        for k, (convolve, norm) in enumerate(zip(self.convs[:-1], self.norms[1:], strict=True), start=1):
            out = self._activated(k, norm(convolve(out)))
        return self.convs[-1](out) + added  # type: ignore[no-any-return]

    def _activated(self, place: int, x: Tensor) -> Tensor:
        activated: Tensor = getattr(self, f"activate{place}")(x)
        return activated


class BottleneckBlock(PreactBlock):
    """A 3x3 convolution of a quarter of the channels, between 1x1 convolutions."""

    kernels = (1, 3, 1)
    within = 4
    projects = True


class WideBlock(PreactBlock):
    """Two 3x3 convolutions with a 1x1 convolution as the shortcut where the shape changes."""

    projects = True


class PreactNet(nn.Module):
    """The pre-activation network of `config.depth` layers; its family says which block and how many channels.

    Input: float N x 3 x S x S, mean already subtracted. Output: float N x classes, logits.
    """

    recompute = False
    """Whether train mode computes activations again in the backward pass instead of keeping them."""

    shortcuts = True
    """Whether signals can go around layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kind, width = {
            "preact": (PreactBlock, 16),
            "bottleneck": (BottleneckBlock, 64),
            "wide": (WideBlock, config.width),
        }[config.family]
        blocks = config.depth // (3 * len(kind.kernels))  # what is left over are the 2 or 4 other layers
        self.conv1 = convolution(3, 16, 3, config)
        before, layers = 16, []
        for stage in range(3):
            channels = width * 2**stage
            for k in range(blocks):
                layers.append(kind(before, channels, 2 if stage and k == 0 else 1, config))
                before = channels
        self.blocks = nn.ModuleList(layers)
        self.norm = normalisation(before, config)
        self.activate = activation(config)
        self.linear = nn.Linear(before, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = self.conv1(x)
        if self.recompute and self.training:
            x = recomputed(list(self.blocks), x)
        else:
            for block in self.blocks:
                x = block(x)
        return self.linear(self.activate(self.norm(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d, nn.Module]]:
        """Each convolution but those in shortcuts: name, convolution, and what normalises its output.

        The last one of a block, which is added to the shortcut, is not normalised, and stands for that itself.
        """
        yield "conv1", self.conv1, self.conv1
        for k, block in enumerate(self.blocks):
            assert isinstance(block, PreactBlock)  # noqa: S101 - for mypy
            responses = [*block.norms[1:], block.convs[-1]]
            for j, (own, response) in enumerate(zip(block.convs, responses, strict=True)):
                yield f"blocks.{k}.convs.{j}", own, response  # type: ignore[misc]
