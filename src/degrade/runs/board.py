"""A run's measurements for TensorBoard, in `RUN/tensorboard`.

Whenever a run begins or goes on, the event files are written anew from the rows of its record, so that no step is
there twice and none is missing.
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degrade.config import Experiment
from degrade.extras import require
from degrade.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "tensorboard"

#: TensorBoard's tag for each column of metrics.jsonl.
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


def check_board(experiment: Experiment) -> None:
    """Check that what `log.tensorboard` needs is there, before anything is trained.

    Raises:
        ConfigError: log.tensorboard is set, and the package is not installed.
    """
    if experiment.log.tensorboard:
        require("tensorboard", extra="tensorboard", what="log.tensorboard=true")


class Board:
    """Writes a run's event files.

    Args:
        folder: the run's directory.
        rows: the metrics that the run has so far.
    """

    def __init__(self, folder: Path, rows: Sequence[Metrics]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder / FOLDER), flush_secs=10)
        # TensorBoard's relative time is then the record's, as if the run had been trained in one go.
        self._started = time.time() - (rows[-1].finite("seconds") or 0.0 if rows else 0.0)
        for row in rows:
            self.add(row)

    def add(self, row: Metrics) -> None:
        """Write the finite values of a row of metrics."""
        for key, tag in TAGS.items():
            if (value := row.finite(key)) is not None:
                when = self._started + (row.finite("seconds") or 0.0)
                self._writer.add_scalar(tag, value, row.iteration, walltime=when)

    def finish(self, experiment: Experiment, last: Mapping[str, Any]) -> None:
        """Write the settings as hyperparameters, beside the last errors, which `last` holds by their columns."""
        from torch.utils.tensorboard.summary import hparams

        settings = {key: _plain(value) for key, value in experiment.flat().items() if value is not None}
        errors = {tag: last[key] for key, tag in TAGS.items() if "error" in key and last.get(key) is not None}
        # The writer's own add_hparams would make another run for them.
        for summary in hparams(settings, errors):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)

    def close(self) -> None:
        """Flush all to disk and close the files."""
        self._writer.close()


def write_board(folder: Path, experiment: Experiment, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all that a Board would have written of a finished run, if it was trained without one."""
    if not (folder / FOLDER).is_dir():
        metrics = [Metrics.read(row) for row in rows]
        board = Board(folder, metrics)
        board.finish(experiment, asdict(metrics[-1]))
        board.close()


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)


def add_figure(folder: Path, figure: "Figure", iteration: int) -> None:
    """Write a run's final figure, in place of an earlier one.

    Args:
        folder: the run's directory.
        figure: shows the run's curves, and is closed afterwards.
        iteration: the run's last one.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    for old in (folder / FOLDER).glob(f"*{_FIGURE}"):
        old.unlink()
    writer: Any = SummaryWriter(str(folder / FOLDER), filename_suffix=_FIGURE)
    writer.add_figure("curves", figure, iteration)
    writer.close()
