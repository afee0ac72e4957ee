import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from degrade import progress
from degrade.config import Experiment, compose
from degrade.config.compose import expand
from degrade.config.launcher import Launcher, Local, Ray, Slurm, SubmititLocal
from degrade.extras import installed
from degrade.runs import RunRecord, find_records, launchers, observers
from degrade.runs.many import Cell, plan
from tests.conftest import SMALL, Cli, small_but

needs_submitit = pytest.mark.skipif(not installed("submitit"), reason="no extra [slurm]")


def start(folder: Path, *words: str, start_new_session: bool = False) -> subprocess.Popen[str]:
    """`degrade sweep` as a user starts it; in a session of its own all its processes can be sent a signal."""
    command = [sys.executable, "-m", "degrade", "sweep", *small_but(*words)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, start_new_session=start_new_session, **pipes)


def cells_of(*words: str) -> list[Cell]:
    return plan([compose(cell) for cell in expand(words)])


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()  # else it would train on beside the tests that follow
            pytest.fail("what was waited for has not come")
        time.sleep(0.02)


def rows_at(seed: int, folder: Path) -> int:
    found = [path for path in folder.rglob("metrics.jsonl") if path.parent.name == f"seed-{seed}"]
    return len(found[0].read_text().splitlines()) if found else 0


def workers(folder: Path) -> list[Path]:
    """The processes in which cells below `folder` are trained, or will be."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"degrade.runs.worker" in (process / "cmdline").read_bytes():
                found += [process] * ((process / "cwd").resolve() == folder.resolve())
    return found


def trainers(of: subprocess.Popen[str], folder: Path) -> dict[str, int]:
    """The processes that train below `folder`: by the record's name, their ids."""
    found = {}
    for process in workers(folder):
        try:
            for link in (process / "fd").iterdir():
                if link.resolve().name == "train.log":
                    found[link.resolve().parent.name] = int(process.name)
        except OSError:
            continue
    return found


