"""A run's trained network, taken out of its checkpoint into a safetensors file that PyTorch loads without degrade."""

import logging
from pathlib import Path
from typing import Any

import torch

from degrade import __version__
from degrade.config import Experiment, load_config
from degrade.config.identity import variant
from degrade.config.schema import settings
from degrade.data import ImageSet, load_images
from degrade.errors import RunError
from degrade.metrics import ERRORS
from degrade.runs.checked import Status
from degrade.runs.evaluation import divergence, exported, no_checkpoint
from degrade.runs.library import Entry, add
from degrade.runs.record import RunRecord
from degrade.runs.trained import CONFIG, MEAN, Trained, joined, settings_to_keep
from degrade.training import checkpoint

log = logging.getLogger("degrade.run")


def of_record(record: RunRecord) -> Trained:
    """The network of a run's newest checkpoint; where none is left, the one that was exported from it.

    The mean image of a checkpoint's network is computed from the training images, which must be at hand.

    Raises:
        RunError: the record has neither a checkpoint nor an exported network that can be used.
        RunFileError: a checkpoint cannot be read just now.
        RunConflictError: the images are not those it was trained on.
    """
    experiment = load_config(record.path / "config.yaml")  # with the files that it was made with
    if (newest := _newest(record)) is None:
        if (network := exported(record)) is None:
            raise no_checkpoint(record)
        return network
    tensors, iteration = newest
    images = load_images(experiment.data, say=log.info)
    record.check_images(images.content_hash)
    facts = _facts(record, experiment, images, iteration)
    return Trained(str(record.path), tensors, images.mean, facts, trusted=True)


def keep(record: RunRecord, folder: Path) -> Entry:
    """Put a finished run's network among those of a folder, where `library.networks` finds it by its name.

    The name is that of the run's folder, with its recipe, unless that is the paper's, and with its seed, unless that
    is 0: `plain-56`, `plain-56-short`, `plain-56-short,optim.lr=0.05,seed-1`.

    Raises:
        RunError: the run is not complete, or as `of_record` says.
        RunFileError, RunConflictError: as `of_record` does.
    """
    if record.status != Status.COMPLETE:
        raise RunError(f"{record.path}: is {record.status}; only a complete run's network is kept")
    network = of_record(record)
    own = network.experiment
    name = _name(own)
    file = f"{name}.safetensors"
    entry = Entry(
        name=name,
        file=file,
        sha256=network.save(folder / file),
        recipe=own.recipe.name,
        iterations=network.iteration,
        seed=own.seed,
        record=f"{own.name}/{variant(own)}/seed-{own.seed}",
        **{key: float(network.facts[key]) if key in network.facts else None for key in ERRORS},
    )
    add(entry, folder)
    return entry


def _name(experiment: Experiment) -> str:
    network, *changed = variant(experiment).split(",")
    recipe = "" if experiment.recipe.name == "paper" else f"-{experiment.recipe.name}"
    seed = [f"seed-{experiment.seed}"] if experiment.seed else []
    return ",".join([f"{network}{recipe}", *changed, *seed])


def _newest(record: RunRecord) -> tuple[dict[str, torch.Tensor], int] | None:
    """The tensors of the newest usable checkpoint, if any, each with memory of its own, and the iteration."""
    found: dict[str, Any] = {}

    def take(state: dict[str, Any]) -> None:
        found.update(iteration=int(state["iteration"]), weights=state["engine"]["model"])

    if checkpoint.restore(record.path, torch.device("cpu"), take, complain=log.error) is None:
        return None
    weights = {key: own.clone(memory_format=torch.contiguous_format) for key, own in found["weights"].items()}
    return weights, found["iteration"]


def _facts(record: RunRecord, experiment: Experiment, images: ImageSet, iteration: int) -> dict[str, str]:
    """What a user of the weights must know, as text; errors are fractions, measured at this iteration or left out."""
    model, side = experiment.model, experiment.data.pixels
    row = next((row for row in record.rows() if row["iteration"] == iteration), {})
    facts = {
        "format": "pt",
        "family": model.family,
        "depth": model.depth,
        "shortcut": model.shortcut if model.family == "residual" else None,
        "norm": model.norm,
        "activation": model.activation,
        "bn_epsilon": model.bn_epsilon,
        "init": model.init,
        "width": model.width if not settings()["model.width"].unmet(experiment) else None,
        "classes": model.classes,
        "class_names": joined(images.classes),
        "input": f"float32 N x 3 x {side} x {side}: (pixel / 255) - {MEAN}",
        "input_mean_kind": experiment.data.mean,
        "recipe": experiment.recipe.name,
        "iteration": iteration,
        "iterations": experiment.recipe.iterations,
        "seed": experiment.seed,
        "precision": record.precision,
        "remark": divergence(record) or None,
        **{key: row.get(key) for key in ERRORS},
        "data": experiment.data.name,
        "data_hash": images.content_hash,
        "degrade_version": __version__,
        CONFIG: settings_to_keep(experiment),
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
