"""The CIFAR network of the paper, section 4.2: plain, or residual by one added line.

The depth 6n + 2 determines everything: a 3x3 convolution to 16 channels, then three stages of n blocks of two 3x3
convolutions with 16, 32 and 64 channels on maps of 32, 16 and 8 pixels, global average pooling, and a linear layer.

Modules are named as in the widespread PyTorch form (conv1, bn1, layer1.0.conv1, ..., linear), so weights trained
elsewhere load. Identity shortcuts have no parameters: plain and residual networks have the same ones.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from degrade.config import ModelConfig
from degrade.models.activation import activation
from degrade.models.norm import convolution, normalisation
from degrade.models.recompute import recomputed
from degrade.models.shortcut import PaddedIdentity


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each followed by batch norm, with a shortcut around both if residual (Figure 2).

    Args:
        channels_in, channels_out: channels before and after.
        stride: stride of the first convolution; 2 halves the map.
        config: the network's settings, of which family, shortcut, norm, activation and zero_init matter.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, config: ModelConfig) -> None:
        super().__init__()
        self.conv1 = convolution(channels_in, channels_out, 3, config, stride=stride)
        self.bn1 = normalisation(channels_out, config)
        self.conv2 = convolution(channels_out, channels_out, 3, config)
        self.bn2 = normalisation(channels_out, config)
        self.activate = activation(config)
        self.activate2 = activation(config)
        self.residual = config.family == "residual"
        if config.zero_init and self.residual:
            nn.init.zeros_(self.bn2.weight)  # type: ignore[arg-type]
        if self.residual:
            self.shortcut = _shortcut(channels_in, channels_out, stride, config)

    def forward(self, x: Tensor) -> Tensor:
        """Map float N x channels_in x H x W to N x channels_out x H/stride x W/stride."""
        out = self.activate(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.residual:
            out = out + self.shortcut(x)  # the whole difference between the two families
        return self.activate2(out)


class CifarNet(nn.Module):
    """The plain or residual network with `config.depth` weighted layers.

    Input: float N x 3 x S x S, S 32 in the paper, mean already subtracted. Output: float N x classes, logits.
    """

    recompute = False
    """Whether train mode computes activations again in the backward pass instead of keeping them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        blocks = (config.depth - 2) // 6
        self.conv1 = convolution(3, 16, 3, config)
        self.bn1 = normalisation(16, config)
        self.activate = activation(config)
        self.shortcuts = config.family == "residual"
        self.layer1 = _stage(16, 16, 1, blocks, config)
        self.layer2 = _stage(16, 32, 2, blocks, config)
        self.layer3 = _stage(32, 64, 2, blocks, config)
        self.linear = nn.Linear(64, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        out = self.activate(self.bn1(self.conv1(x)))
        if self.recompute and self.training:
            out = recomputed([*self.layer1, *self.layer2, *self.layer3], out)
        else:
            out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d, nn.Module]]:
        """The 3x3 convolutions in the order of their work: name, convolution, and what normalises its output.

        The normalisation is `nn.Identity` without batch norm; its output is what Figure 7 calls the response.
        """
        yield "conv1", self.conv1, self.bn1
        for stage in ("layer1", "layer2", "layer3"):
            for k, block in enumerate(getattr(self, stage)):
                yield f"{stage}.{k}.conv1", block.conv1, block.bn1
                yield f"{stage}.{k}.conv2", block.conv2, block.bn2


def _shortcut(channels_in: int, channels_out: int, stride: int, config: ModelConfig) -> nn.Module:
    """The shortcut by option A, B or C of the paper, section 3.3."""
    same_shape = stride == 1 and channels_in == channels_out
    if config.shortcut == "C" or (config.shortcut == "B" and not same_shape):
        projection = convolution(channels_in, channels_out, 1, config, stride=stride)
        return nn.Sequential(projection, normalisation(channels_out, config))
    return nn.Identity() if same_shape else PaddedIdentity(channels_out - channels_in, stride)


def _stage(channels_in: int, channels_out: int, stride: int, blocks: int, config: ModelConfig) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride, config)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1, config) for _ in range(blocks - 1)))
