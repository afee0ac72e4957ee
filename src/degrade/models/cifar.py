"""The CIFAR network of the paper, section 4.2: plain, or residual by one added line.

The depth 6n + 2 determines everything: a 3x3 convolution to 16 channels, then three stages of n blocks of two 3x3
convolutions with 16, 32 and 64 channels on maps of 32, 16 and 8 pixels, global average pooling, and a linear layer.

Modules are named as in the widespread PyTorch form (conv1, bn1, layer1.0.conv1, ..., linear), so weights trained
elsewhere load. Identity shortcuts have no parameters: plain and residual networks have the same ones.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degrade.config import ModelConfig
from degrade.models.norm import normalisation
from degrade.models.recompute import recomputed
from degrade.models.vgg import VggNet


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each followed by batch norm, with a shortcut around both if residual (Figure 2).

    Args:
        channels_in, channels_out: channels before and after.
        stride: stride of the first convolution; 2 halves the map.
        config: the network's settings, of which family, shortcut, norm and zero_init matter.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, config: ModelConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = normalisation(channels_out, config)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = normalisation(channels_out, config)
        self.residual = config.family == "residual"
        if config.zero_init and self.residual:
            nn.init.zeros_(self.bn2.weight)  # type: ignore[arg-type]
        if self.residual:
            self.shortcut = _shortcut(channels_in, channels_out, stride, config)

    def forward(self, x: Tensor) -> Tensor:
        """Map float N x channels_in x H x W to N x channels_out x H/stride x W/stride."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.residual:
            out = out + self.shortcut(x)  # the whole difference between the two families
        return F.relu(out, inplace=True)


class CifarNet(nn.Module):
    """The plain or residual network with `config.depth` weighted layers.

    Input: float N x 3 x S x S, S 32 in the paper, mean already subtracted. Output: float N x classes, logits.
    """

    recompute = False
    """Whether train mode computes activations again in the backward pass instead of keeping them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        blocks = (config.depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = normalisation(16, config)
        self.layer1 = _stage(16, 16, 1, blocks, config)
        self.layer2 = _stage(16, 32, 2, blocks, config)
        self.layer3 = _stage(32, 64, 2, blocks, config)
        self.linear = nn.Linear(64, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
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


class PaddedIdentity(nn.Module):
    """Shortcut option A: it keeps every stride-th pixel, and adds channels of zeros, half before, half after."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map N x C x H x W to N x C+new x H/stride x W/stride."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def build_model(config: ModelConfig, *, generator: torch.Generator | None = None) -> CifarNet | VggNet:
    """Build a network on the CPU with freshly drawn weights.

    Args:
        config: the network's settings.
        generator: source of the weights; None uses PyTorch's global one. Weights that plain and residual networks
            share are drawn first, so both start from identical ones.
    """
    model = VggNet(config) if config.family == "vgg" else CifarNet(config)
    shared = [m for name, m in model.named_modules() if "shortcut" not in name]
    projections = [m for name, m in model.named_modules() if "shortcut" in name]
    for module in shared + projections:
        if isinstance(module, nn.Conv2d | nn.Linear):
            _draw(module.weight, config.init, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _draw(weight: Tensor, init: str, generator: torch.Generator | None) -> None:
    if init == "dirac" and weight.dim() == 4 and weight.shape[0] == weight.shape[1]:
        nn.init.dirac_(weight)
    elif init in ("he", "dirac"):
        nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu", generator=generator)
    elif init == "xavier":
        nn.init.xavier_normal_(weight, generator=generator)
    else:
        nn.init.normal_(weight, std=0.01, generator=generator)


def _shortcut(channels_in: int, channels_out: int, stride: int, config: ModelConfig) -> nn.Module:
    """The shortcut by option A, B or C of the paper, section 3.3."""
    same_shape = stride == 1 and channels_in == channels_out
    if config.shortcut == "C" or (config.shortcut == "B" and not same_shape):
        convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        return nn.Sequential(convolution, normalisation(channels_out, config))
    return nn.Identity() if same_shape else PaddedIdentity(channels_out - channels_in, stride)


def _stage(channels_in: int, channels_out: int, stride: int, blocks: int, config: ModelConfig) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride, config)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1, config) for _ in range(blocks - 1)))
