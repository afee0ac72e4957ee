"""CIFAR-100's own archive, and what is kept of it: the images once, with the fine and the coarse labels of each.

The members are taken straight from the archive, and each must have the MD5 that torchvision knows. SHA-256 of the
real pixels is not known here, so it is computed when a set is kept, and guards what is kept from then on.
"""

import hashlib
import json
import pickle
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from degrade.data.download import SourceFailed, reason_of
from degrade.data.images import RawImages, content_hash

#: Bytes of the archive of the original site, as torchvision's progress counts them.
ARCHIVE_SIZE = 169_001_437

#: The folder below the data root in which the set is kept.
FOLDER = "cifar100-prepared"

_PARTS, _KINDS = ("train", "test"), ("fine", "coarse")
_ARRAYS = tuple(f"{part}_{what}" for part in _PARTS for what in ("images", *_KINDS))


@dataclass(frozen=True)
class Cifar100:
    """CIFAR-100 with both kinds of labels.

    Attributes:
        arrays: `train_images` and `test_images`, uint8 N x 3 x 32 x 32; `train_fine`, `train_coarse`, `test_fine` and
            `test_coarse`, int64 N.
        classes: names of the classes by label, under `fine` and `coarse`.
        source: where it came from.
    """

    arrays: dict[str, npt.NDArray[Any]]
    classes: dict[str, tuple[str, ...]]
    source: str

    def labelled(self, kind: str) -> RawImages:
        """The images with their `fine` or `coarse` labels."""
        train, test = ((self.arrays[f"{part}_images"], self.arrays[f"{part}_{kind}"]) for part in _PARTS)
        return RawImages(*train, *test, self.classes[kind], self.source)


def read_archive(path: Path, source: str) -> Cifar100:
    """Read cifar-100-python.tar.gz, or the folder that it unpacks to.

    Args:
        path: the archive, whose MD5 must be the known one, or the folder.
        source: where it came from, in words.

    Raises:
        SourceFailed: it is damaged, or not CIFAR-100.
    """
    from torchvision.datasets import CIFAR100

    expected = [*CIFAR100.train_list, *CIFAR100.test_list, (CIFAR100.meta["filename"], CIFAR100.meta["md5"])]
    try:
        with _members(path) as read:
            train, test, meta = (_unpickled(read(name), name, md5) for name, md5 in expected)
        arrays: dict[str, Any] = {}
        for part, held in zip(_PARTS, (train, test), strict=True):
            arrays[f"{part}_images"] = np.asarray(held["data"], np.uint8).reshape(-1, 3, 32, 32)
            arrays |= {f"{part}_{kind}": np.asarray(held[f"{kind}_labels"], np.int64) for kind in _KINDS}
        classes = {kind: tuple(map(str, meta[f"{kind}_label_names"])) for kind in _KINDS}
    except (SourceFailed, OSError):
        raise
    except Exception as error:  # tarfile, zlib and pickle raise a great many things
        raise SourceFailed(reason_of(error)) from error
    return Cifar100(arrays, classes, source)


@contextmanager
def _members(path: Path) -> Iterator[Callable[[str], bytes]]:
    """A function that gives the content of a file of the archive, or of the folder."""
    from torchvision.datasets import CIFAR100
    from torchvision.datasets.utils import check_integrity

    if path.is_dir():
        yield lambda name: _read_file(path / name)
        return
    if not check_integrity(str(path), CIFAR100.tgz_md5):
        raise SourceFailed("damaged (MD5 differs)")
    with tarfile.open(path) as tar:
        yield lambda name: _read_member(tar, f"{CIFAR100.base_folder}/{name}")


def _read_file(path: Path) -> bytes:
    if not path.is_file():  # a named pipe would be waited for
        raise SourceFailed(f"{path.name} is no regular file")
    return path.read_bytes()


def _read_member(tar: tarfile.TarFile, name: str) -> bytes:
    handle = tar.extractfile(name) if name in tar.getnames() else None
    if handle is None:
        raise SourceFailed(f"the archive's {name} is no file")
    return handle.read()


def _unpickled(content: bytes, name: str, md5: str) -> dict[str, Any]:
    """A pickled file's dictionary; nothing is unpickled whose MD5 is not the known one."""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise SourceFailed(f"{name} is damaged (MD5 differs)")
    held: dict[str, Any] = pickle.loads(content, encoding="latin1")  # noqa: S301 - its MD5 is known
    return held


def write(found: Cifar100, folder: Path) -> None:
    """Write what `read_kept` reads into an empty folder."""
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", found.arrays[name])
    hashes = {name: content_hash(found.arrays[name]) for name in _ARRAYS}
    about = {"source": found.source, "classes": found.classes, "sha256": hashes}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def read_kept(folder: Path) -> Cifar100:
    """Read what `write` wrote; arrays are mapped into memory.

    Raises:
        SourceFailed: it is damaged, or something is missing.
        OSError: it cannot be read.
    """
    for name in (*(f"{name}.npy" for name in _ARRAYS), "about.json"):
        if not (folder / name).is_file():  # a named pipe would be waited for
            raise SourceFailed(f"{name} is no regular file")
    try:
        about = json.loads((folder / "about.json").read_text())
        hashes, classes = about["sha256"], {kind: tuple(about["classes"][kind]) for kind in _KINDS}
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        found = Cifar100(arrays, classes, about["source"])
    except (ValueError, EOFError, KeyError, TypeError) as error:
        raise SourceFailed(reason_of(error)) from error
    for name in _ARRAYS:
        if content_hash(arrays[name]) != hashes.get(name):
            raise SourceFailed(f"{name} has another SHA-256 than when it was kept")
    return found


def kept_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each array of a kept set that `read_kept` has passed."""
    hashes: dict[str, str] = json.loads((folder / "about.json").read_text())["sha256"]
    return hashes
