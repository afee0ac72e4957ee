from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from degrade.config import DataConfig
from degrade.data import Batches, ImageSet, load_images
from degrade.data.batches import crop_and_flip, single_view
from degrade.data.images import Pixels, averaged, select
from degrade.data.synthetic import synthetic_images
from degrade.errors import ConfigError, DatasetError

Floats = npt.NDArray[np.float32]


def synthetic(train: int = 90, test: int = 40, **more: object) -> ImageSet:
    return load_images(DataConfig(name="synthetic", train_limit=train, test_limit=test, **more))  # type: ignore[arg-type]


def batches(images: ImageSet, *, augment: bool = True, seed: int = 0, size: int = 16) -> Batches:
    return Batches(images, batch_size=size, augment=augment, seed=seed, device=torch.device("cpu"))


def slow_augment(image: Pixels, mean: Floats, row: int, column: int, flip: bool) -> Floats:
    """The paper's augmentation of one image, pixel by pixel."""
    padded = np.zeros((3, 40, 40), np.float32)
    out = np.zeros((3, 32, 32), np.float32)
    for c in range(3):
        for y in range(32):
            for x in range(32):
                padded[c, y + 4, x + 4] = np.float32(image[c, y, x]) / np.float32(255) - mean[c, y, x]
    for c in range(3):
        for y in range(32):
            for x in range(32):
                out[c, y, x] = padded[c, row + y, column + (31 - x if flip else x)]
    return out


def test_augmentation_equals_a_slow_reference() -> None:
    images = synthetic(8)
    made = batches(images, size=8)
    x, labels = made.batch(1)
    assert torch.equal(labels, images.train_labels[made._order])
    for k in range(8):
        source = images.train_images[made._order[k]].numpy()
        row, column, flip = int(made._rows[k]), int(made._columns[k]), bool(made._flips[k])
        expected = slow_augment(source, images.mean.numpy(), row, column, flip)
        torch.testing.assert_close(x[k], torch.from_numpy(expected), rtol=0, atol=1e-7)


def test_every_crop_and_flip_is_reachable_and_lands_where_it_should() -> None:
    image = torch.arange(3 * 32 * 32, dtype=torch.float32).view(1, 3, 32, 32) + 1
    rows, columns, flips = (g.flatten() for g in torch.meshgrid(*map(torch.arange, (9, 9, 2)), indexing="ij"))
    out = crop_and_flip(image.expand(162, -1, -1, -1), rows, columns, flips.bool())
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))[0]
    for k in range(162):
        crop = padded[:, rows[k] : rows[k] + 32, columns[k] : columns[k] + 32]
        assert torch.equal(out[k], crop.flip(2) if flips[k] else crop)
    assert len({tuple(o.flatten().tolist()) for o in out}) == 162


def test_crops_and_flips_are_uniform() -> None:
    made = batches(synthetic(90))
    counts: Counter[tuple[int, int, bool]] = Counter()
    epochs = 600
    for epoch in range(epochs):
        made._draw(epoch)
        counts.update(zip(made._rows.tolist(), made._columns.tolist(), made._flips.tolist(), strict=True))
    expected = epochs * 90 / 162
    assert len(counts) == 162
    chi_squared = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_squared < 161 + 5 * (2 * 161) ** 0.5


def test_padding_is_zero_after_mean_subtraction() -> None:
    x = crop_and_flip(torch.ones(1, 3, 32, 32), torch.tensor([0]), torch.tensor([0]), torch.tensor([False]))
    assert torch.equal(x[0, :, :4, :], torch.zeros(3, 4, 32))
    assert torch.equal(x[0, :, 4:, 4:], torch.ones(3, 28, 28))


def test_every_image_once_an_epoch_and_the_last_short_batch_kept() -> None:
    images = synthetic(90)
    made = batches(images, augment=False)
    assert made.per_epoch == 6
    for epoch in range(2):
        seen = [made.batch(epoch * 6 + k) for k in range(1, 7)]
        assert [len(labels) for _, labels in seen] == [16] * 5 + [10]
        whole = torch.cat([x for x, _ in seen]).contiguous()
        plain = images.train_images.float() / 255 - images.mean
        assert sorted(map(hash, map(bytes, whole.numpy()))) == sorted(map(hash, map(bytes, plain.numpy())))


def test_a_batch_is_a_function_of_seed_and_iteration() -> None:
    images = synthetic()
    forward, again, other = batches(images), batches(images), batches(images, seed=1)
    seen = {i: forward.batch(i)[0] for i in range(1, 15)}
    for i in reversed(range(1, 15)):
        assert torch.equal(again.batch(i)[0], seen[i])
        assert not torch.equal(other.batch(i)[0], seen[i])
    assert not torch.equal(seen[1], seen[7])


