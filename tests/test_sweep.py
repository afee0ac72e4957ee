import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from degrade.errors import ConfigError
from degrade.extras import installed
from degrade.runs import RunRecord, find_records
from degrade.runs import launchers as launchers_module
from degrade.runs.launchers import NEEDS, choose_launcher
from degrade.runs.progress import SweepBar
from degrade.runs.sweep import plan
from tests.conftest import SMALL, Outcome, small_but

Cli = Callable[..., Outcome]

JOBLIB = pytest.param(
    ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    id="joblib",
    marks=pytest.mark.skipif(not installed(str(NEEDS["joblib"][2])), reason="no extra [joblib]"),  # type: ignore[index]
)


def start(folder: Path, *words: str, start_new_session: bool = False) -> subprocess.Popen[str]:
    """`degrade sweep` as a user starts it; in a session of its own all its processes can be sent a signal."""
    command = [sys.executable, "-m", "degrade", "sweep", *small_but(*words)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, start_new_session=start_new_session, **pipes)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows_at(seed: int, folder: Path) -> int:
    found = [path for path in folder.rglob("metrics.jsonl") if path.parent.name == f"seed-{seed}"]
    return len(found[0].read_text().splitlines()) if found else 0


def trainers(of: subprocess.Popen[str], folder: Path) -> dict[str, int]:
    """The processes that train below `folder`: by the record's name, their ids."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"degrade.runs.cell" not in (process / "cmdline").read_bytes():
                continue
            if (process / "cwd").resolve() != folder.resolve():
                continue
            for link in (process / "fd").iterdir():
                if link.resolve().name == "train.log":
                    found[link.resolve().parent.name] = int(process.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("launcher", [pytest.param([], id="basic"), JOBLIB])
def test_a_sweep_trains_every_cell_into_its_own_record_and_skips_it_afterwards(
    launcher: list[str], cli: Cli, tmp_path: Path
) -> None:
    words = [*SMALL, "model=plain,residual", *launcher]
    outcome = cli("sweep", *words)
    assert outcome.code == 0
    assert "2 cells: 2 complete" in outcome.out
    records = find_records([tmp_path / "outputs"])
    assert [(r.config["model"]["family"], r.status) for r in records] == [
        ("plain", "complete"),
        ("residual", "complete"),
    ]
    assert all("eager" in (r.path / "train.log").read_text() for r in records)
    # Nothing of Hydra's is left: the records are all there is.
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["smoke"]
    if launcher:
        cores = len(os.sched_getaffinity(0))
        assert {r.sessions[-1]["threads"] for r in records} == {max(1, cores // 2)}
    before = [r.summary for r in records]
    again = cli("sweep", *words)
    assert again.code == 0
    assert [r.summary for r in records] == before


@pytest.mark.parametrize("launcher", [pytest.param([], id="basic"), JOBLIB])
def test_a_killed_cell_is_lost_alone_and_resumed_by_the_same_command(launcher: list[str], tmp_path: Path) -> None:
    words = ["seed=0,1", "recipe.iterations=200", "eval.every=4", "recipe.milestones=[12]", *launcher]
    process = start(tmp_path, *words)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    os.kill(trainers(process, tmp_path)["seed-0"], signal.SIGKILL)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 1, err
    assert "2 cells: 1 complete, 1 lost" in out
    assert "Traceback" not in err
    records = {r.path.name: r for r in find_records([tmp_path / "outputs"])}
    finished = records["seed-1"].summary
    assert finished["status"] == "complete"

    process = start(tmp_path, *words)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert "2 cells: 2 complete" in out
    assert records["seed-1"].summary == finished
    assert "going on from iteration" in (records["seed-0"].path / "train.log").read_text()
    sessions = [session["first_iteration"] for session in records["seed-0"].sessions]
    assert sessions[0] == 0
    assert sessions[1] >= 12


@pytest.mark.parametrize("launcher", [pytest.param([], id="basic"), JOBLIB])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_checkpoints_and_gives_130(
    number: signal.Signals, launcher: list[str], tmp_path: Path
) -> None:
    process = start(tmp_path, "seed=0,1", "recipe.iterations=4000", "eval.every=4", *launcher)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "sweep stopped; the same command goes on from there" in err
    assert "Traceback" not in err
    assert "interrupted" in out[out.index("2 cells") :]
    record = RunRecord(next(tmp_path.rglob("seed-0")))
    assert record.summary["status"] == "interrupted"
    assert (record.path / "checkpoint.pt").exists()
    assert trainers(process, tmp_path) == {}


@pytest.mark.skipif(not installed(str(NEEDS["joblib"][2])), reason="no extra [joblib]")  # type: ignore[index]
@pytest.mark.parametrize("delay", [0.5, 1.5])
def test_ctrl_c_while_joblibs_workers_start_shows_no_traceback(delay: float, tmp_path: Path) -> None:
    words = ["seed=0,1", "recipe.iterations=4000", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start(tmp_path, *words, start_new_session=True)
    wait_until(lambda: list(tmp_path.rglob(".sweeps/*")), process)
    time.sleep(delay)  # workers import for seconds before they begin a cell
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes hear it
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert err == "degrade: sweep stopped; the same command goes on from there\n"


def test_when_the_sweep_itself_is_killed_its_cells_write_checkpoints_and_end(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", "recipe.iterations=4000", "eval.every=4")
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    record = RunRecord(next(tmp_path.rglob("seed-0")))
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while record.in_use and time.monotonic() < deadline:
        time.sleep(0.05)
    assert record.summary["status"] == "interrupted"


def test_failing_and_diverging_cells_leave_the_others_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bad = cli("sweep", *small_but("data=folder", "data.root=empty", "seed=0"))
    assert bad.code == 1
    assert "1 cells: 1 failed" in bad.out
    assert "DatasetError: data.root=empty: has no folder" in bad.out
    outcome = cli("sweep", *SMALL, "model.norm=none", "optim.lr=1e12,0.01")
    assert outcome.code == 1
    assert "2 cells: 1 complete, 1 diverged" in outcome.out


def test_an_error_that_cannot_be_unpickled_ends_one_cell_only(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python imports this module as it starts: here, in the trainers.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Odd(Exception):\n"
        "    def __init__(self, one, two): super().__init__('odd')\n"
        "def fail(*_, **__): raise Odd(1, 2)\n"
        "if 'degrade.runs.cell' in sys.orig_argv:\n"
        "    import degrade.runs.runner\n"
        "    degrade.runs.runner.fit = fail\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    outcome = cli("sweep", *SMALL, "seed=0,1")
    assert outcome.code == 1
    assert "2 cells: 2 failed" in outcome.out
    assert outcome.out.count("Odd: odd") >= 2


BAD_SWEEPS = [
    (["seed=0,-1"], "seed=-1"),
    (["seed=0,one"], "seed"),
    (["model=plain,residul"], "did you mean residual"),
    (["model.depth=20,57"], "nearest: 56 or 62"),
    (["model.dpth=20,56"], "did you mean model.depth"),
    (["seed=interval(0,1)"], "gives no list of values"),
    (["seed=glob(*)"], "gives no list of values"),
    (["optim.lr=0.1,{"], "cannot be read"),
    (["seed=0,0"], "the same cell twice"),
    (["runtime.threads=1,2"], "two cells would share"),
    (["optim.lr=0.1,1e-1"], "two cells would share"),
    (["output=here,./here"], "two cells would share"),
    (["hydra/launcher=joblb"], "did you mean joblib"),
    (["hydra/launcher="], "choose one of"),
    (["hydra.run.dir=x"], "sweep takes hydra/launcher"),
    (["hydra/launcher=basic", "hydra.launcher.n_jobs=2"], "n_jobs"),
    ([""], "KEY=VALUE"),
    (["seed"], "KEY=VALUE"),
    (["+seed=1,2"], "changed, not added"),
]


@pytest.mark.parametrize(("words", "message"), BAD_SWEEPS, ids=lambda value: " ".join(value)[:30])
def test_bad_cells_are_refused_before_any_starts(words: list[str], message: str, cli: Cli, tmp_path: Path) -> None:
    outcome = cli("sweep", *words)
    assert outcome.code == 2
    assert outcome.err.startswith("degrade: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_settings_that_conflict_with_a_record_are_refused_before_any_starts(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *SMALL, "name=mine", "seed=1").code == 0
    outcome = cli("sweep", *small_but("name=mine", "recipe=short", "seed=0,1"))
    assert outcome.code == 2
    assert "holds a run of other settings" in outcome.err
    assert len(find_records([tmp_path])) == 1


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "slurm", "ray"])
def test_a_missing_extra_gives_the_pip_line(name: str, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr(launchers_module, "installed", lambda _: False)
    outcome = cli("sweep", f"hydra/launcher={name}", "seed=0,1")
    assert outcome.code == 2
    assert f"pip install {NEEDS[name][1]}" in outcome.err  # type: ignore[index]
    assert outcome.err.count("\n") == 1


def test_every_cell_has_a_record_of_its_own_whatever_is_swept() -> None:
    long = "x" * 200
    planned = plan(
        ["data=folder", f"data.root='a/b','a_b','a=b',\"it's\",'say \"so\"','a,b','a b',{long},{long}y", "seed=0,1"]
    )
    paths = {cell.record.path for cell in planned.cells}
    assert len(planned.cells) == len(paths) == 18
    assert all(len(part) <= 120 for path in paths for part in path.parts)
    assert {cell.experiment.data.root for cell in planned.cells} >= {"a/b", "it's", 'say "so"', "a,b", "a b"}


def test_dry_run_prints_the_cells_and_trains_nothing(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("sweep", "model=plain,residual", "model.depth=20,56", "seed=range(3)", "--dry-run")
    assert outcome.code == 0
    assert outcome.out.count("train   outputs/paper/") == 12
    assert "12 cells, launcher basic" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_fresh_starts_every_cell_over(cli: Cli, tmp_path: Path) -> None:
    assert cli("sweep", *SMALL, "seed=0").code == 0
    [record] = find_records([tmp_path])
    before = (record.path / "config.yaml").stat().st_mtime_ns
    assert cli("sweep", *SMALL, "seed=0", "--fresh").code == 0
    assert (record.path / "config.yaml").stat().st_mtime_ns != before
    assert len(record.sessions) == 1


@pytest.mark.skipif(not installed(str(NEEDS["joblib"][2])), reason="no extra [joblib]")  # type: ignore[index]
def test_joblib_divides_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    joblib = "hydra/launcher=joblib"
    assert choose_launcher([joblib], 12, "cpu").threads == 1
    assert choose_launcher([joblib], 3, "cpu").threads == 2
    assert choose_launcher([joblib, "hydra.launcher.n_jobs=2"], 12, "cpu").threads == 4
    assert "hydra.launcher.n_jobs=1" in choose_launcher([joblib], 12, "cuda").overrides
    with pytest.raises(ConfigError, match="whole number"):
        choose_launcher([joblib, "hydra.launcher.n_jobs=0"], 12, "cpu")


def test_a_launcher_that_cannot_launch_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no cluster here\nat all")

    monkeypatch.setattr("degrade.runs.sweep._multirun", broken)
    outcome = cli("sweep", *SMALL, "seed=0,1")
    assert outcome.code == 2
    assert outcome.err == "degrade: hydra/launcher=basic: RuntimeError: no cluster here\n"


def test_a_launcher_that_breaks_down_on_the_way_launches_the_rest_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaking(cells: list[Any], *_: Any) -> None:
        record = cells[0].record
        record.path.mkdir(parents=True)
        record.begin(cells[0].experiment, {}, {"first_iteration": 0}, resumed=False)
        record.summarise(status="complete", iteration=24)
        if len(cells) > 1:
            raise RuntimeError("a worker died")

    monkeypatch.setattr("degrade.runs.sweep._multirun", breaking)
    outcome = cli("sweep", *SMALL, "seed=0,1,2")
    assert outcome.code == 0
    assert outcome.out.count("launching what is unfinished once more") == 2
    assert "3 cells: 3 complete" in outcome.out


def test_the_bar_counts_what_records_say(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    planned = plan([*SMALL, "seed=0,1,2"])
    first, second, third = (cell.record for cell in planned.cells)
    for record in (first, second, third):
        record.path.mkdir(parents=True)
    third.summarise(status="failed", iteration=3, error="long ago")
    bar = SweepBar([(cell.experiment, cell.record) for cell in planned.cells])
    with bar:
        first.summarise(status="complete", iteration=24, test_error=0.5)
        second.summarise(status="failed", iteration=6, error="out of luck")
    counts = bar._count()
    assert (counts["complete"], counts["failed"], counts["waiting"]) == (1, 1, 1)


def test_the_last_word_is_the_records_not_the_launchers(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("degrade.runs.sweep._multirun", lambda *_: None)
    outcome = cli("sweep", *SMALL, "seed=0,1")
    assert outcome.code == 1
    assert "2 cells: 2 lost" in outcome.out
