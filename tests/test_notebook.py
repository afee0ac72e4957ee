"""The notebook: it says what its cells show, and runs from training to figure at the smallest size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
ROOT = Path(__file__).parents[1]


def run(*words: str, **more: str) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "notebook.py"), *words]
    done = subprocess.run(script, env={**os.environ, **more}, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_notebook_is_what_its_cells_show() -> None:
    run("--check")


def test_the_notebook_trains_and_draws(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    small = "recipe=smoke recipe.iterations=4 eval.every=2 runtime.precision=fp32"
    small += " data=synthetic data.pixels=8 data.train_limit=64 data.test_limit=32"
    run("--run", str(tmp_path), DEGRADE_NOTEBOOK=small)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(list(tmp_path.glob("outputs/smoke/*/seed-0"))) == 4
