"""A trained network together with what it takes to go from pixels to its input."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degrade.errors import DatasetError


class Classifier(nn.Module):
    """A network that takes pixels: it averages them down to the network's side and subtracts the mean itself.

    Input: uint8 N x 3 x kS x kS for a whole k, channels red, green, blue. Output: float32 N x classes, logits.

    Args:
        network: maps N x 3 x S x S to logits, mean already subtracted.
        mean: float32 3 x S x S, the mean training image in units of 1 (pixel / 255); it moves with the module.
        classes: names of the classes, by label.
    """

    mean: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.register_buffer("mean", mean)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels to logits.

        Raises:
            DatasetError: the pixels are of another type or shape.
        """
        return self.network(self.prepared(pixels))  # type: ignore[no-any-return]

    def prepared(self, pixels: Tensor) -> Tensor:
        """The network's input: float32 N x 3 x S x S, mean subtracted.

        Raises:
            DatasetError: the pixels are of another type or shape.
        """
        side = self.mean.shape[-1]
        height, width = pixels.shape[-2:] if pixels.dim() == 4 else (0, 0)
        if pixels.dtype != torch.uint8 or height != width or not height or height % side or pixels.shape[1] != 3:
            kind, shape = str(pixels.dtype).removeprefix("torch."), " x ".join(map(str, pixels.shape))
            raise DatasetError(
                f"pixels of {kind} {shape}: write uint8 N x 3 x {side} x {side}, values 0 to 255; "
                f"a multiple of {side} pixels a side is averaged down"
            )
        values = pixels.float()
        if (factor := height // side) > 1:
            values = torch.floor(F.avg_pool2d(values, factor) + 0.5)  # rounded half up, as training's images were
        return values / 255 - self.mean
