"""A matrix of runs through Hydra's multirun and launchers: planned, launched, watched. No torch.

The records are the only word on what became of a cell: launchers lose results, records do not.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from degrade.config import Experiment, compose_all
from degrade.config.compose import expand, hydra_state_kept
from degrade.config.groups import config_dir
from degrade.errors import ConfigError, RunError, RunInterrupted
from degrade.runs.board import check_board
from degrade.runs.cell import GRACE, STOP, job
from degrade.runs.launchers import Launcher, choose_launcher, scancel_line, tended
from degrade.runs.progress import SweepBar
from degrade.runs.record import RunRecord, run_directory, settle_precision

log = logging.getLogger("degrade.run")

#: What becomes of a cell. `interrupted`: stopped, with a checkpoint. `lost`: killed, or never begun.
OUTCOMES = ("complete", "diverged", "failed", "running", "interrupted", "lost")

#: Launchings of one sweep, when the launcher itself breaks down after some of its cells got on.
ATTEMPTS = 3


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    overrides: list[str]
    """What composes it."""
    experiment: Experiment
    record: RunRecord

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.record.exists and self.record.summary.get("status") in ("complete", "diverged")

    @property
    def outcome(self) -> str:
        """One of OUTCOMES, by its record."""
        written, status = self.record.summary.get("status"), self.record.status
        # A record takes a run that was killed for an interrupted one; here the two are told apart.
        return status if status in OUTCOMES and status in (written, "running") else "lost"


@dataclass(frozen=True)
class Sweep:
    """Cells, and how they are launched."""

    cells: list[Cell]
    launcher: Launcher

    @property
    def pending(self) -> list[Cell]:
        """What is not finished."""
        return [cell for cell in self.cells if not cell.finished]


def plan(overrides: Sequence[str], *, fresh: bool = False) -> Sweep:
    """Expand a command line into cells, each validated, each with a record of its own.

    Args:
        overrides: settings, some of several values, and Hydra's launcher.
        fresh: records may hold anything, since they are to be cleared.

    Raises:
        ConfigError: a cell cannot be, or two would share a record, or the launcher is not to be had.
        RunConflictError: a cell's record holds other settings.
    """
    for_hydra = [text for text in overrides if text.lstrip("+~").startswith(("hydra.", "hydra/"))]
    combinations = expand([text for text in overrides if text not in for_hydra])
    experiments = compose_all(combinations)
    for experiment in experiments:
        check_board(experiment)
    launcher = choose_launcher(for_hydra, len(combinations), experiments[0].runtime.device)
    cells = []
    for combination, experiment in zip(combinations, experiments, strict=True):
        if launcher.threads is not None and experiment.runtime.threads is None:
            combination.append(f"runtime.threads={launcher.threads}")
            experiment.runtime.threads = launcher.threads
        cells.append(Cell(combination, experiment, RunRecord(run_directory(experiment))))
    _refuse_shared_records(cells)
    if not fresh:
        for cell in cells:
            if cell.record.exists:
                cell.record.check_same(cell.experiment)
        settle_precision((cell.experiment, cell.record) for cell in cells)
        for cell in cells:
            cell.overrides.append(f"runtime.precision={cell.experiment.runtime.precision}")
    return Sweep(cells, launcher)


def _refuse_shared_records(cells: Sequence[Cell]) -> None:
    first: dict[Path, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.record.path.resolve(), cell)
        if other is not cell:
            differing = [word for word in cell.overrides if word not in other.overrides]
            reason = f"{' '.join(differing)} makes no other run" if differing else "the same cell twice"
            raise ConfigError(
                f"{reason}: two cells would share {cell.record.path}; leave one out, or give them a name=... each"
            )


def sweep(planned: Sweep, *, fresh: bool = False) -> None:
    """Train a sweep's cells into their records; finished ones are left as they are, interrupted ones go on.

    Args:
        planned: by `plan`.
        fresh: start all of them over.

    Raises:
        RunInterrupted: somebody stopped it; what was being trained has a checkpoint.
        RunInUseError: a record that is to start over is being written.
        RunError: the launcher could not launch anything.
    """
    if fresh:
        _clear(planned.cells)
    bar = SweepBar([(cell.experiment, cell.record) for cell in planned.cells])
    with _folder(planned) as folder, bar:
        try:
            _launch_until_done(planned, folder)
        except KeyboardInterrupt:
            _wait_for_checkpoints(planned)
            advice = scancel_line(folder) if planned.launcher.name == "slurm" else None
            raise RunInterrupted(f"sweep stopped; {advice or 'the same command goes on from there'}") from None


@contextmanager
def _folder(planned: Sweep) -> Iterator[Path]:
    """Where Hydra writes: beside the runs, since jobs on other machines look there too. Kept if it holds logs."""
    root = planned.cells[0].record.path.parents[2].absolute() / ".sweeps"
    folder = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        (folder / STOP).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
            root.rmdir()


@contextmanager
def _checkpoints_first(planned: Sweep, folder: Path) -> Iterator[None]:
    """Let cells that run side by side write checkpoints before their launcher hears of Ctrl-C: joblib kills them."""

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])  # the second one stops at once
        (folder / STOP).touch()
        _wait_for_checkpoints(planned)
        raise KeyboardInterrupt

    before = {}
    if planned.launcher.name not in ("basic", "slurm") and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _clear(cells: Sequence[Cell]) -> None:
    from degrade.runs.runner import clear

    for cell in cells:
        if cell.record.path.is_dir():
            with cell.record.lock():
                clear(cell.record)


def _launch_until_done(planned: Sweep, folder: Path) -> None:
    for attempt in range(ATTEMPTS):
        pending = planned.pending
        if not pending:
            return
        before = [cell.record.summary for cell in pending]
        try:
            with tended(planned.launcher), _checkpoints_first(planned, folder):
                _multirun(pending, planned.launcher, folder)
            return
        except (Exception, SystemExit) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            trouble = f"hydra/launcher={planned.launcher.name}: {type(error).__name__}: {lines[0]}"
            got_on = before != [cell.record.summary for cell in pending]
            if not got_on or attempt == ATTEMPTS - 1:
                raise RunError(trouble) from error
            log.warning("%s; launching what is unfinished once more", trouble)


class CellSweeper(Sweeper):
    """Hands Hydra's launcher the cells that are not finished; each was composed and validated before."""

    cells: ClassVar[list[list[str]]] = []

    def __init__(self, max_batch_size: int | None, params: Any = None) -> None:  # noqa: ARG002 - Hydra's basic one's
        self.at_once = max_batch_size or len(self.cells)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self.launcher: HydraLauncher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:  # noqa: ARG002 - the cells hold them
        """Launch the cells, so many at a time."""
        for first in range(0, len(self.cells), self.at_once):
            self.launcher.launch(self.cells[first : first + self.at_once], initial_job_idx=first)


