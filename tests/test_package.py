import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from degrade import __version__
from degrade.config.groups import config_dir
from degrade.runs.library import networks, networks_dir
from tests.conftest import SMALL

ROOT = Path(__file__).resolve().parents[1]

#: Where the scripts of the tests' own environment are.
BIN = sysconfig.get_path("scripts")

PUBLIC = {
    "degrade": "classifier load networks",
    "degrade.config": "Experiment ModelConfig DataConfig OptimConfig RecipeConfig RuntimeConfig compose",
    "degrade.models": "BasicBlock CifarNet Classifier VggNet build_model",
    "degrade.data": "load_images ImageSet Batches",
    "degrade.training": "fit Metrics learning_rate",
    "degrade.runs": "RunRecord run",
    "degrade.analysis": "error_curves draw_figure1 draw_figure6 verdict",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_exported_and_documented(module: str) -> None:
    imported = importlib.import_module(module)
    for name in PUBLIC[module].split():
        assert name in imported.__all__
    for name in imported.__all__:
        assert getattr(imported, name).__doc__, f"{module}.{name}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `python -m build` does: a source distribution, and the wheel from that."""
    pytest.importorskip("build", reason="no extra [dev]")
    made = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(made.glob("*.whl"))


def test_a_wheel_holds_what_is_read_beside_the_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("configs", "networks"):
        top = config_dir() if folder == "configs" else networks_dir()
        found = {f"degrade/{folder}/{path.relative_to(top)}" for path in top.rglob("*") if path.is_file()}
        assert found
        assert found <= names
    code = {path for path in (ROOT / "src/degrade").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {str(path.relative_to(ROOT / "src")) for path in code} <= names  # page templates and py.typed too
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel, and nothing else of degrade.

    It sees the packages of the tests' own environment, since PyTorch takes gigabytes to install, but not the
    checkout: Python reads no .pth file of a folder that a .pth file names.
    """
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python.parent


def test_what_is_imported_is_among_the_dependencies() -> None:
    """The bare environment above borrows packages, and would not miss one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: own for name, own in project["optional-dependencies"].items() if name != "dev"}
    needed, optional = (
        {re.split(r"[^\w.-]", own)[0].lower() for own in listed}
        for listed in (project["dependencies"], [*extras, *(own for listed in extras.values() for own in listed)])
    )
    holders, imported = packages_distributions(), set[str]()
    for path in (ROOT / "src" / "degrade").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [own.name for own in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for module in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"degrade"}:
                held = {own.lower() for own in holders.get(module, [module])}  # an extra may not be installed
                # An import inside a function may be of an extra; one at the top is made by everybody.
                assert held & (needed if node in tree.body else needed | optional), f"{path}: {module}"
                imported |= held
    assert needed <= imported, "nothing imports one of the dependencies"


def outside(command: Sequence[str | Path], folder: Path) -> str:
    """What a command prints in a folder, without anything that leads to the checkout."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment = {**kept, "OMP_NUM_THREADS": "1", "DEGRADE_DATA": str(folder / "data")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_alone(bare: Path, tmp_path: Path) -> None:
    degrade = bare / "degrade"
    assert outside([degrade, "--version"], tmp_path) == f"degrade {__version__}\n"
    assert "model.depth" in outside([degrade, "settings", "model"], tmp_path)
    assert "vgg-11" in outside([degrade, "reproduce", "vgg_wall", "--dry-run"], tmp_path)
    trained = outside([degrade, "train", *SMALL], tmp_path)
    assert "complete at iteration 24" in trained
    assert "page: report.html" in outside([degrade, "report", "outputs", "--output", "report.html"], tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text()


def test_the_networks_of_the_wheel_load(bare: Path, tmp_path: Path) -> None:
    probe = f"""
import importlib.metadata, pathlib, torch, degrade
assert pathlib.Path(degrade.__file__).is_relative_to({str(bare.parent)!r}), degrade.__file__
assert importlib.metadata.version("degrade") == degrade.__version__
for name in degrade.networks():
    print(name, *degrade.classifier(name)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape)
"""
    said = outside([bare / "python", "-c", probe], tmp_path)
    assert said.splitlines() == [f"{name} 1 10" for name in networks()]


DOCKER = sorted((ROOT / "scripts" / "docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("path", DOCKER, ids=lambda path: path.stem)
def test_a_dockerfile_copies_what_is_there_and_runs_degrade(path: Path) -> None:
    lines = path.read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert [word for word, _ in steps if word in ("FROM", "ENTRYPOINT", "USER")] == ["FROM", "USER", "ENTRYPOINT"]
    assert dict(steps)["ENTRYPOINT"] == '["degrade"]'
    for sources in (rest.split()[:-1] for word, rest in steps if word == "COPY"):
        assert all((ROOT / source).exists() for source in sources)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(path.read_text().splitlines()) <= 15
    assert re.findall(r'"(torch[^"]+)"', path.read_text()) == [own for own in needed if own.startswith("torch")]
    # All that the wheel is built of is there.
    copied = {source.rstrip("/") for word, rest in steps if word == "COPY" for source in rest.split()[:-1]}
    assert {"pyproject.toml", "README.md", "LICENSE", "src", "configs", "outputs/reference/networks"} <= copied


@pytest.mark.skipif(not DOCKER or shutil.which("hadolint", path=BIN) is None, reason="no hadolint; extra [dev]")
def test_dockerfiles_are_linted() -> None:
    done = subprocess.run(["hadolint", *DOCKER], env={"PATH": BIN}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_no_registry_host_is_named() -> None:
    hosts = ["registry.npmjs" + ".org", "pypi" + ".org", "files.pythonhosted" + ".org"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", "") and path.is_file():
            text = path.read_text(errors="replace")
            assert not any(host in text for host in hosts), name


def test_the_tables_of_the_pages_are_those_of_the_records() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tables.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
