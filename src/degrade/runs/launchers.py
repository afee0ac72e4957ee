"""Launchers give cells to processes, here or on a cluster, and know which are not done. No torch is imported here.

What became of a cell is told by its record alone, never by what a launcher returns, since launchers lose results.
"""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from degrade.config import Experiment
from degrade.config import launcher as settings
from degrade.cores import usable
from degrade.errors import RunInterrupted, raise_stopped
from degrade.runs.observers import planned_work
from degrade.runs.record import RunRecord, run_directory
from degrade.runs.worker import GRACE, Worker, hear, safe_path, stop

#: A file of this name in the folder of a sweep's jobs asks their cells to stop.
STOP = "stop"

#: A job waits this many seconds for a record in use: a cell that is queued again may still be writing its checkpoint.
PATIENCE = 30

AGAIN = "the same command goes on from there"


def share(launcher: settings.Launcher, experiments: Sequence[Experiment]) -> tuple[int, int | None]:
    """How many of the experiments a launcher is given at a time, and the CPU threads of each.

    No number of threads means as many as cores are usable. Wherever experiments are trained side by side, each is
    given its share of the cores; `degrade.cores` says why.
    """
    if isinstance(launcher, settings.Local):
        threads = sorted((experiment.runtime.threads or 1 for experiment in experiments), reverse=True)
        cores = usable()
        cores = max(1, sum(total <= cores for total in itertools.accumulate(threads * cores)))
        device = experiments[0].runtime.device
        gpu = device.startswith(("cuda", "mps")) or (device == "auto" and any(Path("/dev").glob("nvidia[0-9]*")))
        most = launcher.jobs if isinstance(launcher.jobs, int) else 1 if gpu else cores
        jobs = max(1, min(most, len(experiments)))
        return jobs, None if jobs == 1 else max(1, cores // jobs)
    cpus = max(1, int(getattr(launcher, "cpus_per_task", 0) or getattr(launcher, "num_cpus", 0)))
    here = isinstance(launcher, settings.SubmititLocal)  # a cluster queues them all
    return max(1, usable() // cpus) if here else len(experiments), cpus


def settle_threads(launcher: settings.Launcher, experiments: Sequence[Experiment]) -> int:
    """Give each experiment that names no number of CPU threads its share; returns how many are trained at a time.

    Cores that remain go to the longest ones, one each. Finished ones count, so that a resumed sweep divides alike.
    """
    jobs, threads = share(launcher, experiments)
    free = [experiment for experiment in experiments if experiment.runtime.threads is None]
    for experiment in free:
        experiment.runtime.threads = threads
    if isinstance(launcher, settings.Local) and threads is not None:
        taken = sorted((experiment.runtime.threads or 1 for experiment in experiments), reverse=True)[:jobs]
        for experiment in sorted(free, key=planned_work, reverse=True)[: max(0, usable() - sum(taken))]:
            experiment.runtime.threads = threads + 1
    return jobs


def launch(
    launcher: settings.Launcher,
    experiments: Sequence[Experiment],
    look: Callable[[], None],
    free: Sequence[Experiment] = (),
) -> None:
    """Train experiments, calling `look` now and then; returns when nothing more is to be expected of any.

    Relative paths in the experiments count from the working directory, on every machine. This machine may let those
    of them that are in `free` go on with more threads once fewer than cores are left.

    Raises:
        RunInterrupted: somebody stopped it; checkpoints are written, except where jobs go on in Slurm.
    """
    todo, limit = list(experiments), share(launcher, experiments)[0]
    if isinstance(launcher, settings.Local):  # the longest first, so that no core is left alone with it at the end
        todo.sort(key=planned_work, reverse=True)
    kind = _Ray if isinstance(launcher, settings.Ray) else _Submitit
    root = run_directory(experiments[0]).parents[2].absolute() / ".sweeps"  # beside the runs
    local = isinstance(launcher, settings.Local)
    made: Any = _Local(len(todo), limit, free) if local else kind(launcher, root)  # type: ignore[arg-type]
    with contextlib.closing(made) as launched:
        handles: list[Any] = []
        try:
            while todo or handles:
                if room := min(limit - len(handles), len(todo)):
                    handles += launched.submit(todo[:room])
                    todo = todo[room:]
                handles = launched.unfinished(handles)
                look()
        except KeyboardInterrupt:
            raise RunInterrupted(f"stopped; {launched.stop(handles)}") from None


class _Local:
    """Trains cells in processes of this machine, each of which takes one cell after another.

    Of the `cells` that will be submitted, `jobs` are trained at a time. Those in `free` may go on with more threads
    once fewer cells than cores are left.
    """

    def __init__(self, cells: int, jobs: int, free: Sequence[Experiment]) -> None:
        self.workers = [Worker(Path.cwd()) for _ in range(jobs)]
        self.waiting, self.free = cells, {id(experiment) for experiment in free}
        self.given: dict[Worker, Experiment] = {}
        self.sharing = 0  # how many were running when the cores were last divided

    def submit(self, experiments: Sequence[Experiment]) -> list[Worker]:
        idle = [worker for worker in self.workers if not worker.busy][: len(experiments)]
        for worker, experiment in zip(idle, experiments, strict=True):
            worker.give(experiment)
            self.given[worker] = experiment
        self.waiting -= len(experiments)
        return idle

    def unfinished(self, handles: list[Worker]) -> list[Worker]:
        hear(handles, 0.5)
        left = [worker for worker in handles if worker.busy]
        if left and not self.waiting and len(left) != self.sharing:
            self.sharing = len(left)
            each, rest = divmod(usable(), len(left))
            for number, worker in enumerate(left):  # the longest first
                if id(self.given[worker]) in self.free:
                    worker.offer(each + (number < rest))
        return left

    def stop(self, handles: list[Worker]) -> str:  # noqa: ARG002 - close() waits for all
        return AGAIN

    def close(self) -> None:
        stop(self.workers)


class _Cluster:
    """Trains cells in jobs, here or on other machines, that end by themselves or when a file asks them to.

    Args:
        root: where a folder for the jobs is made, which all machines see; the folder is kept if it holds logs.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.folder.mkdir(parents=True)

    def unfinished(self, handles: list[Any]) -> list[Any]:
        raise NotImplementedError

    def stop(self, handles: list[Any]) -> str:
        (self.folder / STOP).touch()
        deadline = time.monotonic() + GRACE
        while handles and time.monotonic() < deadline:
            handles = self.unfinished(handles)
        return AGAIN

    def close(self) -> None:
        (self.folder / STOP).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()
            self.folder.parent.rmdir()


class _Submitit(_Cluster):
    """Trains cells in jobs of submitit, whose checkpointing hook lets Slurm queue a job again."""

    def __init__(self, launcher: settings.Slurm | settings.SubmititLocal, root: Path) -> None:
        import submitit

        super().__init__(root)
        self.slurm = isinstance(launcher, settings.Slurm)
        given = {key: value for key, value in asdict(launcher).items() if value not in (None, [], {})}
        most = {"slurm_max_num_timeout": given.pop("max_num_timeout")} if self.slurm else {}
        common = {"timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb"}
        self.executor = submitit.AutoExecutor(self.folder / "%j", cluster="slurm" if self.slurm else "local", **most)
        self.executor.update_parameters(
            name="degrade", **{key if key in common else f"slurm_{key}": value for key, value in given.items()}
        )

    def submit(self, experiments: Sequence[Experiment]) -> list[Any]:
        with safe_path():
            return list(self.executor.map_array(Job(Path.cwd(), self.folder / STOP), experiments))

    def unfinished(self, handles: list[Any]) -> list[Any]:
        time.sleep(1)
        return [job for job in handles if not job.done()]

    def stop(self, handles: list[Any]) -> str:
        if not self.slurm:
            return super().stop(handles)
        jobs = sorted({job.job_id.split("_")[0] for job in handles}, key=int)
        return f"its cells go on in Slurm; to stop them: scancel {' '.join(jobs)}"


class _Ray(_Cluster):
    """Trains cells as tasks of a Ray cluster."""

    def __init__(self, launcher: settings.Ray, root: Path) -> None:
        import ray

        super().__init__(root)
        self.ray = ray
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        ray.init(address=launcher.address, log_to_driver=False, logging_level="warning")
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray installs a handler of SIGTERM
                signal.signal(number, handler)
        options = asdict(launcher)
        options.pop("address")
        self.task = ray.remote(**options)(Job.__call__)

    def submit(self, experiments: Sequence[Experiment]) -> list[Any]:
        job = Job(Path.cwd(), self.folder / STOP)
        return [self.task.remote(job, experiment) for experiment in experiments]

    def unfinished(self, handles: list[Any]) -> list[Any]:
        left: list[Any] = self.ray.wait(handles, num_returns=len(handles), timeout=1)[1]
        return left

    def close(self) -> None:
        self.ray.shutdown()  # this ends the sweep's tasks, if any are left
        super().close()


class Job:
    """What a node of a cluster runs: one cell, in a worker process of its own.

    `folder` is where the command was started, and `stop` is a file that appears when the cell is to stop.
    """

    def __init__(self, folder: Path, stop: Path) -> None:
        self.folder, self.stop_file = folder, stop
        # A Ray cluster has an environment of its own.
        self.environment = {key: os.environ[key] for key in ("DEGRADE_DATA",) if key in os.environ}
        self.worker: Worker | None = None

    def __call__(self, experiment: Experiment) -> None:
        """Train a cell; Stopped passes through where somebody ended the job, which is then to be run again."""
        os.environ.update(self.environment)
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, raise_stopped) if main else None
        # A signal may come at any moment; then `checkpoint` has stopped the worker already.
        worker = self.worker = Worker(self.folder)
        try:
            record = RunRecord(self.folder / run_directory(experiment))
            deadline = time.monotonic() + PATIENCE
            while record.in_use and time.monotonic() < deadline:
                time.sleep(0.2)
            if not self.stop_file.exists():
                worker.give(experiment)
            while worker.busy and not self.stop_file.exists():
                hear([worker], 0.2)
        finally:
            stop([worker])
            if main:
                signal.signal(signal.SIGTERM, before)

    def checkpoint(self, experiment: Experiment) -> Any:
        """Let the cell write a checkpoint before submitit queues the job again, and return what is to run then."""
        from submitit.helpers import DelayedSubmission

        if self.worker is not None:
            stop([self.worker])
            self.worker = None  # a worker cannot be pickled
        return DelayedSubmission(self, experiment)
