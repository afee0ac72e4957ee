"""How many CPU cores there are for this process: what affinity and a container's quota allow, less what is in use.

Two threads that share a core wait for one another at the end of every layer, so a training with more threads than
cores to run on is many times slower than one with fewer.
"""

import functools
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("degrade.cores")

#: Seconds over which the load is measured; the kernel counts in ticks of a hundredth.
LOOK = 0.3

CGROUPS, OWN_CGROUPS, LOAD = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/stat")


@dataclass(frozen=True)
class Cores:
    """CPU cores as this process finds them.

    Args:
        allowed: the number that its affinity names.
        quota: how many cores' time the control groups allow; infinite without a limit.
        busy: how many of the allowed ones other processes keep busy.
    """

    allowed: int
    quota: float
    busy: float

    @property
    def usable(self) -> int:
        """The number of threads that find a core of their own, at least 1."""
        return max(1, min(self._idle, self._permitted))

    def why(self) -> str:
        """What keeps this process from using all cores."""
        if self._permitted < self._idle:
            return f"the quota of this container is {self.quota:g} of {self.allowed} cores"
        return f"other work keeps {self.busy:.1f} of {self.allowed} cores busy"

    def shortage(self, threads: int) -> str:
        """Why so many threads do not find a core each, and what helps; empty if they do."""
        if min(self._idle, self._permitted) >= threads:
            return ""
        mend = "raise it" if self._permitted < self._idle else "end that"
        after = f"with runtime.threads={self.usable}" if self.usable < threads else "later"
        return f"{self.why()}; {mend}, or stop this and go on {after}"

    @property
    def _idle(self) -> int:
        return self.allowed - math.floor(self.busy + 0.5)

    @property
    def _permitted(self) -> int:
        return math.floor(min(self.quota, self.allowed))


def look() -> Cores:
    """Affinity, quota and load as they are now; it takes LOOK seconds."""
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return Cores(len(own), _quota(), _busy(own))


@functools.cache
def at_first() -> Cores:
    """What this process found when it first asked, so that all its trainings take as many threads."""
    return look()


@functools.cache
def usable() -> int:
    """The number of cores that this process found usable at first; fewer than all are logged, with the reason."""
    cores = at_first()
    if cores.usable < cores.allowed:
        log.info("using %d of %d CPU cores: %s", cores.usable, cores.allowed, cores.why())
    return cores.usable


def _quota() -> float:
    """The least number of cores that a control group above this process allows, of version 1 or 2."""
    quotas = [math.inf]
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = CGROUPS
        elif "cpu" in controllers.split(","):
            top = CGROUPS / controllers if (CGROUPS / controllers).is_dir() else CGROUPS / "cpu"
        else:
            continue
        folder = top / path.lstrip("/")  # in a container it may be missing, and the limit stands at the top
        quotas += [_limit(each) for each in (folder, *folder.parents) if each.is_relative_to(top)]
    return min(quotas)


def _limit(folder: Path) -> float:
    """Quota divided by period in a control group's folder; infinite where none is set."""
    try:
        if (both := folder / "cpu.max").is_file():
            quota, period = both.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = float(quota) / float(period)  # "max" and -1 mean no limit
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
    return cores if cores > 0 else math.inf


def _busy(own: set[int]) -> float:
    """How many of some cores other processes keep busy; work that is niced gives way, and does not count."""
    before, mine, started = _ticks(own), time.process_time(), time.monotonic()
    if before is None:
        return 0.0
    time.sleep(LOOK)
    after, mine = _ticks(own), time.process_time() - mine
    if after is None or after[1] <= before[1]:
        return 0.0
    share = (after[0] - before[0]) / (after[1] - before[1])
    return max(0.0, len(own) * share - mine / (time.monotonic() - started))


def _ticks(own: set[int]) -> tuple[int, int] | None:
    """Ticks that some cores were busy, and all ticks that they counted; None if the system does not tell."""
    busy = total = 0
    try:
        for line in LOAD.read_text().splitlines():
            name, *counts = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in own:
                user, nice, system, idle, waiting, *interrupts = (int(count) for count in counts[:8])
                busy += user + system + sum(interrupts)
                total += user + system + sum(interrupts) + nice + idle + waiting
    except (OSError, ValueError):
        return None
    return busy, total
