"""CIFAR-100, and what is kept of it: the images once, with the fine and the coarse labels of each.

SHA-256 of the real pixels is not known here, so it is computed when a set is kept, and guards what is kept from then
on. Before that, the MD5 of its archive, if it comes in one, and of each file must be the one that torchvision knows.
"""

import json
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


def of_files(held: list[dict[str, Any]], source: str) -> Cifar100:
    """Make the set of what the files of its archive hold: train, test, meta."""
    *parts, meta = held
    arrays: dict[str, Any] = {}
    for name, part in zip(_PARTS, parts, strict=True):
        arrays[f"{name}_images"] = np.asarray(part["data"], np.uint8).reshape(-1, 3, 32, 32)
        arrays |= {f"{name}_{kind}": np.asarray(part[f"{kind}_labels"], np.int64) for kind in _KINDS}
    return Cifar100(arrays, {kind: tuple(map(str, meta[f"{kind}_label_names"])) for kind in _KINDS}, source)


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
