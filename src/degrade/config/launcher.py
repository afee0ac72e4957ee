"""How runs are launched: `launcher=NAME launcher.KEY=VALUE`. No result depends on it: it is no part of an experiment.

Each field is a setting of its launcher. Like `groups`, this module works without Hydra, so that completion is quick.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from degrade.errors import ConfigError


@dataclass
class Launcher:
    """What all launchers have in common; each one checks that its numbers are positive."""

    def __post_init__(self) -> None:
        for own in fields(self):
            value = getattr(self, own.name)
            if isinstance(value, int | float) and not own.metadata.get("least", 1) <= value < math.inf:
                raise ConfigError(f"launcher.{own.name}={value}: must be at least {own.metadata.get('least', 1)}")


@dataclass
class Local(Launcher):
    """Cells are trained on this machine, `jobs` at a time, which share out its cores."""

    jobs: int | str = 1
    """Number of cells that are trained at once; `auto` means one for each core, and one in all on a GPU, where
    several processes that share it have not been measured."""

    def __post_init__(self) -> None:
        if isinstance(self.jobs, str) and self.jobs != "auto":
            raise ConfigError(f"launcher.jobs={self.jobs}: write a whole number, such as 2, or auto")
        super().__post_init__()


@dataclass
class SubmititLocal(Launcher):
    """Cells are trained on this machine through submitit, to try a sweep before it goes to Slurm."""

    timeout_min: int = 10080
    """Minutes after which a cell is stopped."""
    cpus_per_task: int = 1
    """CPU threads of a cell; as many cells are trained at once as the cores allow."""
    gpus_per_node: int | None = None
    """GPUs that a cell sees; null: none."""


@dataclass
class Slurm(Launcher):
    """Each cell is a job of an array on a Slurm cluster, which needs accounting (slurmdbd) and a common file system."""

    partition: str | None = None
    """Slurm partition in which the jobs run; null, here and below, means the cluster's default."""
    account: str | None = None
    """Slurm account that the jobs are charged to."""
    qos: str | None = None
    """Quality of service that the jobs ask for."""
    constraint: str | None = None
    """Features that the nodes must have."""
    timeout_min: int = 720
    """Minutes after which Slurm ends a job."""
    max_num_timeout: int = 100
    """How often a job that is not done by then writes a checkpoint and is queued again."""
    signal_delay_s: int = 120
    """Seconds before that limit at which Slurm tells the job to write a checkpoint."""
    gpus_per_node: int | None = None
    """GPUs of a job."""
    cpus_per_task: int = 2
    """CPUs of a job, and its threads."""
    mem_gb: float | None = 4
    """Memory of a job in GB."""
    array_parallelism: int = 256
    """Number of jobs that run at once."""
    setup: list[str] = field(default_factory=list)
    """Shell commands that a job runs first, such as `module load cuda`."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Any further options of sbatch, such as `{nodelist: gpu3}`."""


@dataclass
class Ray(Launcher):
    """Each cell is a task on a running Ray cluster, which needs degrade on every node and a common file system."""

    address: str | None = "auto"
    """HOST:PORT of the cluster; `auto` means the one that this machine belongs to, or RAY_ADDRESS."""
    num_cpus: float = field(default=1, metadata={"least": 0})
    """CPUs of a cell, and its threads."""
    num_gpus: float = field(default=0, metadata={"least": 0})
    """GPUs of a cell, of which it may be given a fraction."""
    max_retries: int = field(default=3, metadata={"least": 0})
    """How often a cell whose Ray worker died is started again; it resumes from its checkpoint."""


LAUNCHERS: dict[str, type[Launcher]] = {"local": Local, "submitit_local": SubmititLocal, "slurm": Slurm, "ray": Ray}


def name_of(launcher: Launcher) -> str:
    """The launcher's name on the command line."""
    return next(name for name, kind in LAUNCHERS.items() if type(launcher) is kind)


#: What the launchers of Hydra's plugins were called, and their settings.
_FORMER = {"basic": "local", "joblib": "local"}
_FORMER_KEYS = {"n_jobs": "jobs", "ray.init.address": "address", "ray.remote.num_cpus": "num_cpus"}


def refuse_former(words: list[str]) -> None:
    """Refuse the words that named launchers when Hydra launched.

    Raises:
        ConfigError: names the words to write instead.
    """
    old = [word for word in words if word.lstrip("+~").startswith(("hydra/", "hydra."))]
    if not old:
        return
    new = []
    for word in old:
        key, _, value = word.lstrip("+~").partition("=")
        if key == "hydra/launcher":
            new.append(f"launcher={_FORMER.get(value, value)}")
        elif key.startswith("hydra.launcher."):
            own = key.removeprefix("hydra.launcher.")
            own = _FORMER_KEYS.get(own, own.removeprefix("ray.remote."))
            new.append(f"launcher.{own}={'auto' if (own, value) == ('jobs', '-1') else value}")
        else:
            raise ConfigError(f"{word}: no setting of Hydra's own is taken; launchers are set by launcher=NAME")
    if "hydra/launcher=joblib" in old and not any(word.startswith("launcher.jobs=") for word in new):
        new.append("launcher.jobs=auto")
    raise ConfigError(f"{' '.join(old)}: launchers have names of their own now; write {' '.join(new)}")
