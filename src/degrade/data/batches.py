"""The whole set on the device as uint8; the paper's augmentation is done there, a batch at a time.

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

PADDING = 4
SIDE = 32


class Batches:
    """Training batches of one image set, every image once an epoch, the last short batch kept.

    Args:
        images: the set; copied to `device` once.
        batch_size: images a batch.
        augment: pad by 4, crop and flip at random (paper, section 4.2).
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
        self._epoch = -1
        self._order = self._rows = self._columns = self._flips = torch.empty(0)

    @property
    def per_epoch(self) -> int:
        """Iterations an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """The batch of an iteration, counted from 1.

        Returns:
            float32 N x 3 x 32 x 32 with the mean subtracted, stored channels last, and int64 N labels.
        """
        epoch, place = divmod(iteration - 1, self.per_epoch)
        self._draw_epoch(epoch)
        here = slice(place * self.batch_size, (place + 1) * self.batch_size)
        index = self._order[here]
        images = normalised(self.pixels[index], self.mean)
        if self.augment:
            images = crop_and_flip(images, self._rows[here], self._columns[here], self._flips[here])
        return images.contiguous(memory_format=torch.channels_last), self.labels[index]

    def _draw_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        # Drawn on the CPU so that every device sees the same numbers.
        generator = torch.Generator().manual_seed(_mixed_seed(self.seed, epoch))
        count = len(self.labels)
        self._order = torch.randperm(count, generator=generator).to(self.device)
        offsets = torch.randint(2 * PADDING + 1, (2, count), generator=generator)
        self._rows, self._columns = offsets.to(self.device)
        self._flips = torch.randint(2, (count,), generator=generator).bool().to(self.device)
        self._epoch = epoch


def normalised(pixels: Tensor, mean: Tensor) -> Tensor:
    """Pixels uint8 0 to 255 as float32 in units of 1, mean subtracted; not divided by a deviation (paper)."""
    return pixels.float().div_(255).sub_(mean)


def crop_and_flip(images: Tensor, rows: Tensor, columns: Tensor, flips: Tensor) -> Tensor:
    """Crop 32 x 32 from each image padded by 4 zeros, flipped where asked (paper, section 4.2).

    Args:
        images: float N x C x 32 x 32, mean already subtracted, so that the padding is zero as the network sees it.
        rows: int64 N, 0 to 8: the crop's upper edge in the padded image.
        columns: int64 N, 0 to 8: its left edge.
        flips: bool N: mirror the crop left to right.

    Returns:
        float N x C x 32 x 32.
    """
    padded = F.pad(images, (PADDING,) * 4)
    ahead = torch.arange(SIDE, device=images.device)
    x = torch.where(flips[:, None], SIDE - 1 - ahead, ahead) + columns[:, None]
    y = ahead + rows[:, None]
    # Index arrays apart from each other come first: the result is N x 32 x 32 x C, channels last already.
    picked = padded[torch.arange(len(images), device=images.device)[:, None, None], :, y[:, :, None], x[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def evaluation_batches(
    pixels: Tensor, labels: Tensor, mean: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The single 32 x 32 view of each image, in order (paper, section 4.2)."""
    for start in range(0, len(labels), batch_size):
        images = normalised(pixels[start : start + batch_size], mean)
        yield images.contiguous(memory_format=torch.channels_last), labels[start : start + batch_size]


def _mixed_seed(seed: int, epoch: int) -> int:
    """A well-mixed 63-bit seed from two numbers."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))
