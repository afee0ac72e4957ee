"""Sweeps on a Slurm or Ray cluster; `scripts/test --slurm` and `--ray` start one of this machine and run these."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from degrade.runs import RunRecord
from tests.test_sweep import rows_at, start, trainers, wait_until

CLUSTER = os.environ.get("DEGRADE_TEST_CLUSTER", "")
slurm = pytest.mark.skipif(CLUSTER != "slurm", reason="scripts/test --slurm runs it")
ray = pytest.mark.skipif(CLUSTER != "ray", reason="scripts/test --ray runs it")

SLURM = ["launcher=slurm", "launcher.cpus_per_task=1", "launcher.mem_gb=null"]
RAY = ["launcher=ray"]
LONG = ["recipe.iterations=900", "eval.every=4", "recipe.milestones=[12]"]


def ended(process: subprocess.Popen[str], code: int) -> str:
    out, err = process.communicate(timeout=400)
    print(out, err, sep="\n")  # noqa: T201 - shown by pytest -s: what a person would have seen
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out


def record_of(seed: int, folder: Path) -> RunRecord:
    return RunRecord(next(path for path in folder.rglob(f"seed-{seed}") if path.is_dir()))


def killed_half_way(folder: Path, launcher: list[str], kill: Callable[[subprocess.Popen[str]], None]) -> None:
    """Four cells, two at once; the first is killed half-way; the same command finishes it and no other."""
    words = ["seed=0,1,2,3", *LONG, *launcher]
    process = start(folder, *words)
    wait_until(lambda: rows_at(0, folder) > 3, process)
    kill(process)
    # Killed outright, it is lost; where only its job was, it had a moment for a checkpoint.
    assert re.search("4 cells: 3 complete, 1 (lost|interrupted)", ended(process, 1))
    finished = [record_of(seed, folder).summary for seed in (1, 2, 3)]

    assert "4 cells: 4 complete" in ended(start(folder, *words), 0)
    assert [record_of(seed, folder).summary for seed in (1, 2, 3)] == finished
    first = record_of(0, folder)
    assert [session["first_iteration"] for session in first.sessions][1] > 0
    assert "going on from iteration" in (first.path / "train.log").read_text()


def slurm_jobs() -> list[str]:
    done = subprocess.run(["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@slurm
@pytest.mark.timeout(600)
def test_slurm_a_killed_job_leaves_the_others_alone(tmp_path: Path) -> None:
    def kill(_: object) -> None:
        job = next(job for job in slurm_jobs() if job.endswith("_0"))
        subprocess.run(["scancel", "--signal=KILL", job], check=True)

    killed_half_way(tmp_path, SLURM, kill)


@slurm
@pytest.mark.timeout(600)
def test_slurm_a_preempted_cell_writes_a_checkpoint_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", *LONG, *SLURM)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    job = next(job for job in slurm_jobs() if job.endswith("_0"))
    # What Slurm sends before it preempts a job or its time is over, as submitit asks it to.
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    assert "2 cells: 2 complete" in ended(process, 0)
    record = record_of(0, tmp_path)
    sessions = [session["first_iteration"] for session in record.sessions]
    assert len(sessions) == 2
    assert sessions[1] > 0


@slurm
@pytest.mark.timeout(600)
def test_slurm_ctrl_c_says_how_to_cancel(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", *LONG, *SLURM)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    job = slurm_jobs()[0].split("_")[0]
    assert f"its cells go on in Slurm; to stop them: scancel {job}" in err
    subprocess.run(["scancel", job], check=True)
    while slurm_jobs():
        time.sleep(1)
    assert record_of(0, tmp_path).summary["status"] == "interrupted"  # SIGTERM: with a checkpoint


@ray
@pytest.mark.timeout(600)
def test_ray_a_killed_cell_is_lost_alone(tmp_path: Path) -> None:
    killed_half_way(tmp_path, RAY, lambda process: os.kill(trainers(process, tmp_path)["seed-0"], signal.SIGKILL))


@ray
@pytest.mark.timeout(600)
def test_ray_starts_a_cell_again_whose_worker_was_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", *LONG, *RAY)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    trainer = trainers(process, tmp_path)["seed-0"]
    worker = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    assert "2 cells: 2 complete" in ended(process, 0)
    assert len(record_of(0, tmp_path).sessions) == 2


@ray
@pytest.mark.timeout(600)
def test_ray_an_interrupted_sweep_leaves_checkpoints(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1", *LONG, *RAY)
    wait_until(lambda: rows_at(0, tmp_path) > 3, process)
    process.send_signal(signal.SIGTERM)
    # Ray may not have begun the second cell yet; then there is nothing of it.
    assert re.search("2 cells: (2 interrupted|1 interrupted, 1 lost)", ended(process, 130))
    assert record_of(0, tmp_path).summary["status"] == "interrupted"
