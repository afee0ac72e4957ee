"""Evaluation of a record's checkpoint, or of a trained network outside its record."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from degrade.config import Experiment
from degrade.data import Batches, ImageSet, load_images
from degrade.errors import RunError
from degrade.files import read_bytes
from degrade.progress import Progress
from degrade.runs.checked import Status
from degrade.runs.record import RunRecord
from degrade.runs.trained import NAME, Trained
from degrade.training import Evaluation, Training, checkpoint

log = logging.getLogger("degrade.run")


def evaluate(
    record: RunRecord | Trained, experiment: Experiment, *, batch_statistics: bool = False, augmented: bool = False
) -> tuple[Evaluation, Evaluation, int, ImageSet]:
    """Evaluate a trained network on all training images and on the test images.

    Args:
        record: the record whose newest checkpoint is evaluated, or what was exported from it where none is left, or a
            network outside its record.
        experiment: its settings.
        batch_statistics: whether batch norm takes each batch's own statistics, in both sets and in shuffled batches
            of training's size, instead of its running statistics.
        augmented: whether the training images are cropped and flipped as in the first epoch of training; test images
            never are.

    Returns:
        Training and test evaluation, the network's iteration, and the images.

    Raises:
        RunError: the record has neither a checkpoint nor an exported network that can be used.
        RunConflictError: the images are not those it was trained on.
    """
    images = load_images(experiment.data, say=log.info)
    progress = Progress(len(images.train_labels) + len(images.test_labels))

    def tick(count: int) -> None:
        progress.advance(count)
        progress.tell("evaluating")

    restore = record.restored if isinstance(record, Trained) else partial(restored, record)
    with contextlib.closing(progress):
        training = restore(experiment, images, tick=tick)
        batch_statistics = batch_statistics and experiment.model.batch_norm
        if batch_statistics or augmented:
            train = training.evaluate_batches(batch_statistics=batch_statistics, augmented=augmented)
        else:
            train = training.evaluate(training.batches.pixels, training.batches.labels)
        if batch_statistics:
            swapped = replace(images, train_images=images.test_images, train_labels=images.test_labels)
            size, seed, device = experiment.recipe.batch_size, experiment.seed, training.engine.device
            shuffled = Batches(swapped, batch_size=size, augment=False, seed=seed, device=device)
            test = training.evaluate_batches(shuffled, batch_statistics=True)
        else:
            test = training.evaluate(*training.test)
    return train, test, training.iteration, images


def divergence(record: RunRecord) -> str:
    """Words that say at which iteration a run diverged; empty if it did not."""
    summary = record.summary
    if summary.get("status") != Status.DIVERGED:
        return ""
    return f"diverged at iteration {summary.get('iteration', 0):,}"


def heading(record: RunRecord | Trained, iteration: int, *, synthetic: bool) -> str:
    """A line that says of which weights a command speaks, and what must be known of them.

    `iteration` is the checkpoint's, and `synthetic` says whether the images were generated.
    """
    if isinstance(record, Trained):
        name, ended = record.name, record.facts.get("remark")
    else:
        name, ended = str(record.path), divergence(record)
    remarks = ", ".join(remark for remark in (ended, "synthetic data" * synthetic) if remark)
    return f"{name}, iteration {iteration:,}" + (f" ({remarks})" if remarks else "")


def exported(record: RunRecord) -> Trained | None:
    """The network that was exported from a run as it stands, which is taken where no checkpoint is left.

    None means that there is no such file. A damaged one, and one from before the run went on, are named and count as
    none.

    Raises:
        RunFileError: the file cannot be read just now.
    """
    path = record.path / NAME
    content = read_bytes(path)
    if content is None:
        return None
    try:
        network = Trained.parse(content, str(path))
    except RunError:
        log.error("%s: is damaged, and is not used", path)
        return None
    if network.iteration != (last := record.summary.get("iteration")):
        log.error("%s: is of iteration %s, and the run's last is %s; it is not used", path, network.iteration, last)
        return None
    return replace(network, trusted=True)


def no_checkpoint(record: RunRecord) -> RunError:
    """The error of a record without a checkpoint that can be used."""
    ended = divergence(record)
    if ended:
        return RunError(f"{record.path}: {ended}, and has no usable checkpoint; train it again with other settings")
    return RunError(f"{record.path}: has no usable checkpoint; train it again")


def restored(
    record: RunRecord, experiment: Experiment, images: ImageSet, *, tick: Callable[[int], object] | None = None
) -> Training:
    """A training as it stands in the newest checkpoint of its record; without one, in what was exported from it.

    The images are those that the network was trained on, and `tick` is that of `Training`.

    Raises:
        RunError: the record has neither a checkpoint nor an exported network that can be used.
        RunConflictError: the images are not those it was trained on.
    """
    record.check_images(images.content_hash)
    training = Training(experiment, images, tick=tick, precision=record.precision)
    device = training.engine.device
    if checkpoint.restore(record.path, device, training.load_state_dict, complain=log.error) is not None:
        return training
    if (network := exported(record)) is None:
        raise no_checkpoint(record)
    return network.restored(experiment, images, tick=tick)
