"""A run's trained weights as a safetensors file that PyTorch loads without degrade."""

import logging
from pathlib import Path
from typing import Any

import torch

from degrade import __version__
from degrade.config import Experiment, load_config
from degrade.config.schema import settings
from degrade.data import ImageSet, load_images
from degrade.extras import require
from degrade.files import gone_on_failure
from degrade.runs.evaluation import divergence, no_checkpoint
from degrade.runs.record import RunRecord
from degrade.training import checkpoint

log = logging.getLogger("degrade.run")

NAME = "weights.safetensors"

#: The tensor, beside the network's own, that is to be subtracted from images: float32 3 x S x S, S 32 in the paper.
MEAN = "input_mean"


def export_weights(record: RunRecord, target: Path) -> dict[str, str]:
    """Write the newest checkpoint's network as safetensors, with what it takes to use it.

    Tensors have the names of the network's modules; one more, `input_mean`, is the mean training image, which is to
    be subtracted from images. It is computed from the training images, which must be at hand.

    Args:
        record: the run.
        target: the file, which is replaced if it is there.

    Returns:
        The file's metadata.

    Raises:
        ConfigError: safetensors is not installed.
        RunError: the record has no checkpoint that can be used.
        RunFileError: a checkpoint cannot be read just now.
        RunConflictError: the images are not those it was trained on.
    """
    require("safetensors", extra="safetensors", what="--weights")
    from safetensors.torch import save

    experiment = load_config(record.path / "config.yaml")
    weights, iteration = _newest(record)
    images = load_images(experiment.data, say=log.info)
    record.check_images(images.content_hash)
    facts = _metadata(record, experiment, images, iteration)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".tmp")
    with gone_on_failure(fresh):
        fresh.write_bytes(save({**weights, MEAN: images.mean.contiguous()}, metadata=facts))
        fresh.replace(target)
    return facts


def _newest(record: RunRecord) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors of the newest usable checkpoint, each with memory of its own, and the iteration."""
    found: dict[str, Any] = {}

    def take(state: dict[str, Any]) -> None:
        found.update(iteration=int(state["iteration"]), weights=state["engine"]["model"])

    if checkpoint.restore(record.path, torch.device("cpu"), take, complain=log.error) is None:
        raise no_checkpoint(record)
    contiguous = {
        key: own.contiguous().clone(memory_format=torch.contiguous_format) for key, own in found["weights"].items()
    }
    return contiguous, found["iteration"]


def _metadata(record: RunRecord, experiment: Experiment, images: ImageSet, iteration: int) -> dict[str, str]:
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
        "class_names": ", ".join(images.classes),
        "input": f"float32 N x 3 x {side} x {side}: (pixel / 255) - {MEAN}",
        "input_mean_kind": experiment.data.mean,
        "recipe": experiment.recipe.name,
        "iteration": iteration,
        "iterations": experiment.recipe.iterations,
        "seed": experiment.seed,
        "remark": divergence(record) or None,
        "test_error": row.get("test_error"),
        "train_error_clean": row.get("train_error_clean"),
        "train_error_batch": row.get("train_error_batch"),
        "data": experiment.data.name,
        "data_hash": images.content_hash,
        "degrade_version": __version__,
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
