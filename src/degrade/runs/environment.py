"""What a result may depend on besides its settings: versions, device, commit, data, and the paper's open choices."""

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch

import degrade
from degrade.config import Experiment, ModelConfig
from degrade.data import ImageSet
from degrade.models import count_parameters
from degrade.training import Engine, choose_device
from degrade.training.schedule import WARMUP_WINDOW


def describe(experiment: Experiment, engine: Engine, images: ImageSet) -> dict[str, Any]:
    """The contents of environment.json, sessions left out."""
    model, recipe = experiment.model, experiment.recipe
    warmup = f"on, until error over {WARMUP_WINDOW} iterations is below {recipe.warmup_error:.0%}"
    return {
        "versions": {
            "degrade": degrade.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "numpy": numpy.__version__,
        },
        "platform": platform.platform(),
        "device": device_name(engine.device),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "precision": engine.precision,
        "engine": engine.name,
        "git": git_state(),
        "data_source": images.source,
        "data_hash": images.content_hash,
        "synthetic": images.synthetic,
        "parameters": count_parameters(engine.model),
        "open_choices": {
            "weight decay on batch norm": experiment.optim.decay_norm,
            "batch norm epsilon": model.bn_epsilon,
            "batch norm momentum": model.bn_momentum,
            "test-time statistics": "moving averages",
            "train_error": "train mode, augmented batches, each before its update, since the row before",
            "train_error_clean": "eval mode, un-augmented, whole training set",
            "option A padding": "pixels ::2; new channels half before, half after",
            "pixel scale": "0 to 1, then mean subtracted",
            "initial weights": _initial_weights(model),
            "warm-up": warmup if recipe.warms_up(model.depth) else "off",
        },
    }


def precision_before(environment: dict[str, Any], experiment: Experiment) -> str | None:
    """The precision a record was begun in on a device of this model, for `auto` to mean the same again; else None."""
    here, there = device_name(choose_device(experiment.runtime.device)), str(environment.get("device"))
    before = environment.get("precision")
    same = _without_threads(there) == _without_threads(here)
    return before if same and before in ("fp32", "bf16") else None


def _without_threads(name: str) -> str:
    """What `device_name` gives, less the number of threads."""
    return re.sub(r", \d+ threads?$", "", name)


def _initial_weights(model: ModelConfig) -> str:
    if model.start is not None:
        return f"those of {model.start}, trained; added layers the identity"
    if model.init == "dirac":
        return "identity; where channels change, and in the linear layer, he, fan-in; biases 0"
    return f"{model.init}, fan-in, linear layer too; biases 0"


def git_state() -> dict[str, Any]:
    """Commit and dirtiness of the source checkout; nulls for an installed wheel."""
    here = Path(degrade.__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", "src", "configs")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of the CPU with the number of threads in use."""
    threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return f"{models[0].partition(':')[2].strip()}, {threads}"
    except (OSError, IndexError):
        return f"{platform.processor() or platform.machine()}, {threads}"
