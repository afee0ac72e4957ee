"""Training: from batches and a network to metrics, without any knowledge of records or progress bars."""

from degrade.metrics import Metrics
from degrade.training.choice import choose_precision
from degrade.training.device import choose_device, choose_engine, device_name, has_bf16
from degrade.training.engine import Engine
from degrade.training.fit import Evaluation, Training, fit
from degrade.training.schedule import learning_rate

__all__ = [
    "Engine",
    "Evaluation",
    "Metrics",
    "Training",
    "choose_device",
    "choose_engine",
    "choose_precision",
    "device_name",
    "fit",
    "has_bf16",
    "learning_rate",
]
