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
from degrade.config import Experiment, ModelConfig, RecipeConfig
from degrade.config.registry import recorded
from degrade.data import ImageSet
from degrade.models import count_parameters
from degrade.runs.record import now
from degrade.training import Engine, device_name
from degrade.training.schedule import WARMUP_WINDOW


def describe(experiment: Experiment, engine: Engine, images: ImageSet) -> dict[str, Any]:
    """The part of environment.json that holds for all sessions of a run."""
    model, recipe = experiment.model, experiment.recipe
    return {
        "data_source": images.source,
        "data_hash": images.content_hash,
        "synthetic": images.synthetic,
        "images": {"train": len(images.train_labels), "test": len(images.test_labels)},
        "chance_error": images.chance_error,
        "parameters": count_parameters(engine.model),
        "shortcuts": bool(getattr(engine.model, "shortcuts", False)),
        "open_choices": {
            "weight decay on batch norm": experiment.optim.decay_norm,
            "batch norm epsilon": model.bn_epsilon,
            "batch norm momentum": model.bn_momentum,
            "test-time statistics": "moving averages",
            "images that share batch norm's statistics": f"{recipe.batch_size}, the batch (paper: likely 64 a GPU)",
            "train_error": "train mode, augmented batches, each before its update, since the row before",
            "train_error_clean": "eval mode, running statistics, un-augmented, whole training set",
            "train_error_batch": "eval mode, each batch's own statistics, un-augmented, whole training set shuffled",
            "option A padding": "pixels ::2; new channels half before, half after",
            "pixel scale": "0 to 1, then mean subtracted",
            "initial weights": _initial_weights(model),
            "warm-up": _warm_up(recipe, model.depth),
        },
    }


def describe_session(engine: Engine, *, first_iteration: int) -> dict[str, Any]:
    """What one process computes with: an entry of `sessions` in environment.json.

    `first_iteration` is the number of updates that were made before the session.
    """
    return {
        "started": now(),
        "first_iteration": first_iteration,
        "last_iteration": None,  # it is known when the session ends, or after a kill when another one goes on
        "device": device_name(engine.device),
        "threads": torch.get_num_threads(),
        "precision": engine.precision,
        "engine": engine.name,
        "memory_format": str(engine.memory_format).removeprefix("torch.").removesuffix("_format"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
        "git": git_state(),
        **({"modules": modules} if (modules := recorded()) else {}),
        "versions": {
            "degrade": degrade.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "numpy": numpy.__version__,
        },
    }


def _warm_up(recipe: RecipeConfig, depth: int) -> str:
    if recipe.ramp[0]:
        return f"{recipe.warmup}, over {recipe.warmup_iterations} iterations"
    if recipe.warms_up(depth):
        return f"on, until error over {WARMUP_WINDOW} iterations is below {recipe.warmup_error:.0%}"
    return "off"


def _initial_weights(model: ModelConfig) -> str:
    if model.start is not None:
        same = re.split("[,.]", model.start)[0] == f"{model.family}-{model.depth}"
        return f"those of {model.start}, trained{'' if same else '; added layers the identity'}"
    drawn = {
        "he": "he, fan-in, linear layer too",
        "xavier": "xavier, fan-in and fan-out, linear layer too",
        "gaussian": "gaussian, standard deviation 0.01, linear layer too",
        "dirac": "identity; where channels change, and in the linear layer, he, fan-in",
        "he_fan_out": "he, fan-out, linear layer too",
        "orthogonal": "orthogonal, times the root of 2, linear layer too",
    }
    return f"{drawn.get(model.init, model.init)}; biases 0"


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
