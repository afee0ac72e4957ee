"""Many experiments are planned, trained under a launcher, and watched. This module does not import torch."""

import contextlib
import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from degrade.config import Experiment
from degrade.config.launcher import Launcher, Local
from degrade.errors import ConfigError, RunError, RunFailed, RunFileError, RunInterrupted
from degrade.extras import require
from degrade.runs.checked import Status
from degrade.runs.launchers import AGAIN, launch, settle_threads
from degrade.runs.loggers import check_loggers
from degrade.runs.observers import Watch
from degrade.runs.record import RunRecord, run_directory

log = logging.getLogger("degrade.run")

#: What becomes of a cell: an interrupted one was stopped and has a checkpoint, a lost one was killed or not begun.
OUTCOMES = (Status.COMPLETE, Status.DIVERGED, Status.FAILED, Status.RUNNING, Status.INTERRUPTED, "lost")


@dataclass(frozen=True)
class Cell:
    """One of many runs."""

    experiment: Experiment
    record: RunRecord
    may_widen: bool = False
    """Whether it may go on with more threads once fewer cells than cores are left."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.record.exists and self.record.status.finished

    @property
    def outcome(self) -> str:
        """One of OUTCOMES, by its record."""
        written, status = self.record.summary.get("status"), self.record.status
        if status.finished and not self.record.exists:  # its settings are gone, so that nothing reads it
            return "lost"
        if status in (written, Status.RUNNING):
            return status
        # A killed run counts as interrupted for its record; here the two are told apart. A run that was stopped while
        # it went on with more threads has a session that ended.
        ended = [session for session in self.record.sessions[-1:] if session.get("last_iteration") is not None]
        return Status.INTERRUPTED if ended and written == Status.RUNNING else "lost"


def finished(experiment: Experiment) -> RunRecord | None:
    """The record of an experiment that is finished, or None. Damage that leaves the metrics whole is logged.

    Raises:
        RunConflictError: the directory holds a run of other settings.
        RunFailed: rows are lost, and only training again brings them back.
        RunFileError: the system cannot read the record just now.
    """
    record = RunRecord(run_directory(experiment))
    if not record.exists:
        return None
    record.check_same(experiment)
    if not (status := record.status).finished:
        return None
    _name_damage(record)
    log.info("%s: already %s, skipped (--fresh starts over)", record.path, status)
    return record


def _name_damage(record: RunRecord) -> None:
    for loss in (*record.file_losses(), *record.earlier_losses()):
        log.error("%s/%s", record.path, loss)
    if lost := record.row_losses():
        raise RunFailed(f"{record.path}/{lost[0]}; the run is {record.status}, and only --fresh trains it again")


def plan(experiments: Sequence[Experiment], launcher: Launcher | None = None, *, fresh: bool = False) -> list[Cell]:
    """Give each experiment a record of its own, and check all that can be checked before anything is trained.

    The cells have copies of the experiments, in the same order, in which threads and precision are settled. Without a
    launcher this machine trains them, side by side. With `fresh` records may hold anything, since they are to be
    cleared.

    Raises:
        ConfigError: two experiments would share a record, or a package is missing.
        RunConflictError: a record holds other settings.
        RunFileError: a record cannot be read just now.
    """
    launcher = launcher or Local()
    if launcher.package:
        require(launcher.package, extra=launcher.extra, what=f"launcher={launcher.name}")
    experiments = copy.deepcopy(list(experiments))
    # With another number of threads results are rounded in another way.
    free = [each.runtime.threads is None and not each.runtime.deterministic for each in experiments]
    settle_threads(launcher, experiments)
    cells: dict[Path, Cell] = {}
    for experiment, may_widen in zip(experiments, free, strict=True):
        check_loggers(experiment)
        cell = Cell(experiment, RunRecord(run_directory(experiment)), may_widen)
        other = cells.setdefault(cell.record.path.resolve(), cell)
        if other is not cell:
            before = other.experiment.flat()
            differing = [f"{key}={value}" for key, value in experiment.flat().items() if value != before[key]]
            reason = f"{' '.join(differing)} makes no other run" if differing else "the same cell twice"
            raise ConfigError(
                f"{reason}: two cells would share {cell.record.path}; leave one out, or give them a name=... each"
            )
        if cell.record.exists and not fresh:
            cell.record.check_same(experiment)
    if not fresh and any("fp32" in cell.record.precisions for cell in cells.values()):
        for experiment in experiments:  # if one was begun in fp32, all are trained in fp32
            if experiment.runtime.precision == "auto":
                experiment.runtime.precision = "fp32"
    return list(cells.values())


def train_all(cells: Sequence[Cell], launcher: Launcher | None = None, *, fresh: bool = False) -> None:
    """Train cells into their records; finished ones are left as they are, interrupted ones go on.

    The cells are what `plan` gave, and the launcher is the one that they were planned for. With `fresh` all of them
    start over.

    Raises:
        RunInterrupted: somebody stopped it; what was being trained has a checkpoint.
        RunInUseError: a record that is to start over is being written, and all are left as they were.
        RunError: the launcher could not launch anything.
    """
    if fresh:
        _clear(cells)
    done = [cell for cell in cells if cell.finished]
    for cell in done:
        try:
            _name_damage(cell.record)
        except (RunFailed, RunFileError) as error:
            log.error("%s", error)
    if done:
        log.info("%d of %d finished already, skipped (--fresh starts over)", len(done), len(cells))
    if len(done) == len(cells):
        return
    watch = Watch([(cell.experiment, cell.record) for cell in cells])
    launcher = launcher or Local()
    with contextlib.closing(watch):
        try:
            todo = [cell for cell in cells if not cell.finished]
            free = [cell.experiment for cell in todo if cell.may_widen]
            launch(launcher, [cell.experiment for cell in todo], watch.look, free)
        except RunInterrupted:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise RunError(f"launcher={launcher.name}: {type(error).__name__}: {lines[0]}; {AGAIN}") from error


def run_matrix(
    experiments: Sequence[Experiment], launcher: Launcher | None = None, *, fresh: bool = False
) -> list[RunRecord]:
    """Plan experiments and train them; return their records in the same order, which tell what became of each.

    Raises:
        DegradeError: as `plan` and `train_all` do.
    """
    cells = plan(experiments, launcher, fresh=fresh)
    train_all(cells, launcher, fresh=fresh)
    return [cell.record for cell in cells]


def _clear(cells: Sequence[Cell]) -> None:
    """Remove what the records hold, once all of them are locked and so nobody else writes them."""
    from degrade.runs.train import clear

    with contextlib.ExitStack() as locks:
        there = [cell.record for cell in cells if cell.record.path.is_dir()]
        for record in there:
            locks.enter_context(record.lock())
        for record in there:
            clear(record)
