"""A thousand records; docs/speed.md says how long each command takes on them."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from degrade.config import compose
from degrade.config.compose import expand
from degrade.runs.many import plan
from tests.records import finished

#: Runs a command line and says its exit code and greatest memory in MiB behind what it printed.
MEASURED = """
import pathlib, re, sys
from degrade.cli import main
code = main(sys.argv[1:])
status = pathlib.Path("/proc/self/status")  # resource's maximum would be that of pytest, which started this
found = re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()) if status.exists() else None
print(code, int(found[1]) // 1024 if found else 0, file=sys.stderr)
"""

NETWORKS = {"plain-20": (1.3, 9.7), "plain-56": (5.0, 12.5), "residual-20": (0.7, 8.6), "residual-56": (0.14, 7.2)}


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs: four networks, 250 seeds each, every fifth with as many rows as the paper's recipe."""
    root = tmp_path_factory.mktemp("thousand")
    rng = np.random.default_rng(0)
    for network, (train, test) in NETWORKS.items():
        for seed in range(250):
            errors = abs(rng.normal(train, train / 10)) / 100, rng.normal(test, 0.3) / 100
            finished(root / "outputs", network, seed, *errors, rows=20 if seed % 5 else 164)
    return root


def measured(folder: Path, *arguments: str) -> tuple[str, int]:
    """What a command prints, and its greatest memory in MiB (0 but on Linux); it must do without torch."""
    (folder / "torch.py").write_text("raise ImportError('torch was imported')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    command = [sys.executable, "-c", MEASURED, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    code, memory = done.stderr.split()[-2:]
    assert code == "0", done.stderr
    return done.stdout, int(memory)


def test_runs_lists_a_thousand(thousand: Path) -> None:
    text, memory = measured(thousand, "runs")
    assert text.count(" complete ") == 1000
    assert memory < 400
    rows = list(csv.DictReader(io.StringIO(measured(thousand, "runs", "--format", "csv")[0])))
    assert len({row["run"] for row in rows}) == 1000
    assert 0.125 - 0.003 < np.mean([float(row["test_error"]) for row in rows if "plain-56" in row["run"]]) < 0.128


def test_plot_draws_a_thousand(thousand: Path) -> None:
    text, memory = measured(thousand, "plot")
    assert (thousand / "outputs/paper/figure.png").stat().st_size > 10_000
    assert [line.split()[1] for line in text.splitlines()[1:5]] == ["250"] * 4
    assert memory < 400


def test_verify_judges_a_thousand(thousand: Path) -> None:
    text, memory = measured(thousand, "verify", "--json")
    (found,) = json.loads(text)["verdicts"]
    assert (found["outcome"], found["qualifiers"]) == ("reproduced", [])
    low, high = found["claims"][0]["low"], found["claims"][0]["high"]
    assert low < 0.037 < high
    assert high - low < 0.002
    assert memory < 400


def test_export_writes_a_thousand(thousand: Path) -> None:
    text, memory = measured(thousand, "export")
    assert text.count("\n") == 1 + (200 * 164 + 800 * 20) * 7 + 1000
    assert memory < 400


def test_a_finished_run_is_answered_without_torch(thousand: Path) -> None:
    text, _ = measured(thousand, "train", "--plain", "--depth", "56", "--seed", "7")
    assert "already complete, skipped" in text
    assert "record: outputs/paper/plain-56/seed-7" in text


def test_sweep_skips_a_thousand(thousand: Path) -> None:
    text, _ = measured(thousand, "sweep", "model=plain,residual", "model.depth=20,56", "seed=range(250)", "--dry-run")
    assert text.count("skip    outputs/paper/") == 1000


def test_a_thousand_different_cells_are_planned_in_seconds(tmp_path: Path) -> None:
    started = time.process_time()
    swept = ["optim.lr=range(0.001,1.001,0.001)", f"output={tmp_path}"]
    assert len(plan([compose(words) for words in expand(swept)])) == 1000
    assert time.process_time() - started < 20  # 2 s on an idle core; 140 s when Hydra composed each
