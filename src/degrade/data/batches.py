"""Batches: the whole set lies on the device as uint8, and the paper's augmentation is done there for each batch.

A batch is a pure function of (seed, iteration): the order of an epoch, its crops and its flips are drawn from a
generator seeded with (seed, epoch). So resuming needs nothing but the iteration, and every device and family
of network sees the same batches.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from degrade.data.images import ImageSet

#: An image is padded on each side by its own side divided by this: by 4 pixels for 32 in the paper.
SIDES_PER_PADDING = 8


class Batches:
    """Training batches of one image set, with every image once per epoch; the last, shorter batch is kept.

    Args:
        images: the set, which is copied to `device` once.
        batch_size: number of images in a batch.
        augment: whether to pad by an eighth of the side, crop and flip at random (paper, section 4.2).
        seed: seeds order and augmentation.
        device: where batches are made.
    """

    def __init__(self, images: ImageSet, *, batch_size: int, augment: bool, seed: int, device: torch.device) -> None:
        self.pixels = images.train_images.to(device)
        self.labels = images.train_labels.to(device)
        self.mean = images.mean.to(device)
        self.device = device
        self.batch_size = batch_size
        self.augment = augment
        self.seed = seed
        count = len(self.labels)
        # These are filled anew for each epoch and never replaced, since a CUDA graph reads them where they are.
        self._order, self._rows, self._columns = torch.zeros((3, count), dtype=torch.int64, device=device)
        self._flips = torch.zeros(count, dtype=torch.bool, device=device)
        self._epoch = -1

    @property
    def per_epoch(self) -> int:
        """Number of iterations in an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """The batch of an iteration, counted from 1.

        Returns:
            float32 N x 3 x S x S with the mean subtracted, stored channels last, and int64 N labels.
        """
        return self.at(self.prepare(iteration))

    def prepare(self, iteration: int) -> slice:
        """Draw the iteration's epoch, if it is not drawn yet, and tell which places of it make up the batch."""
        epoch, number = divmod(iteration - 1, self.per_epoch)
        if epoch != self._epoch:
            self._draw(epoch)
        start = number * self.batch_size
        return slice(start, start + self.size(iteration))

    def epoch(self, number: int, *, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches of an epoch, counted from 0, in its shuffled order; any batch may be asked for afterwards.

        Args:
            number: which epoch.
            augment: whether the epoch's crops and flips are applied, whatever training does.
        """
        first = number * self.per_epoch + 1
        for iteration in range(first, first + self.per_epoch):
            yield self.at(self.prepare(iteration), augment=augment)

    def size(self, iteration: int) -> int:
        """Number of images in an iteration's batch."""
        number = (iteration - 1) % self.per_epoch
        return min(self.batch_size, len(self.labels) - number * self.batch_size)

    def at(self, places: slice | Tensor, *, augment: bool | None = None) -> tuple[Tensor, Tensor]:
        """The images at some places of the epoch that is drawn; all is computed on the device.

        Args:
            places: a slice, or int64 N.
            augment: whether crops and flips are applied; None applies them as in training.

        Returns:
            The same as `batch`.
        """
        index = self._order[places]
        images = normalised(self.pixels[index], self.mean)
        if self.augment if augment is None else augment:
            images = crop_and_flip(images, self._rows[places], self._columns[places], self._flips[places])
        return images.contiguous(memory_format=torch.channels_last), self.labels[index]

    def _draw(self, epoch: int) -> None:
        # The numbers are drawn on the CPU, so that every device sees the same ones.
        mixed = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1)  # 63 bits
        generator = torch.Generator().manual_seed(int(mixed))
        count = len(self.labels)
        self._order.copy_(torch.randperm(count, generator=generator))
        padding = self.pixels.shape[-1] // SIDES_PER_PADDING
        offsets = torch.randint(2 * padding + 1, (2, count), generator=generator)
        self._rows.copy_(offsets[0])
        self._columns.copy_(offsets[1])
        self._flips.copy_(torch.randint(2, (count,), generator=generator))
        self._epoch = epoch


def normalised(pixels: Tensor, mean: Tensor) -> Tensor:
    """Pixels, uint8 0 to 255, as float32 0 to 1 with the mean subtracted and no other scaling (paper)."""
    return pixels.float().div_(255).sub_(mean)


def crop_and_flip(images: Tensor, rows: Tensor, columns: Tensor, flips: Tensor) -> Tensor:
    """Crop each image from itself padded by zeros, 4 of 32 on each side, flipped where asked (paper, section 4.2).

    Args:
        images: float N x C x S x S, mean already subtracted, so that the padding is zero as the network sees it.
        rows: int64 N, 0 to S / 4: the crop's upper edge in the padded image.
        columns: int64 N, 0 to S / 4: its left edge.
        flips: bool N: mirror the crop left to right.

    Returns:
        float N x C x S x S.
    """
    side = images.shape[-1]
    padded = F.pad(images, (side // SIDES_PER_PADDING,) * 4)
    ahead = torch.arange(side, device=images.device)
    x = torch.where(flips[:, None], side - 1 - ahead, ahead) + columns[:, None]
    y = ahead + rows[:, None]
    # Index arrays that are apart put their dimensions first: the result is N x S x S x C, already channels last.
    picked = padded[torch.arange(len(images), device=images.device)[:, None, None], :, y[:, :, None], x[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def single_view(pixels: Tensor, mean: Tensor) -> Tensor:
    """The single view, un-cropped, of test images (paper, section 4.2): uint8 to float32, stored channels last."""
    return normalised(pixels, mean).contiguous(memory_format=torch.channels_last)
