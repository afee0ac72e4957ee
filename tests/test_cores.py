"""Usable cores: affinity, the quota of control groups of both versions, and what other work leaves."""

import contextlib
import logging
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from degrade import cores
from degrade.cores import Cores
from degrade.runs import find_records
from degrade.runs.observers import Pace
from tests.conftest import SMALL

look = cores.look  # the tests have another in its place


@pytest.mark.parametrize(
    ("found", "usable"),
    [
        (Cores(2, math.inf, 0.0), 2),
        (Cores(2, math.inf, 0.3), 2),
        (Cores(2, math.inf, 0.6), 1),
        (Cores(2, math.inf, 2.0), 1),
        (Cores(64, 0.5, 0.0), 1),
        (Cores(64, 2.9, 40.0), 2),
        (Cores(64, 32.0, 60.0), 4),
    ],
)
def test_threads_find_a_core_each_and_there_is_at_least_one(found: Cores, usable: int) -> None:
    assert found.usable == usable


def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str]) -> None:
    """Control groups of the files' contents, of which this process is said to be in `own`."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "own")


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        (
            "0::/a/b\n",
            {"cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"},
            1.5,
        ),
        ("0::/elsewhere\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        (
            "2:memory:/x\n1:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("0::/\n", {"cpu.max": "garbage\n"}, math.inf),
    ],
)
def test_the_tightest_quota_above_the_process_counts(
    own: str, files: dict[str, str], quota: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups(tmp_path, monkeypatch, own, files)
    assert look().quota == quota


def test_a_system_without_control_groups_has_no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "OWN_CGROUPS", Path("/nowhere"))
    assert look().quota == math.inf


def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str) -> None:
    """A load of the system that goes on from `before` to `after` while it is looked at."""
    file = tmp_path / "stat"
    file.write_text(before)
    monkeypatch.setattr(cores, "LOAD", file)
    monkeypatch.setattr(time, "sleep", lambda _: file.write_text(after))
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def test_busy_cores_are_other_processes_and_neither_idle_nor_niced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = "cpu 0 0 0 0\ncpu0 100 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 100 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n"
    after = "cpu 0 0 0 0\ncpu0 125 0 5 0 0 0 0 0 0 0\ncpu1 0 10 0 110 10 0 0 0 0 0\ncpu2 30 0 0 0 0 0 0 0 0 0\n"
    load(tmp_path, monkeypatch, before, after)
    assert look().busy == pytest.approx(1.0)


@pytest.mark.parametrize("content", ["", "cpu0 a b\n", "cpu0 1 2 3\n", "cpu0 0 0 0 0 0 0 0 0\n"])
def test_a_load_that_cannot_be_read_counts_as_none(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, monkeypatch, content, content)
    assert look().busy == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be bound to a core here")
def test_a_busy_loop_on_a_core_is_seen() -> None:
    if os.nice(0) > 0:
        pytest.skip("what these tests start is niced, which does not count as busy")
    core = min(os.sched_getaffinity(0))
    source = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as loop:
        try:
            assert loop.stdout is not None
            loop.stdout.readline()  # it has begun
            assert max(look().busy for _ in range(3)) > 0.5  # other work on its core may take turns with it
        finally:
            loop.kill()


def forget() -> None:
    cores.at_first.cache_clear()
    cores.usable.cache_clear()


def test_fewer_than_all_are_told_once_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="degrade.cores")
    found = iter([Cores(2, math.inf, 1.04), Cores(8, 0.5, 0.0), Cores(8, math.inf, 0.2)])
    monkeypatch.setattr(cores, "look", lambda: next(found))
    for expected in (1, 1, 8):
        forget()
        assert [cores.usable(), cores.usable()] == [expected] * 2
    forget()
    assert caplog.messages == [
        "using 1 of 2 CPU cores: other work keeps 1.0 of 2 cores busy",
        "using 1 of 8 CPU cores: the quota of this container is 0.5 of 8 cores",
    ]


def test_pace_tells_a_minute_far_below_the_best_once() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    told = []

    def steps(count: int, seconds: float) -> None:
        nonlocal now
        for _ in range(count):
            now += seconds
            told.append(pace.add(1.0))

    steps(100, 1)
    steps(1, 500)  # stopped and let go on
    steps(100, 1)
    assert set(told) == {None}
    told.clear()
    steps(30, 5)
    assert [share for share in told if share is not None] == [pytest.approx(0.2)]
    steps(50, 1)
    told.clear()
    steps(30, 5)
    assert [share for share in told if share is not None] == [pytest.approx(0.2)]


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """The list of processes of a control group with half a core's quota; skips without the right to make one."""
    top = Path("/sys/fs/cgroup")
    unified = (top / "cgroup.controllers").exists()  # version 2
    group = (top if unified else top / "cpu") / f"degrade-test-{os.getpid()}"
    try:
        group.mkdir()
        if unified:
            (group / "cpu.max").write_text("50000 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("50000")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group with a quota can be made here: {error}")
    yield group / "cgroup.procs"
    group.rmdir()


def test_a_training_with_half_a_core_takes_one_thread_and_says_why(half_a_core: Path, tmp_path: Path) -> None:
    words = [*SMALL, "runtime.device=cpu", f"output={tmp_path}"]
    script = f"echo $$ > {half_a_core} && exec {shlex.join([sys.executable, '-m', 'degrade', 'train', *words])}"
    unset = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(["bash", "-c", script], env=unset, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = find_records([tmp_path])
    assert record.sessions[-1]["threads"] == 1
    allowed = len(os.sched_getaffinity(0))
    if allowed > 1:  # other tests may keep the cores busy, which is then said instead of the quota
        assert f"using 1 of {allowed} CPU cores: " in done.stdout
