"""The identity shortcut that needs no parameters where the shape changes."""

import torch.nn.functional as F
from torch import Tensor, nn


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
