import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PUBLIC = {
    "degrade.config": "Experiment ModelConfig DataConfig OptimConfig RecipeConfig RuntimeConfig compose",
    "degrade.models": "BasicBlock CifarNet VggNet build_model",
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


def test_a_wheel_holds_the_configs_and_finds_them(tmp_path: Path) -> None:
    """Built, unpacked away from the checkout, and used from there."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"degrade/configs/{path.relative_to(ROOT / 'configs')}" in names
    assert {"degrade/py.typed", "degrade/analysis/page.html", "degrade/analysis/page.js"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    probe = "from degrade.config.compose import config_dir, compose; print(config_dir()); compose(['recipe=quick'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    used = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert used.returncode == 0, used.stderr
    assert used.stdout.strip() == str(tmp_path / "site" / "degrade" / "configs")


def test_no_registry_host_is_named() -> None:
    hosts = ["registry.npmjs" + ".org", "pypi" + ".org", "files.pythonhosted" + ".org"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", "") and path.is_file():
            text = path.read_text(errors="replace")
            assert not any(host in text for host in hosts), name


def test_the_tables_of_the_pages_are_those_of_the_records() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tables.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
