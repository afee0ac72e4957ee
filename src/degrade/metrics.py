"""One row of metrics.jsonl: what is measured along training. This module does not import torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

#: The errors, running, clean, with batch statistics, and of the test images.
ERRORS = ("train_error", "train_error_clean", "train_error_batch", "test_error")


@dataclass(frozen=True)
class Metrics:
    """One row of metrics. Errors are fractions; a value that was not measured is None."""

    iteration: int
    """Number of updates made."""
    epoch: float
    """Number of passes over the training images."""
    lr: float
    """Rate of the last update."""
    train_loss: float
    """Mean cross-entropy since the row before, in train mode on augmented batches, each before its update."""
    train_error: float
    """Error measured as `train_loss` is."""
    train_error_clean: float | None
    """Error in eval mode, with running statistics, on all training images, un-augmented."""
    train_error_batch: float | None
    """The same with each batch's own statistics in batch norm, over the shuffled batches of the first epoch."""
    test_loss: float | None
    """Mean cross-entropy in eval mode, with running statistics, on the test images."""
    test_error: float | None
    """Error measured as `test_loss` is."""
    images_per_second: float
    """Training throughput since the row before, without evaluation."""
    seconds: float
    """Time since the start of training, with evaluation and without interruptions."""

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Metrics":
        """A row of a record of any age. A missing value that is always measured was NaN in training."""
        values: dict[str, Any] = {own.name: row.get(own.name) for own in fields(cls)}
        lost = {own.name: math.nan for own in fields(cls) if own.type is float and values[own.name] is None}
        return cls(**values | lost)

    def finite(self, name: str) -> float | None:
        """The value of that name; None where it was not measured or is not a finite number."""
        value: float | None = getattr(self, name)
        return value if value is not None and math.isfinite(value) else None
