"""Trained networks by name: kept from records, loaded, evaluated, and written as ONNX."""

import hashlib
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import degrade
from degrade.cli.completion import runs_or_networks
from degrade.config import DataConfig
from degrade.data import load_images
from degrade.data.batches import single_view
from degrade.data.sources import CLASSES, data_root
from degrade.errors import ConfigError, DatasetError, RunConflictError, RunError
from degrade.extras import installed
from degrade.runs import RunRecord, library
from degrade.runs.evaluation import restored
from degrade.runs.library import networks
from degrade.runs.trained import Trained, joined, trained
from degrade.runs.weights import keep, of_record
from tests.conftest import SMALL, Cli
from tests.conftest import Trained as Train
from tests.records import finished

#: The smoke recipe's, averaged down as the short recipe's images are.
HALVED = ("model=residual", "data.pixels=16")
NAME = "residual-8-smoke,data=synthetic,data.pixels=16,data.test_limit=40,data.train_limit=90"


@pytest.fixture
def kept(trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunRecord, str, Path]:
    """A record, the name under which its network is kept, and the folder, which is degrade's for the test."""
    record, folder = trained(*HALVED), tmp_path / "networks"
    entry = keep(record, folder)
    monkeypatch.setattr(library, "networks_dir", lambda: folder)
    return record, entry.name, folder


def raw(count: int) -> Any:
    """The first raw test images of the synthetic set, uint8 count x 3 x 32 x 32, and none averaged down."""
    from degrade.config import compose

    return load_images(compose(["data=synthetic", *SMALL[2:4]]).data).test_images[:count]


def test_the_index_says_what_the_record_says(kept: tuple[RunRecord, str, Path]) -> None:
    record, name, folder = kept
    (entry,) = networks(folder).values()
    assert (entry.name, entry.recipe, entry.iterations, entry.seed) == (name, "smoke", 24, 0)
    assert entry.test_error == record.summary["test_error"]
    assert entry.train_error_clean == record.summary["train_error_clean"]
    assert entry.sha256 == hashlib.sha256((folder / entry.file).read_bytes()).hexdigest()
    assert entry.record == str(record.path.relative_to(record.path.parents[2]))
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert keep(record, folder) == entry  # and no byte changes
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == before


def test_names_tell_recipe_and_seed(trained: Train, tmp_path: Path) -> None:
    first, second = (keep(trained(*HALVED, *words), tmp_path).name for words in ((), ("seed=1",)))
    assert (first, second) == (NAME, f"{NAME},seed-1")
    assert list(networks(tmp_path)) == [NAME, f"{NAME},seed-1"]


def test_a_run_that_is_not_complete_is_not_kept(tmp_path: Path) -> None:
    record = finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2, status="interrupted")
    with pytest.raises(RunError, match=r"seed-0: is interrupted; only a complete run's network is kept"):
        keep(record, tmp_path / "networks")
    assert not (tmp_path / "networks").exists()


@pytest.mark.parametrize("classes", [("a hill", "the sea"), ("sea, calm", 'the "hill"'), ("one",)])
def test_names_of_classes_are_kept_whole(classes: tuple[str, ...]) -> None:
    facts = {"class_names": joined(classes)}
    assert Trained("own", {}, torch.zeros(3, 32, 32), facts).classes == classes


