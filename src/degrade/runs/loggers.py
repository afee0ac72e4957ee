"""The rows of a run's record for other tools, by `log.to`: TensorBoard, Weights & Biases, MLflow, Trackio.

Every logger is fed from the record, and tells which iterations it holds. So a run that was interrupted and resumed
logs nothing twice, and what a killed process did not get to log is made up for. A logger that breaks is given up with
one line of warning, and training goes on.
"""

import contextlib
import io
import json
import logging
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from degrade.config import Experiment
from degrade.extras import require
from degrade.files import read_bytes, reason, replace_text
from degrade.metrics import Metrics
from degrade.runs.board import Board
from degrade.runs.trackers import MLflow, Trackio, WeightsAndBiases

log = logging.getLogger("degrade.run")


class Logger(Protocol):
    """Where rows go; whatever it raises is caught by `Loggers`."""

    def holds(self, iteration: int) -> bool:
        """Whether an earlier session logged the row of this iteration."""

    def add(self, rows: Sequence[Metrics]) -> None:
        """Log rows that are not held, the earliest first."""

    def close(self, last: Mapping[str, Any] | None) -> None:
        """Write all to its place; `last` holds the last errors by their columns, None if the run is not finished."""


class _Kind(NamedTuple):
    """A kind of logger."""

    make: Callable[[Path, Experiment, str], Logger]
    """Makes one from the run's directory, its settings, and a key which no other run has."""
    folder: str = ""
    """The folder in the run's directory that holds all it logged, and without which it is logged anew."""


KINDS = {
    "tensorboard": _Kind(Board, Board.FOLDER),
    "wandb": _Kind(WeightsAndBiases, WeightsAndBiases.FOLDER),
    "mlflow": _Kind(MLflow),
    "trackio": _Kind(Trackio),
}

#: The file in a run's directory that holds its key, and the names of the loggers that have all of the finished run.
STATE = "loggers.json"

#: The folders of loggers in a run's directory.
FOLDERS = [kind.folder for kind in KINDS.values() if kind.folder]

#: Loggers of runs that broke in this process, or warned of something: there is one line of each.
_broken: set[tuple[Path, str]] = set()
_warned: set[tuple[Path, str]] = set()


def check_loggers(experiment: Experiment) -> None:
    """Check that what the loggers of an experiment need is there, before anything is trained.

    Raises:
        ConfigError: the package of a logger is not installed.
    """
    for name in experiment.log.loggers:
        what = f"log.to=[{name}]" if name in experiment.log.to else "log.tensorboard=true"
        require(name, extra=name, what=what)


class Loggers:
    """All loggers of a run, each of which is given up if it raises.

    `folder` is the run's directory, which exists once `begin` is called.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self._folder, self._experiment = folder, experiment
        self._open: dict[str, Logger] = {}

    def begin(self, rows: Sequence[Metrics], *, lacking: bool = False) -> None:
        """Open the loggers and log the rows that they do not hold yet.

        Args:
            rows: all that the record has.
            lacking: whether to open those only that lack some of a finished run, and did not break in this process.
        """
        for name in self._experiment.log.loggers:
            with guarded(self._folder, name):
                if lacking and (name in self._complete() or (self._folder, name) in _broken):
                    continue
                _broken.discard((self._folder, name))
                self._open[name] = KINDS[name].make(self._folder, self._experiment, self._key())
        self.add(rows)

    def add(self, rows: Sequence[Metrics]) -> None:
        """Log rows, without those that a logger holds already."""
        for name, logger in [*self._open.items()]:
            with guarded(self._folder, name, self._give_up):
                if new := [row for row in rows if not logger.holds(row.iteration)]:
                    logger.add(new)

    def finish(self, last: Mapping[str, Any]) -> None:
        """Close the loggers of a finished run, whose last errors `last` holds by their columns."""
        for name in [*self._open]:
            with guarded(self._folder, name):
                self._open.pop(name).close(last)
                self._write({**self._state(), "complete": [*self._complete(), name]})

    def close(self) -> None:
        """Close what is open still, as of a run that is not finished."""
        for name in [*self._open]:
            with guarded(self._folder, name):
                self._open.pop(name).close(None)

    def _give_up(self, name: str) -> None:
        with contextlib.suppress(Exception, SystemExit):  # it is broken, but may hold threads or files
            self._open.pop(name).close(None)

    def _complete(self) -> list[str]:
        """The loggers that have all of the finished run, as far as their folders are still there."""
        noted = self._state().get("complete", [])
        return [name for name in noted if name in KINDS and (self._folder / KINDS[name].folder).is_dir()]

    def _key(self) -> str:
        """What tells this run from all others, in any tool."""
        state = self._state()
        if not isinstance(state.get("run"), str):
            state["run"] = secrets.token_hex(4)
            self._write(state)
        return str(state["run"])

    def _state(self) -> dict[str, Any]:
        try:
            held = json.loads(read_bytes(self._folder / STATE) or b"{}")
        except ValueError:
            return {}
        return held if isinstance(held, dict) else {}

    def _write(self, state: Mapping[str, Any]) -> None:
        replace_text(self._folder / STATE, json.dumps(state) + "\n")


def log_finished(folder: Path, experiment: Experiment, rows: Sequence[Metrics]) -> None:
    """Log a finished run to those of its loggers that lack some of it, as when it was trained without them."""
    loggers = Loggers(folder, experiment)
    loggers.begin(rows, lacking=True)
    loggers.finish(asdict(rows[-1]))


@contextmanager
def guarded(folder: Path, name: str, give_up: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Let no error of a logger out, and nothing that it prints; a line of warning says what is wrong.

    A tool that asks something, such as wandb for a key, gets no answer, for nobody may sit there. After an error
    `give_up` is called with the logger's name.
    """
    trouble, stdin = "", sys.stdin
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            sys.stdin = io.StringIO()
            yield
        except (Exception, SystemExit) as error:  # whatever the tool raises; some call sys.exit
            trouble = f"{type(error).__name__}: {reason(error)}; given up, and training does not depend on it"
            give_up(name)
        finally:
            sys.stdin = stdin
    told = [str(own.message) for own in caught if issubclass(own.category, UserWarning | RuntimeWarning)]
    for said, before in ((trouble, _broken), (reason(Warning(*told[:1])) if told else "", _warned)):
        if said and (folder, name) not in before:
            before.add((folder, name))
            log.warning("%s: log.to=%s: %s", folder, name, said)
