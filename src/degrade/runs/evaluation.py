"""A record's checkpoint, evaluated anew."""

import logging
from collections.abc import Callable

from tqdm import tqdm

from degrade.config import Experiment
from degrade.data import ImageSet, load_images
from degrade.errors import RunError
from degrade.runs.record import RunRecord
from degrade.training import Evaluation, Training, checkpoint

log = logging.getLogger("degrade.run")


def evaluate(record: RunRecord, experiment: Experiment) -> tuple[Evaluation, Evaluation, int, ImageSet]:
    """Evaluate the newest checkpoint of a record on all training images and on the test images.

    Args:
        record: whose checkpoint.
        experiment: its settings.

    Returns:
        Training and test evaluation, the checkpoint's iteration, and the images.

    Raises:
        RunError: it has no checkpoint that can be used.
        RunConflictError: the images are not those it was trained on.
    """
    images = load_images(experiment.data, say=log.info)
    bar = tqdm(total=len(images.train_labels) + len(images.test_labels), unit="img", leave=False, disable=None)

    def tick(count: int) -> None:
        bar.update(count)

    training = restored(record, experiment, images, tick=tick)
    with bar:
        train = training.evaluate(training.batches.pixels, training.batches.labels)
        test = training.evaluate(*training.test)
    return train, test, training.iteration, images


def restored(
    record: RunRecord, experiment: Experiment, images: ImageSet, *, tick: Callable[[int], None] | None = None
) -> Training:
    """A training as it stands in the newest checkpoint of its record.

    Args:
        record: whose checkpoint.
        experiment: its settings.
        images: what it was trained on.
        tick: see `Training`.

    Raises:
        RunError: the record has no checkpoint that can be used.
        RunConflictError: the images are not those it was trained on.
    """
    record.check_images(images.content_hash)
    training = Training(experiment, images, tick=tick, precision=record.precision)
    device = training.engine.device
    if checkpoint.restore(record.path, device, training.load_state_dict, complain=log.error) is None:
        raise RunError(f"{record.path}: has no usable checkpoint; train it again")
    return training
