"""The set of images that an experiment trains and tests on, and its identity by content."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from degrade.config import DataConfig
from degrade.errors import DatasetError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawImages:
    """Images as a source delivers them: uint8 N x 3 x 32 x 32 and int64 N, training and test."""

    train_images: Pixels
    train_labels: Labels
    test_images: Pixels
    test_labels: Labels
    classes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class ImageSet:
    """Images ready for training, on the CPU.

    Attributes:
        train_images, test_images: uint8, N x 3 x S x S, values 0 to 255; S is `data.pixels`, 32 by default.
        train_labels, test_labels: int64, N.
        mean: float32, 3 x S x S, the mean training image in units of 1 (pixel / 255), to be subtracted.
        classes: names of the classes, by label.
        source: where the pixels came from.
        content_hash: SHA-256 of pixels and labels, after split, limits and averaging.
        synthetic: True if the images were generated.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    classes: tuple[str, ...]
    source: str
    content_hash: str
    synthetic: bool

    @property
    def chance_error(self) -> float:
        """Training error, a fraction, of always answering the most frequent class: 0.9 for CIFAR-10."""
        return 1 - int(self.train_labels.bincount().max()) / len(self.train_labels)


def select(raw: RawImages, config: DataConfig) -> ImageSet:
    """Apply split, limits and `data.pixels`, and compute the mean over the training images that remain.

    Raises:
        ConfigError: a limit lies beyond the images that there are.
        DatasetError: no training or no test image remains.
    """
    train_x, train_y, test_x, test_y = raw.train_images, raw.train_labels, raw.test_images, raw.test_labels
    if config.split == "45k/5k":
        cut = len(train_x) * 9 // 10
        test_x, test_y, train_x, train_y = train_x[cut:], train_y[cut:], train_x[:cut], train_y[:cut]
    config.check_limits(len(train_x), len(test_x), of=raw.source)
    train_x, train_y = train_x[: config.train_limit], train_y[: config.train_limit]
    test_x, test_y = test_x[: config.test_limit], test_y[: config.test_limit]
    train_x, test_x = averaged(train_x, config.pixels), averaged(test_x, config.pixels)
    if not len(train_x) or not len(test_x):
        raise DatasetError(f"{raw.source}: {len(train_x)} training and {len(test_x)} test images; both are needed")
    mean = train_x.mean(axis=0, dtype=np.float64) / 255
    if config.mean == "per_channel":
        mean = np.broadcast_to(mean.mean(axis=(1, 2), keepdims=True), mean.shape)
    return ImageSet(
        train_images=torch.tensor(train_x),
        train_labels=torch.tensor(train_y),
        test_images=torch.tensor(test_x),
        test_labels=torch.tensor(test_y),
        mean=torch.tensor(mean, dtype=torch.float32),
        classes=raw.classes,
        source=raw.source,
        content_hash=content_hash(train_x, train_y, test_x, test_y),
        synthetic=config.name == "synthetic",
    )


def averaged(images: Pixels, side: int) -> Pixels:
    """Images averaged down to `side` pixels a side, over squares that do not overlap, rounded half up.

    Args:
        images: uint8 N x 3 x S x S, S a multiple of `side`.
        side: the side of the result, which is uint8 N x 3 x side x side.
    """
    factor = images.shape[2] // side
    if factor == 1:
        return images
    squares = images.reshape(len(images), 3, side, factor, side, factor)
    total = squares.sum(axis=(3, 5), dtype=np.uint16)  # at most 16 pixels are added
    rounded: Pixels = ((total + factor**2 // 2) // factor**2).astype(np.uint8)
    return rounded


def content_hash(*arrays: Pixels | Labels) -> str:
    """SHA-256 over the arrays' bytes, in C order; labels as uint8."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.uint8).data)
    return digest.hexdigest()