def test_a_loaded_network_gives_the_logits_of_the_run(kept: tuple[RunRecord, str, Path]) -> None:
    record, name, _ = kept
    images = load_images(record.experiment.data)
    model: nn.Module = restored(record, record.experiment, images).engine.model.eval()
    network, whole = degrade.load(name), degrade.classifier(name)
    assert not network.training
    assert not whole.training
    assert whole.classes == images.classes
    with torch.no_grad():
        expected = model(single_view(images.test_images, images.mean))
        ours = network(images.test_images.float() / 255 - images.mean)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        # From raw images, averaged down to 16 pixels inside.
        torch.testing.assert_close(whole(raw(40)), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(whole.prepared(raw(40)), images.test_images.float() / 255 - images.mean)
        assert torch.equal(whole(raw(40)), whole(images.test_images))


def test_pixels_of_another_kind_are_refused_in_one_line(kept: tuple[RunRecord, str, Path]) -> None:
    whole = degrade.classifier(kept[1])
    for wrong in (raw(2).float(), raw(2)[0], raw(2)[:, :1], raw(2)[..., :24, :24], raw(2)[..., :16]):
        with pytest.raises(DatasetError, match=r"^pixels of \w+ [\dx ]+: write uint8 N x 3 x 16 x 16.*down$"):
            whole(wrong)


def test_a_name_is_evaluated_as_its_run_is(kept: tuple[RunRecord, str, Path], cli: Cli) -> None:
    record, name, _ = kept
    for words in ((), ("--statistics", "batch", "--augmented")):
        by_run, by_name = cli("evaluate", str(record.path), *words), cli("evaluate", name, *words)
        assert by_name.code == 0, by_name.err
        first, rest = by_name.out.split("\n", 1)
        assert first == f"{name}, iteration 24 (synthetic data)"
        assert rest == by_run.out.split("\n", 1)[1]


def test_a_folder_of_the_name_comes_first(kept: tuple[RunRecord, str, Path], cli: Cli, tmp_path: Path) -> None:
    record, name, _ = kept
    record.path.parent.rename(tmp_path / name)
    assert cli("evaluate", name).out.startswith(f"{name}/seed-0, iteration 24")
    assert cli("evaluate", f"./{name}").out.startswith(f"{name}/seed-0, iteration 24")


def test_a_network_is_evaluated_on_a_device_that_is_there(kept: tuple[RunRecord, str, Path], cli: Cli) -> None:
    assert "training error, clean" in cli("evaluate", kept[1], "--device", "cpu").out
    refused = cli("evaluate", kept[1], "--device", "cda")
    assert (refused.code, refused.err) == (
        2,
        "degrade: runtime.device=cda: choose one of auto, cpu, cuda, cuda:N, mps\n",
    )


def test_a_shell_completes_names(kept: tuple[RunRecord, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept[2])
    assert runs_or_networks("resid") == [kept[1]]
    assert runs_or_networks("x") == []


def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    kept: tuple[RunRecord, str, Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (["evaluate"], ["export", "--weights"], ["export", "--onnx"]):
        outcome = cli(*command, "plain-56")
        assert outcome.code == 2
        assert outcome.err == (
            f"degrade: plain-56: no such run, nor a trained network that comes with degrade; there are {kept[1]}\n"
        )
    with pytest.raises(ConfigError, match=rf"^plain-56: neither a file nor .*; there are {NAME}$"):
        degrade.load("plain-56")
    monkeypatch.setattr(library, "networks_dir", lambda: tmp_path / "nowhere")
    assert cli("evaluate", "plain-56").err.endswith("this installation has none\n")
    assert degrade.networks() == {}


def test_a_name_without_its_recipe_is_the_longest_trained_network_so_called(
    kept: tuple[RunRecord, str, Path], cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    _, name, folder = kept
    entry, short = library.networks()[name], name.replace("-smoke", "")
    for other in (
        replace(entry, name=name.replace("smoke", "brief"), recipe="brief", iterations=entry.iterations - 1),
        replace(entry, name=f"{name},seed-1", seed=1, iterations=10**6),
        replace(entry, name=name.replace("residual-8", "residual-80"), iterations=10**6),
    ):
        library.add(other, folder)
    said = f"{short}: {name} is taken (recipe smoke, 24 updates)"
    network, same = degrade.load(short), degrade.load(name)
    assert [own.getMessage() for own in caplog.records] == [said]
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), same.parameters(), strict=True))
    assert cli("evaluate", short).out.startswith(f"{said}\n{name}, iteration 24 (synthetic data)\n")
    library.add(replace(entry, name=short, recipe="paper"), folder)
    assert cli("evaluate", short).out.startswith(f"{short}, iteration 24")


def test_what_is_damaged_is_named(kept: tuple[RunRecord, str, Path], cli: Cli) -> None:
    _, name, folder = kept
    file = folder / f"{name}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError, match=r"safetensors is damaged \(SHA-256 .*, in the index .*reinstall"):
        degrade.load(name)
    outcome = cli("evaluate", name)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    file.unlink()
    with pytest.raises(RunError, match="is missing: reinstall"):
        degrade.load(name)
    for broken in ("{", "{}", "[]", '{"networks": {"a": {"file": "a"}}}', '{"networks": {"a": 3}}'):
        (folder / "index.json").write_text(broken)
        with pytest.raises(RunError, match=r"index\.json is damaged"):
            degrade.load(name)


def test_a_file_of_ones_own_is_loaded_by_its_path(trained: Train, cli: Cli, tmp_path: Path) -> None:
    record, path = trained(*HALVED), tmp_path / "own.safetensors"
    network = of_record(record)
    network.save(path)
    assert network.facts["recipe"] == "smoke"
    images = load_images(record.experiment.data)
    with torch.no_grad():
        logits = degrade.load(path)(single_view(images.test_images, images.mean))
        whole = degrade.classifier(str(path))(images.test_images)
    torch.testing.assert_close(whole, logits, rtol=1e-4, atol=1e-5)
    evaluated = cli("evaluate", "own.safetensors")
    assert evaluated.out.startswith("own.safetensors, iteration 24 (synthetic data)\n"), evaluated.err
    (tmp_path / "torn.safetensors").write_bytes(path.read_bytes()[:100])
    save_file({"input_mean": torch.zeros(3, 32, 32)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    for wrong in ("torn.safetensors", "foreign.safetensors", str(record.path / "config.yaml")):
        assert "is no whole file of `degrade export --weights`" in cli("evaluate", wrong).err
    with pytest.raises(ConfigError, match="a folder; write its run's network"):
        degrade.load(record.path)


def test_settings_of_the_machine_do_not_travel(trained: Train) -> None:
    own = of_record(trained(*HALVED)).experiment
    assert (own.output, own.runtime.precision, own.data.root) == ("outputs", "auto", None)
    assert (own.data.pixels, own.recipe.iterations, own.model.family) == (16, 24, "residual")


def test_other_images_and_unfitting_tensors_are_refused(trained: Train) -> None:
    network = of_record(trained(*HALVED))
    other = replace(network, facts={**network.facts, "data_hash": "0" * 64})
    with pytest.raises(RunConflictError, match="was trained on other images"):
        other.restored(network.experiment, load_images(network.experiment.data))
    settings = json.loads(network.facts["config"])
    settings["model"]["depth"] = 14
    with pytest.raises(RunError, match="its tensors do not fit its settings"):
        replace(network, facts={**network.facts, "config": json.dumps(settings)}).network()
    settings["model"] |= {"depth": 8, "activation": "{_target_: subprocess.Popen, args: touch x, shell: true}"}
    with pytest.raises(RunError, match="is code that the file doesn't hold; give its file by --with"):
        replace(network, facts={**network.facts, "config": json.dumps(settings)}, trusted=False).network()
    earlier = replace(network, facts={key: own for key, own in network.facts.items() if key != "config"})
    with pytest.raises(RunError, match="lacks its settings, as files of an earlier version do"):
        earlier.network()


def test_a_setting_that_the_file_lacks_or_that_is_unknown_is_no_matter(trained: Train) -> None:
    """As with records: files stay readable when settings are added, and when a later version has written them."""
    network = of_record(trained(*HALVED))
    settings = json.loads(network.facts["config"])
    del settings["model"]["bn_scale"]
    settings["model"]["unheard_of"] = "of"
    read = replace(network, facts={**network.facts, "config": json.dumps(settings)})
    assert read.experiment == network.experiment


# What comes with degrade

#: The documentation's script, from the file of an image to the name of a class.
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "export.md"
SCRIPT = PAGE.read_text().split("<!-- classify -->\n```python\n")[1].split("```")[0]

OWN = networks()


def test_the_folder_holds_what_the_index_lists() -> None:
    folder = library.networks_dir()
    assert {path.name for path in folder.iterdir()} == {"index.json", *(own.file for own in OWN.values())}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6


@pytest.mark.parametrize("name", OWN)
def test_a_network_of_the_index_loads_and_says_what_the_index_says(name: str) -> None:
    network, entry = trained(name), OWN[name]
    own = network.experiment
    assert (own.recipe.name, own.recipe.iterations, own.seed) == (entry.recipe, entry.iterations, entry.seed)
    assert float(network.facts["test_error"]) == entry.test_error
    assert network.mean.shape == (3, own.data.pixels, own.data.pixels)
    with torch.no_grad():
        logits = network.classifier()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.skipif(
    not (data_root(DataConfig()) / "cifar10-prepared").is_dir(), reason="no CIFAR-10; `degrade data fetch` keeps it"
)
def test_a_network_of_the_index_has_the_errors_of_the_index_on_cifar10(cli: Cli) -> None:
    entry, outcome = OWN["plain-20-short"], cli("evaluate", "plain-20-short", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    printed = re.findall(r"^(?:training error, clean|test error) +([\d.]+)%$", outcome.out, re.MULTILINE)
    found = [float(percent) / 100 for percent in printed]
    # Two decimals of a percent are printed; another CPU's rounding may move two images of ten thousand.
    assert found == pytest.approx([entry.train_error_clean, entry.test_error], abs=2.5e-4)


def test_torch_is_imported_when_a_network_is_loaded() -> None:
    words = "import sys, degrade; degrade.networks(); print('torch' in sys.modules, sorted(degrade.__all__))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "False ['classifier', 'load', 'networks']\n"
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        degrade.laod  # noqa: B018


def test_the_script_of_the_documentation_names_a_class(tmp_path: Path) -> None:
    Image.fromarray(np.full((48, 60, 3), 127, np.uint8)).save(tmp_path / "grey.png")
    command = [sys.executable, "-c", SCRIPT, "grey.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in CLASSES


# ONNX

needs_onnx = pytest.mark.skipif(
    not all(map(installed, ("onnx", "onnxscript", "onnxruntime"))), reason="no extra [onnx], or no onnxruntime"
)


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@needs_onnx
@pytest.mark.parametrize(
    "words",
    [HALVED, ("model=residual", "model.shortcut=B"), ("model=plain", "model.norm=none")],
    ids=["shortcut A, 16 pixels", "shortcut B", "without batch norm"],
)
def test_onnx_gives_the_logits_of_pytorch(words: tuple[str, ...], trained: Train, cli: Cli, tmp_path: Path) -> None:
    record = trained(*words)
    outcome = cli("export", "--onnx", str(record.path), "--output", "deep/n.onnx")
    assert outcome.out.endswith("iteration 24 (synthetic data)\nonnx: deep/n.onnx\n"), outcome.err
    whole = of_record(record).classifier()
    loaded = session(tmp_path / "deep/n.onnx")
    for count in (1, 7):
        (logits,) = loaded.run(["logits"], {"pixels": raw(count).numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, whole(raw(count)).numpy(), rtol=1e-4, atol=1e-5)
    facts = loaded.get_modelmeta().custom_metadata_map
    assert (facts["depth"], facts["recipe"], facts["data"]) == ("8", "smoke", "synthetic")


@needs_onnx
def test_onnx_of_a_name_needs_no_images_and_lies_here(kept: tuple[RunRecord, str, Path], cli: Cli) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = cli("export", "--onnx", kept[1])
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == f"onnx: {kept[1]}.onnx"
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--onnx", "--weights", "x"), "--weights --onnx: one kind of file at a time"),
        (("--onnx",), "--onnx: takes one run's directory or one network's name, not none"),
        (
            ("--onnx", "x", "--format", "csv"),
            "--format csv: is for tables, and --onnx writes a network; leave it out",
        ),
    ],
)
def test_bad_words_for_onnx_are_one_line(words: tuple[str, ...], said: str, cli: Cli) -> None:
    outcome = cli("export", *words)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert said in outcome.err


def test_a_missing_onnx_says_what_installs_it(
    kept: tuple[RunRecord, str, Path], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degrade.extras.installed", lambda _: False)
    outcome = cli("export", "--onnx", kept[1])
    assert outcome.code == 2
    assert "--onnx needs onnx, which is not installed: pip install onnx, or pip install '.[onnx]'" in outcome.err