def test_a_sweep_trains_every_cell_into_its_own_record_and_skips_it_afterwards(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "TOLD", 0)
    (tmp_path / "queue.py").write_text("raise ImportError('no queue of Python')\n")
    words = [*SMALL, "model=plain,residual", "launcher.jobs=2"]
    outcome = cli("sweep", *words)
    assert outcome.code == 0, outcome
    assert "2 cells: 2 complete" in outcome.out
    assert "2/2  " in outcome.out
    assert re.search(r"^0/2 cells(, 1/2 running)?.*: 0%, an unknown time left$", outcome.out, re.MULTILINE)
    assert "24/24  training error" in outcome.out  # what the cells' logs say is told here
    records = find_records([tmp_path / "outputs"])
    assert [(r.experiment.model.family, r.status) for r in records] == [
        ("plain", "complete"),
        ("residual", "complete"),
    ]
    assert all("eager" in (r.path / "train.log").read_text() for r in records)
    # Nothing of the launcher's is left: the records are all there is.
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "queue.py"}
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["smoke"]
    cores = len(os.sched_getaffinity(0))
    assert all(1 <= r.sessions[-1]["threads"] <= max(1, cores // 2) for r in records)  # fewer beside other work
    before = [r.summary for r in records]
    again = cli("sweep", *words)
    assert again.code == 0
    assert "2 of 2 finished already, skipped" in again.out
    assert [r.summary for r in records] == before


@needs_submitit
def test_submitit_trains_cells_on_this_machine_too(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise ImportError('no queue of Python')\n")
    outcome = cli("sweep", *SMALL, "seed=0,1", "launcher=submitit_local", "launcher.timeout_min=3")
    assert outcome.code == 0, outcome
    assert "2 cells: 2 complete" in outcome.out
    assert {r.sessions[-1]["threads"] for r in find_records([tmp_path / "outputs"])} == {1}
    assert list(tmp_path.glob("outputs/.sweeps/*/*/*_log.out"))


def test_a_killed_cell_is_lost_alone_and_resumed_by_the_same_command(tmp_path: Path) -> None:
    """Another cell trains beside it, and a third one begins where it was killed, in a new process."""
    words = ["seed=0,1,2", "recipe.iterations=100", "eval.every=4", "recipe.milestones=[12]", "data.pixels=8"]
    words.append("launcher.jobs=2")
    process = start(tmp_path, *words)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    os.kill(trainers(process, tmp_path)["seed-0"], signal.SIGKILL)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 1, err
    assert "3 cells: 2 complete, 1 lost" in out
    assert "Traceback" not in err
    records = {r.path.name: r for r in find_records([tmp_path / "outputs"])}
    others = [records[f"seed-{seed}"] for seed in (1, 2)]
    before = [record.summary for record in others]
    assert [summary["status"] for summary in before] == ["complete"] * 2

    process = start(tmp_path, *words)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert "3 cells: 3 complete" in out
    assert [record.summary for record in others] == before
    assert "going on from iteration" in (records["seed-0"].path / "train.log").read_text()
    sessions = [session["first_iteration"] for session in records["seed-0"].sessions]
    assert sessions[0] == 0
    assert sessions[1] >= 12


@pytest.mark.parametrize(
    ("number", "launcher"),
    [
        (signal.SIGTERM, "launcher.jobs=2"),
        (signal.SIGHUP, "launcher.jobs=1"),
        pytest.param(signal.SIGINT, "launcher=submitit_local", marks=needs_submitit),
    ],
)
def test_an_interrupted_sweep_leaves_checkpoints_and_gives_130(
    number: signal.Signals, launcher: str, tmp_path: Path
) -> None:
    process = start(tmp_path, "seed=0,1", "recipe.iterations=4000", "eval.every=4", "data.pixels=8", launcher)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 130, err
    assert "stopped; the same command goes on from there" in err
    assert "Traceback" not in err
    assert "interrupted" in out[out.index("2 cells") :]
    record = RunRecord(next(tmp_path.rglob("seed-0")))
    assert record.summary["status"] == "interrupted"
    assert (record.path / "checkpoint.pt").exists()
    assert trainers(process, tmp_path) == {}


@pytest.mark.parametrize("delay", [0.5, 1.5])
def test_ctrl_c_while_workers_start_shows_no_traceback(delay: float, tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", "recipe.iterations=4000", "launcher.jobs=2", start_new_session=True)
    wait_until(lambda: workers(tmp_path), process)
    time.sleep(delay)  # workers import for seconds before they begin a cell
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes hear it
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert err == "degrade: stopped; the same command goes on from there\n"


def test_when_the_sweep_itself_is_killed_its_cells_write_checkpoints_and_end(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", "recipe.iterations=4000", "eval.every=4", "data.pixels=8")
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
    words = ["data=synthetic,folder", "data.root=empty", "model.norm=none", "optim.lr=1e12,0.01", "data.pixels=8"]
    outcome = cli("sweep", *small_but(*words))
    assert outcome.code == 1
    assert "4 cells: 1 complete, 1 diverged, 2 failed" in outcome.out
    assert "DatasetError: data.root=empty: has no folder" in outcome.out


def in_workers(folder: Path, monkeypatch: pytest.MonkeyPatch, fit: str) -> None:
    """Let workers train by the `fit` that a source defines."""
    # Python imports this module as it starts: here, in the worker, by a path that counts from the working directory.
    (folder / "modules").mkdir()
    (folder / "modules" / "sitecustomize.py").write_text(
        f"{fit}import sys\n"
        "if 'degrade.runs.worker' in sys.orig_argv:\n"
        "    import degrade.runs.train\n"
        "    degrade.runs.train.fit = fit\n"
    )
    monkeypatch.setenv("PYTHONPATH", "modules", prepend=os.pathsep)


def test_what_timing_says_and_what_mends_too_little_memory_reaches_the_terminal(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed, memory = "engine graph: 1.30 times as fast as the usual, by timing", "CUDA out of memory."
    in_workers(
        tmp_path,
        monkeypatch,
        "def fit(*_, **__):\n"
        "    import torch\n"
        "    from degrade.training import choice\n"
        f"    choice.log.info({timed!r})\n"
        f"    raise torch.OutOfMemoryError({memory!r})\n",
    )
    outcome = cli("sweep", *SMALL)
    assert outcome.code == 1
    assert outcome.out.splitlines().count(timed) == 1
    mend = "; runtime.recompute=true needs less memory, and so does a smaller eval.batch_size"
    assert f"failed: OutOfMemoryError: {memory}{mend}\n" in outcome.out
    (record,) = find_records([tmp_path / "outputs"])
    assert timed in (record.path / "train.log").read_text()


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
    (["launcher=loca"], "did you mean local"),
    (["launcher="], "choose one of"),
    (["launcher.jobs=0"], "launcher.jobs=0: must be at least 1"),
    (["launcher.jobs=many"], "write a whole number, such as 2, or auto"),
    (["launcher.jobs=1.5"], "launcher.jobs"),
    (["launcher.partition=gpu"], "launcher=local has no such setting"),
    (["launcher=slurm", "launcher.partiton=gpu"], "did you mean launcher.partition"),
    (["launcher=ray", "launcher.num_gpus=-1"], "launcher.num_gpus"),
    (["hydra/launcher=basic"], "no such setting"),
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


def test_settings_that_conflict_with_a_record_are_refused_before_any_starts(
    cli: Cli, trained: Callable[..., RunRecord], tmp_path: Path
) -> None:
    trained("name=mine", "seed=1")
    outcome = cli("sweep", *small_but("name=mine", "recipe=short", "seed=0,1"))
    assert outcome.code == 2
    assert "holds a run of other settings" in outcome.err
    assert len(find_records([tmp_path])) == 1


@pytest.mark.parametrize(("name", "package"), [("submitit_local", "submitit"), ("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra_gives_the_pip_line(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setattr("degrade.extras.installed", lambda _: False)
    for command in (["sweep", "seed=0,1"], ["reproduce", "data=synthetic", "recipe=smoke"]):
        outcome = cli(*command, f"launcher={name}")
        assert outcome.code == 2
        assert f"launcher={name} needs {package}, which is not installed: pip install {package}" in outcome.err
        assert outcome.err.count("\n") == 1


def test_every_cell_has_a_record_of_its_own_whatever_is_swept() -> None:
    long = "x" * 200
    cells = cells_of(
        "data=folder", f"data.root='a/b','a_b','a=b',\"it's\",'say \"so\"','a,b','a b',{long},{long}y", "seed=0,1"
    )
    paths = {cell.record.path for cell in cells}
    assert len(cells) == len(paths) == 18
    assert all(len(part) <= 120 for path in paths for part in path.parts)
    assert {cell.experiment.data.root for cell in cells} >= {"a/b", "it's", 'say "so"', "a,b", "a b"}


def test_dry_run_prints_the_cells_and_trains_nothing(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("sweep", "model=plain,residual", "model.depth=20,56", "seed=range(3)", "--dry-run")
    assert outcome.code == 0
    assert outcome.out.count("train   outputs/paper/") == 12
    assert "12 cells, launcher local" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_fresh_starts_every_cell_over(cli: Cli, trained: Callable[..., RunRecord]) -> None:
    record = trained("seed=0")
    before = (record.path / "config.yaml").stat().st_mtime_ns
    assert cli("sweep", *SMALL, "seed=0", "--fresh").code == 0
    assert (record.path / "config.yaml").stat().st_mtime_ns != before
    assert len(record.sessions) == 1


def test_fresh_deletes_nothing_where_a_later_cell_is_in_use(cli: Cli, trained: Callable[..., RunRecord]) -> None:
    first, second = trained("seed=0"), trained("seed=1")
    with second.lock():
        outcome = cli("sweep", *SMALL, "seed=0,1", "--fresh")
    assert (outcome.code, outcome.err.count("in use by another process")) == (2, 1)
    assert (first.status, second.status) == ("complete", "complete")
    assert (first.path / "checkpoint.pt").exists()


def test_the_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "usable", lambda: 8)

    def share(launcher: Launcher, cells: int, device: str = "cpu") -> tuple[int, int | None]:
        return launchers.share(launcher, [compose([f"runtime.device={device}"])] * cells)

    assert share(Local(1), 12) == (1, None)
    assert share(Local(), 12) == (8, 1)
    assert share(Local(), 3) == (3, 2)
    # Cells that ask for threads are trained so many at a time as the cores allow.
    some = [compose(["runtime.threads=3"]), *(compose([f"model.depth={depth}"]) for depth in (20, 56, 44))]
    assert launchers.settle_threads(Local(), some) == 4
    assert [own.runtime.threads for own in some] == [3, 1, 2, 2]
    assert share(Local(2), 12) == (2, 4)
    assert share(Local(), 12, "cuda") == (1, None)
    assert share(SubmititLocal(cpus_per_task=2), 12) == (4, 2)
    settled = [compose([]) for _ in range(12)]
    assert launchers.settle_threads(SubmititLocal(cpus_per_task=2), settled) == 4
    assert launchers.share(SubmititLocal(cpus_per_task=2), settled) == (4, 2)
    assert launchers.settle_threads(Local(), settled) == 4  # with the two threads that each of them has
    # What remains goes to the longest, which is no reason to train fewer at a time.
    for launcher, more in ((Local(), []), (Local(3), [8, 8])):
        cells = [compose([f"model.depth={depth}"]) for depth in (20, 56, 44, *more)]
        assert launchers.settle_threads(launcher, cells) == 3
        assert [own.runtime.threads for own in cells] == [2, 3, 3, *[2] * len(more)]
        assert launchers.share(launcher, cells)[0] == 3
    assert share(Slurm(cpus_per_task=3), 12) == (12, 3)
    assert share(Ray(num_cpus=2.5), 12) == (12, 2)


def test_the_longest_cells_begin_first(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Recorded:
        def __init__(self, *_: object) -> None:
            pass

        def submit(self, experiments: Sequence[Experiment]) -> list[Experiment]:
            given.append([own.model.depth for own in experiments])
            return list(experiments)

        def unfinished(self, handles: list[Experiment]) -> list[Experiment]:
            return handles[1:]

        def close(self) -> None:
            pass

    monkeypatch.setattr(launchers, "_Local", Recorded)
    launchers.launch(Local(2), [compose([f"model.depth={depth}"]) for depth in (20, 56, 44)], lambda: None)
    assert given == [[56, 44], [20]]


def test_cores_that_become_free_are_offered_to_networks_still_running(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: dict[int, int] = {20: 1, 32: 3, 44: 4, 56: 5}
    offers: list[tuple[int, int]] = []

    class Scripted:
        """A worker whose cell takes a number of looks."""

        def __init__(self, _: Path) -> None:
            self.left, self.depth = 0, 0

        @property
        def busy(self) -> bool:
            return self.left > 0

        def give(self, experiment: Experiment) -> None:
            self.depth, self.left = experiment.model.depth, steps[experiment.model.depth]

        def offer(self, threads: int) -> None:
            offers.append((self.depth, threads))

    def hear(workers: Sequence[Scripted], _: float) -> None:
        for worker in workers:
            worker.left -= 1

    monkeypatch.setattr(launchers, "usable", lambda: 6)
    for name, stand_in in {"Worker": Scripted, "hear": hear, "stop": lambda _: None}.items():
        monkeypatch.setattr(launchers, name, stand_in)

    def launch(jobs: int, *overrides: str) -> list[tuple[int, int]]:
        offers.clear()
        cells = plan([compose([f"model.depth={own}", *overrides]) for own in steps], Local(jobs))
        free = [cell.experiment for cell in cells if cell.may_widen]
        launchers.launch(Local(jobs), [cell.experiment for cell in cells], lambda: None, free)
        return offers.copy()

    assert launch(4) == [(56, 2), (44, 2), (32, 2), (56, 3), (44, 3), (56, 6)]
    monkeypatch.setattr(launchers, "usable", lambda: 8)
    assert launch(4) == [(56, 3), (44, 3), (32, 2), (56, 4), (44, 4), (56, 8)]
    monkeypatch.setattr(launchers, "usable", lambda: 6)
    assert launch(2) == [(32, 6)]  # nothing is offered while networks wait
    steps.update({20: 2, 32: 5, 44: 5})
    assert launch(3) == [(20, 6)]  # it begins alone
    assert launch(4, "runtime.threads=1") == launch(4, "runtime.deterministic=true") == []


def launching(monkeypatch: pytest.MonkeyPatch, launch: Callable[..., None]) -> None:
    monkeypatch.setattr("degrade.runs.many.launch", launch)


def test_a_launcher_that_cannot_launch_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no cluster here\nat all")

    launching(monkeypatch, broken)
    outcome = cli("sweep", *SMALL, "seed=0,1")
    assert outcome.code == 2
    assert (
        outcome.err == "degrade: launcher=local: RuntimeError: no cluster here; the same command goes on from there\n"
    )


def test_the_watch_counts_what_records_say(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cells = cells_of(*SMALL, "seed=0,1,2")
    first, second, third = (cell.record for cell in cells)
    for record in (first, second, third):
        record.path.mkdir(parents=True)
    third.summarise(status="failed", iteration=3, error="long ago")
    watch = observers.Watch([(cell.experiment, cell.record) for cell in cells])
    first.summarise(status="complete", iteration=24, test_error=0.5)
    second.summarise(status="failed", iteration=6, error="out of luck")
    watch.close()
    counts = watch.count()
    assert (counts["complete"], counts["failed"], counts["waiting"]) == (1, 1, 1)


def test_what_a_diverged_cell_leaves_undone_is_no_work_that_was_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    counted: dict[str, float] = dict.fromkeys(("advance", "skip"), 0.0)
    for name in counted:
        monkeypatch.setattr(
            progress.Progress, name, lambda _, work, name=name: counted.update({name: counted[name] + work})
        )
    (cell,) = cells_of(*SMALL)
    watch = observers.Watch([(cell.experiment, cell.record)])
    cell.record.path.mkdir(parents=True)
    cell.record.summarise(status="diverged", iteration=6)  # of 24
    watch.close()
    work = observers.planned_work(cell.experiment)
    assert counted == pytest.approx({"advance": work / 4, "skip": work * 3 / 4})


def test_the_watch_shows_all_running_networks_that_fit(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(progress.Progress, "tell", lambda self, *said: told.append(said))
    cells = cells_of(*small_but("model=plain,residual", "model.depth=20,56"))
    with contextlib.ExitStack() as locks:
        for cell in cells:
            cell.record.path.mkdir(parents=True)
            locks.enter_context(cell.record.lock())
        watch = observers.Watch([(cell.experiment, cell.record) for cell in cells])
        for cell, iteration in zip(cells, (12, 3, 18, 6), strict=True):
            cell.record.summarise(status="running", iteration=iteration, train_error=0.5)
        for room in (300, 150, 60, 42):
            monkeypatch.setattr(progress.Progress, "room", room)
            watch.look(now=True)
        watch.close()
    assert [name for name, _ in told[:4]] == ["0/4 cells"] * 4
    assert told[0][1].count("training error 50.00% running") == 4
    assert [numbers for _, numbers in told[1:4]] == [
        "plain-20 50%, plain-56 12%, residual-20 75%, residual-56 25%",
        "plain-20 50%, plain-56 12%, and 2 more",
        "plain-20 50%, and 3 more",
    ]


def test_the_last_word_is_the_records_not_the_launchers(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    launching(monkeypatch, lambda *_: None)
    outcome = cli("sweep", *SMALL, "seed=0,1")
    assert outcome.code == 1
    assert "2 cells: 2 lost" in outcome.out