def test_evaluation_sees_the_single_view() -> None:
    images = synthetic()
    view = single_view(images.test_images, images.mean)
    torch.testing.assert_close(view, images.test_images.float() / 255 - images.mean)
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_the_mean_is_over_training_images_per_pixel_or_per_channel() -> None:
    images = synthetic()
    mean = images.train_images.double().mean(0) / 255
    torch.testing.assert_close(images.mean, mean.float())
    per_channel = synthetic(mean="per_channel").mean
    torch.testing.assert_close(per_channel, mean.mean((1, 2), keepdim=True).float().expand(3, 32, 32))


@pytest.mark.parametrize("side", [16, 8])
def test_averaging_down_is_the_rounded_mean_of_each_square(side: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32)).astype(np.uint8)
    small = averaged(images, side)
    means = F.avg_pool2d(torch.tensor(images, dtype=torch.float64), 32 // side)
    assert small.dtype == np.uint8
    assert np.array_equal(small, np.floor(means.numpy() + 0.5))
    assert averaged(np.full_like(images, 255), side).min() == 255
    assert averaged(images, 32) is images


def test_smaller_images_are_padded_by_an_eighth_and_have_a_mean_and_a_hash_of_their_own() -> None:
    small = synthetic(40, pixels=16)
    assert small.mean.shape == (3, 16, 16)
    assert small.content_hash != synthetic(40).content_hash
    drawn = batches(small, size=40)
    assert drawn.batch(1)[0].shape == (40, 3, 16, 16)
    assert {int(drawn._rows.min()), int(drawn._rows.max())} == {0, 4}


def test_the_45k_5k_split_holds_out_the_last_tenth() -> None:
    raw = synthetic_images(seed=0, train=100, test=40)
    split = select(raw, DataConfig(split="45k/5k", test_limit=7))
    assert (len(split.train_labels), len(split.test_labels)) == (90, 7)
    np.testing.assert_array_equal(split.train_images, raw.train_images[:90])
    np.testing.assert_array_equal(split.test_images, raw.train_images[90:97])
    np.testing.assert_allclose(split.mean, raw.train_images[:90].mean(0) / 255, atol=1e-6)
    with pytest.raises(DatasetError, match="0 training and 1 test images"):
        select(synthetic_images(seed=0, train=1, test=1), DataConfig(split="45k/5k"))


def test_synthetic_images_are_seeded_prefix_stable_and_labelled() -> None:
    short, long = synthetic(50), synthetic(120)
    assert torch.equal(short.train_images, long.train_images[:50])
    assert short.synthetic
    assert "synthetic" in short.source
    assert short.content_hash != synthetic(50, seed=1).content_hash
    assert set(synthetic(500).train_labels.tolist()) == set(range(10))


def test_synthetic_images_are_not_separable_by_a_linear_model() -> None:
    """Hard enough: a least-squares classifier on the pixels is far from zero test error."""
    images = synthetic(4000, 500)
    x = torch.cat([images.train_images, images.test_images]).flatten(1).float() / 255 - images.mean.flatten()
    targets = torch.nn.functional.one_hot(images.train_labels, 10).float()
    gram = x[:4000].T @ x[:4000] + 10 * torch.eye(3072)
    weights = torch.linalg.solve(gram, x[:4000].T @ targets)
    error = float(((x[4000:] @ weights).argmax(1) != images.test_labels).float().mean())
    assert 0.5 < error < 0.95


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_batches_equal_those_of_the_cpu() -> None:
    images = synthetic()
    on_gpu = Batches(images, batch_size=16, augment=True, seed=0, device=torch.device("cuda"))
    for i in (1, 6, 7):
        x, y = on_gpu.batch(i)
        expected_x, expected_y = batches(images).batch(i)
        torch.testing.assert_close(x.cpu(), expected_x)
        assert torch.equal(y.cpu(), expected_y)


def test_a_limit_beyond_the_images_of_a_folder_says_how_many_there_are() -> None:
    raw = synthetic_images(seed=0, train=20, test=6)

    def chosen(**limits: int) -> ImageSet:
        return select(raw, DataConfig(name="folder", root="somewhere", **limits))  # type: ignore[arg-type]

    assert len(chosen(train_limit=20, test_limit=6).train_labels) == 20
    with pytest.raises(ConfigError, match=r"data\.train_limit=21: there are 20 training images \(synthetic"):
        chosen(train_limit=21)
    with pytest.raises(ConfigError, match=r"data\.test_limit=7: there are 6 test images"):
        chosen(test_limit=7)
