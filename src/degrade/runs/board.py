"""A run's measurements for TensorBoard, in `RUN/tensorboard`.

The record is the truth: whenever a run begins or goes on, the event files are written anew from its rows, so no step
is there twice and none is missing.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degrade.config import Experiment
from degrade.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "tensorboard"

#: Column of metrics.jsonl: TensorBoard's tag.
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
    """Before anything is trained.

    Raises:
        ConfigError: log.tensorboard is set, and the package is not installed.
    """
    if experiment.log.tensorboard:
        require("tensorboard", extra="tensorboard", what="log.tensorboard=true")


class Board:
    """Writes a run's event files.

    Args:
        folder: the run's directory.
        rows: of metrics that the run has so far.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder / FOLDER), flush_secs=10)
        # As if it had been trained in one go: TensorBoard's relative time is then the record's.
        self._started = time.time() - (float(rows[-1]["seconds"]) if rows else 0.0)
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row of metrics."""
        for key, tag in TAGS.items():
            if row.get(key) is not None and math.isfinite(row[key]):  # as in the record
                when = self._started + float(row["seconds"])
                self._writer.add_scalar(tag, row[key], row["iteration"], walltime=when)

    def finish(self, experiment: Experiment, last: Mapping[str, Any]) -> None:
        """Write the settings as hyperparameters, beside the last errors."""
        from torch.utils.tensorboard.summary import hparams

        settings = {key: _plain(value) for key, value in experiment.flat().items() if value is not None}
        errors = {tag: last[key] for key, tag in TAGS.items() if "error" in key and last.get(key) is not None}
        # Not add_hparams, which makes a run of its own for them.
        for summary in hparams(settings, errors):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)

    def close(self) -> None:
        """Flush to disk."""
        self._writer.close()


def write_board(folder: Path, experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> None:
    """All that Board writes of a finished run, where it was trained without."""
    if not (folder / FOLDER).is_dir():
        board = Board(folder, rows)
        board.finish(experiment, rows[-1])
        board.close()


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)


def add_figure(folder: Path, figure: "Figure", iteration: int) -> None:
    """Write a run's final figure, in place of an earlier one.

    Args:
        folder: the run's directory.
        figure: of its curves; closed afterwards.
        iteration: the run's last.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    for old in (folder / FOLDER).glob(f"*{_FIGURE}"):
        old.unlink()
    writer: Any = SummaryWriter(str(folder / FOLDER), filename_suffix=_FIGURE)
    writer.add_figure("curves", figure, iteration)
    writer.close()