#: Hydra takes plugins by names in this package only, and looks them up in a register.
_SWEEPER = "hydra_plugins.degrade.CellSweeper"


def _multirun(cells: Sequence[Cell], launcher: Launcher, folder: Path) -> None:
    """Hydra's multirun over `cells`, without its folders and loggers."""
    CellSweeper.cells = [cell.overrides for cell in cells]
    words = [
        *launcher.overrides,
        f"hydra.sweeper._target_={_SWEEPER}",
        f"hydra.sweeper.max_batch_size={launcher.at_once or 'null'}",
        f"hydra.sweep.dir={_quoted(str(folder))}",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra.job.name=degrade",
        "hydra.job.chdir=false",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
    if "DEGRADE_DATA" in os.environ:  # a Ray cluster has an environment of its own
        words.append(f"+hydra.job.env_set.DEGRADE_DATA={_quoted(os.environ['DEGRADE_DATA'])}")
    with hydra_state_kept(), _command_line(["degrade", "--multirun", *words]):
        Plugins.instance().class_name_to_class[_SWEEPER] = CellSweeper
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(job)()


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


@contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    """hydra.main reads sys.argv; HYDRA_FULL_ERROR lets its errors through instead of printing them and exiting."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = words, "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def _wait_for_checkpoints(planned: Sweep) -> None:
    """The sweep ends after its cells, except on Slurm, where they go on without it."""
    deadline = time.monotonic() + GRACE
    running = [] if planned.launcher.name == "slurm" else planned.pending
    while any(cell.record.in_use for cell in running) and time.monotonic() < deadline:
        time.sleep(0.2)
