"""A run's measurements for TensorBoard, in `RUN/tensorboard`.

Whenever a run begins or goes on, the event files are written anew from the rows of its record, so that no step is
there twice and none is missing.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degrade.config import Experiment
from degrade.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The name, in TensorBoard and other tools, of each column of metrics.jsonl.
TAGS = {
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "train_error": "error/train",
    "train_error_clean": "error/train_clean",
    "train_error_batch": "error/train_batch",
    "test_error": "error/test",
    "lr": "lr",
    "images_per_second": "images_per_second",
}

_FIGURE = ".figure"


def values(row: Metrics) -> dict[str, float]:
    """The finite values of a row of metrics, by their names in tools."""
    return {tag: value for key, tag in TAGS.items() if (value := row.finite(key)) is not None}


def errors(last: Mapping[str, Any]) -> dict[str, float]:
    """Those of the last errors, given by their columns, that were measured, by their names in tools."""
    return {tag: last[key] for key, tag in TAGS.items() if "error" in key and last.get(key) is not None}


def hyperparameters(experiment: Experiment) -> dict[str, Any]:
    """The settings that have a value, each as a number, a truth value or text."""
    return {key: _plain(value) for key, value in experiment.flat().items() if value is not None}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)


class Board:
    """Writes a run's event files; a `Logger` of `runs.loggers`."""

    FOLDER = "tensorboard"

    def __init__(self, folder: Path, experiment: Experiment, _: str = "") -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        shutil.rmtree(folder / self.FOLDER, ignore_errors=True)
        self._experiment = experiment
        self._writer: Any = SummaryWriter(str(folder / self.FOLDER), flush_secs=10)
        self._started: float | None = None

    def holds(self, iteration: int) -> bool:  # noqa: ARG002 - files are written anew
        """Whether the row of an iteration is there: never at first."""
        return False

    def add(self, rows: Sequence[Metrics]) -> None:
        """Write the finite values of rows of metrics."""
        seconds = [row.finite("seconds") or 0.0 for row in rows]
        if self._started is None:
            # TensorBoard's relative time is then the record's, as if the run had been trained in one go.
            self._started = time.time() - seconds[-1]
        for row, after in zip(rows, seconds, strict=True):
            for tag, value in values(row).items():
                self._writer.add_scalar(tag, value, row.iteration, walltime=self._started + after)

    def close(self, last: Mapping[str, Any] | None) -> None:
        """Flush all to disk; of a finished run write the settings as hyperparameters too, beside the last errors."""
        if last is not None:
            from torch.utils.tensorboard.summary import hparams

            # The writer's own add_hparams would make another run for them.
            for summary in hparams(hyperparameters(self._experiment), errors(last)):  # type: ignore[no-untyped-call]
                self._writer.file_writer.add_summary(summary)
        self._writer.close()


def add_figure(folder: Path, figure: "Figure", iteration: int) -> None:
    """Write a run's final figure, in place of an earlier one.

    The figure shows the run's curves and is closed afterwards; `iteration` is the run's last one.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    for old in (folder / Board.FOLDER).glob(f"*{_FIGURE}"):
        old.unlink()
    writer: Any = SummaryWriter(str(folder / Board.FOLDER), filename_suffix=_FIGURE)
    writer.add_figure("curves", figure, iteration)
    writer.close()
