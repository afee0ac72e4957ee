"""Generated images: a stand-in for CIFAR-10 of the same shapes, for tests and offline use, and noise for timing."""

import numpy as np
import numpy.typing as npt
import torch

from degrade.data.images import ImageSet, Labels, Pixels, RawImages

CLASSES = 10
#: Number of different looks that a class has.
_PROTOTYPES = 3
_CHUNK = 5000


def synthetic_images(*, seed: int, train: int, test: int) -> RawImages:
    """Generate images whose class is a pattern, shifted, dimmed, and overlaid by another class's pattern and noise.

    The images are hard on purpose: a network has to learn shift-tolerant patterns, so training error falls
    gradually. A longer set begins with the images of a shorter one.
    """
    patterns = _patterns(np.random.default_rng((seed, 0)))
    train_x, train_y = _draw(patterns, np.random.default_rng((seed, 1)), train)
    test_x, test_y = _draw(patterns, np.random.default_rng((seed, 2)), test)
    names = tuple(f"pattern {k}" for k in range(CLASSES))
    return RawImages(train_x, train_y, test_x, test_y, names, f"synthetic (generated, seed {seed})")


def noise(count: int, *, side: int = 32, classes: int = 10) -> ImageSet:
    """Images of uniform noise, the same ones for training and testing, which take a computer as long as photographs.

    There are `count` of them, `side` pixels high and wide, and `classes` is how many classes take turns among them.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    mean = torch.full((3, side, side), 0.5)
    names = tuple(map(str, range(classes)))
    return ImageSet(pixels, labels, pixels, labels, mean, names, "noise", "", synthetic=True)


def _patterns(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Smooth random patterns, float32, classes * prototypes x 32 x 32 x 3, standard deviation 1 each."""
    coarse = rng.standard_normal((CLASSES * _PROTOTYPES, 8, 8, 3), dtype=np.float32)
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2)
    for axis in (1, 2):
        fine = fine + np.roll(fine, 1, axis) + np.roll(fine, 2, axis) + np.roll(fine, 3, axis)
    return np.asarray(fine / fine.std(axis=(1, 2, 3), keepdims=True), dtype=np.float32)


def _draw(patterns: npt.NDArray[np.float32], rng: np.random.Generator, count: int) -> tuple[Pixels, Labels]:
    pixels = np.empty((count, 3, 32, 32), np.uint8)
    labels = np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        # The numbers of a whole chunk are drawn whatever `count` is, so that a longer set begins with a shorter one;
        # only the images that are wanted are made of them, since that takes five times as long as drawing.
        wanted = min(_CHUNK, count - start)
        label = rng.integers(CLASSES, size=_CHUNK)
        image = 26 * _shifted(patterns, label, rng, wanted)
        image += 20 * _shifted(patterns, rng.integers(CLASSES, size=_CHUNK), rng, wanted)
        image *= rng.uniform(0.6, 1.4, size=(_CHUNK, 1, 1, 1)).astype(np.float32)[:wanted]
        image += 22 * rng.standard_normal((_CHUNK, 32, 32, 3), dtype=np.float32)[:wanted]
        image += rng.uniform(90, 160, size=(_CHUNK, 1, 1, 3)).astype(np.float32)[:wanted]
        pixels[start : start + wanted] = image.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)
        labels[start : start + wanted] = label[:wanted]
    return pixels, labels


def _shifted(
    patterns: npt.NDArray[np.float32], label: Labels, rng: np.random.Generator, wanted: int
) -> npt.NDArray[np.float32]:
    """One look of each class in `label`, rolled by up to 8 pixels each way; only the first `wanted` are made."""
    which = label * _PROTOTYPES + rng.integers(_PROTOTYPES, size=label.shape)
    rows, columns = ((np.arange(32) + rng.integers(-8, 9, size=(len(label), 1)))[:wanted] % 32 for _ in range(2))
    shifted: npt.NDArray[np.float32] = patterns[which[:wanted, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted
