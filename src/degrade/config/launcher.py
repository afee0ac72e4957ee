"""How runs are launched: `launcher=NAME launcher.KEY=VALUE`. No experiment holds it; the threads of a run follow it.

Each field is a setting of its launcher. Like `groups`, this module works without Hydra, so that completion is quick.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from degrade.errors import ConfigError


@dataclass
class Launcher:
    """What all launchers have in common; each one checks that its numbers are positive."""

    name: ClassVar[str]
    """Its name on the command line."""
    package: ClassVar[str | None] = None
    """The package that it needs."""
    extra: ClassVar[str] = ""
    """degrade's extra that installs it."""

    def __post_init__(self) -> None:
        for own in fields(self):
            value = getattr(self, own.name)
            if isinstance(value, int | float) and not own.metadata.get("least", 1) <= value < math.inf:
                raise ConfigError(f"launcher.{own.name}={value}: must be at least {own.metadata.get('least', 1)}")


@dataclass
class Local(Launcher):
    """Cells are trained on this machine, `jobs` at a time, which share its cores; the longest ones begin first."""

    name = "local"

    jobs: int | str = "auto"
    """Number of cells that are trained at once; `auto` means one for each core, and one in all on a GPU, where
    several processes that share it have not been measured."""

    def __post_init__(self) -> None:
        if isinstance(self.jobs, str) and self.jobs != "auto":
            raise ConfigError(f"launcher.jobs={self.jobs}: write a whole number, such as 2, or auto")
        super().__post_init__()


@dataclass
class SubmititLocal(Launcher):
    """Cells are trained on this machine through submitit, to try a sweep before it goes to Slurm."""

    name, package, extra = "submitit_local", "submitit", "slurm"

    timeout_min: int = 10080
    """Minutes after which a cell is stopped."""
    cpus_per_task: int = 1
    """Number of CPU threads of a cell; as many cells are trained at once as the cores allow."""
    gpus_per_node: int | None = None
    """Number of GPUs that a cell sees; null means none."""


@dataclass
class Slurm(Launcher):
    """Each cell is a job of an array on a Slurm cluster, with accounting (slurmdbd) and a common file system."""

    name, package, extra = "slurm", "submitit", "slurm"

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
    """Number of GPUs of a job."""
    cpus_per_task: int = 2
    """Number of CPUs of a job, and of its threads."""
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
    """Each cell is a task on a running Ray cluster, with degrade on every node and a common file system."""

    name, package, extra = "ray", "ray", "ray"

    address: str | None = "auto"
    """HOST:PORT of the cluster; `auto` means the one that this machine belongs to, or RAY_ADDRESS."""
    num_cpus: float = field(default=1, metadata={"least": 0})
    """Number of CPUs of a cell, and of its threads."""
    num_gpus: float = field(default=0, metadata={"least": 0})
    """Number of GPUs of a cell, which may be a fraction."""
    max_retries: int = field(default=3, metadata={"least": 0})
    """How often a cell whose Ray worker died is started again; it resumes from its checkpoint."""


LAUNCHERS: dict[str, type[Launcher]] = {kind.name: kind for kind in (Local, SubmititLocal, Slurm, Ray)}
