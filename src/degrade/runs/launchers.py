"""Hydra's launchers: what each needs, how it shares out a machine, what it has to be kept from."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degrade.config.compose import compose_launcher
from degrade.errors import ConfigError, did_you_mean
from degrade.extras import installed

#: Launcher: the extra that brings it, the plugin's distribution, its module.
NEEDS = {
    "basic": None,
    "joblib": ("joblib", "hydra-joblib-launcher", "hydra_plugins.hydra_joblib_launcher"),
    "submitit_local": ("slurm", "hydra-submitit-launcher", "hydra_plugins.hydra_submitit_launcher"),
    "slurm": ("slurm", "hydra-submitit-launcher", "hydra_plugins.hydra_submitit_launcher"),
    "ray": ("ray", "hydra-ray-launcher", "hydra_plugins.hydra_ray_launcher"),
}


@dataclass(frozen=True)
class Launcher:
    """A launcher and its settings."""

    name: str
    """A key of NEEDS."""
    overrides: list[str]
    """`hydra/launcher=...` and `hydra.launcher....`, for Hydra."""
    threads: int | None
    """CPU threads of a cell; None: PyTorch's choice."""
    at_once: int | None = None
    """Cells to hand over at a time; None: all."""
    ray: dict[str, Any] | None = None
    """What `ray.init` is to be told; None: it is not Ray."""


def choose_launcher(overrides: Sequence[str], cells: int, device: str) -> Launcher:
    """Compose a launcher's settings and divide the machine between its cells.

    Two PyTorch processes with all cores each wait for one another's threads and slow down many times over, so
    wherever cells run side by side each is given its share.

    Args:
        overrides: the words of the command line that begin with `hydra`.
        cells: how many there are to run.
        device: the cells' `runtime.device`.

    Raises:
        ConfigError: no such launcher or setting, or the extra is not installed.
    """
    name = _name(overrides)
    # degrade's own settings on top of the plugin's, which have the plain name.
    chosen = [] if name == "basic" else [f"hydra/launcher=degrade_{name}"]
    overrides = chosen + [text for text in overrides if not _chooses(text)]
    settings = compose_launcher(overrides)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if name == "joblib":
        asked = _number(settings, "n_jobs") or -1
        most = asked if asked > 0 else 1 if _has_gpu(device) else cores
        jobs = max(1, min(most, cells))
        return Launcher(name, [*overrides, f"hydra.launcher.n_jobs={jobs}"], max(1, cores // jobs))
    if name == "submitit_local":
        share = _number(settings, "cpus_per_task") or 1
        return Launcher(name, overrides, share, at_once=max(1, cores // share))
    if name == "slurm":
        return Launcher(name, overrides, _number(settings, "cpus_per_task"))
    if name == "ray":
        cpus = settings["ray"]["remote"].get("num_cpus") or 1
        if not isinstance(cpus, int | float):
            raise ConfigError(f"hydra.launcher.ray.remote.num_cpus={cpus}: write a number, such as 2")
        return Launcher(name, overrides, max(1, int(cpus)), ray=settings["ray"]["init"])
    return Launcher(name, overrides, None)


def _name(overrides: Sequence[str]) -> str:
    name = "basic"
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if _chooses(text):
            name = value
        elif not key.startswith("hydra.launcher."):
            raise ConfigError(f"{text}: of Hydra's own settings, sweep takes hydra/launcher and hydra.launcher.*")
    if name not in NEEDS:
        raise ConfigError(f"hydra/launcher={name}: {did_you_mean(name, NEEDS)}")
    need = NEEDS[name]
    if need is not None and not installed(need[2]):
        extra, distribution, _ = need
        raise ConfigError(
            f"hydra/launcher={name} is not installed: pip install {distribution}, "
            f"or pip install '.[{extra}]' in degrade's checkout"
        )
    return name


def _chooses(text: str) -> bool:
    return text.partition("=")[0] == "hydra/launcher"


def _number(settings: dict[str, Any], key: str) -> int | None:
    value = settings.get(key)
    if value is not None and (type(value) is not int or value == 0):
        raise ConfigError(f"hydra.launcher.{key}={value}: write a whole number, such as 2")
    return value


def _has_gpu(device: str) -> bool:
    """Whether cells will run on a GPU, told without torch, which takes seconds to import."""
    return device.startswith("cuda") or (device == "auto" and any(Path("/dev").glob("nvidia[0-9]*")))


@contextmanager
def tended(launcher: Launcher) -> Iterator[None]:
    """While it launches, joblib's workers do not hear Ctrl-C, and a submitit job that was killed ends no other.

    Afterwards, Ray is left.
    """
    tending: AbstractContextManager[None] = contextlib.nullcontext()
    if launcher.name == "joblib":
        tending = _deaf_workers()
    elif launcher.name in ("slurm", "submitit_local"):
        tending = _patience()
    elif launcher.ray is not None:
        tending = _connected(launcher.ray)
    with tending:
        yield


@contextmanager
def _deaf_workers() -> Iterator[None]:
    """The sweep stops joblib's workers itself: Ctrl-C, which reaches them too, would end them with a traceback each.

    SIGINT is blocked while a worker is started, which it inherits. Ignoring it there once it runs would come too
    late, since a worker imports for seconds before it runs anything of ours.
    """
    from joblib.externals.loky.backend import fork_exec as loky

    original = loky.fork_exec

    def start(*arguments: Any, **more: Any) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return original(*arguments, **more)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    loky.fork_exec = start
    try:
        yield
    finally:
        loky.fork_exec = original


@contextmanager
def _connected(settings: dict[str, Any]) -> Iterator[None]:
    """Ray, begun before the launcher would: it takes SIGTERM for itself, which can then be taken back."""
    import ray

    ray.init(**settings)
    try:
        yield
    finally:
        ray.shutdown()  # ends this sweep's tasks, if any are left


@contextmanager
def _patience() -> Iterator[None]:
    """Hydra asks submitit's jobs for their results in order and gives up on all at the first that was killed."""
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError

    jobs: Any = Job  # which mypy knows only where submitit is installed
    original = jobs.results

    def results(job: Any) -> list[Any]:
        try:
            return list(original(job))
        except (UncompletedJobError, FailedJobError):
            return [JobReturn(status=JobStatus.COMPLETED, _return_value="killed")]

    jobs.results = results
    try:
        yield
    finally:
        jobs.results = original


def scancel_line(folder: Path) -> str | None:
    """What stops the jobs of an interrupted sweep, since they go on in Slurm without it; None: it has none.

    Args:
        folder: the sweep's, in which submitit keeps a folder for each job, named after it: `12_0`.
    """
    jobs = sorted({path.name.split("_")[0] for path in folder.glob("[0-9]*") if path.is_dir()}, key=int)
    return f"its cells go on in Slurm; to stop them: scancel {' '.join(jobs)}" if jobs else None
