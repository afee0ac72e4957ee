"""Many runs, one after the other, under one progress bar; one that fails or diverges does not stop the others."""

import logging
from collections.abc import Sequence

from degrade.config import Experiment
from degrade.data import ImageSet, load_images
from degrade.errors import RunFailed, RunFileError, RunInUseError
from degrade.runs.progress import Progress
from degrade.runs.record import RunRecord, run_directory, settle_precision
from degrade.runs.runner import run

log = logging.getLogger("degrade.run")


def run_matrix(experiments: Sequence[Experiment], *, fresh: bool = False) -> list[RunRecord]:
    """Train each experiment into its record, skipping finished ones and resuming interrupted ones.

    Args:
        experiments: what to train, in order.
        fresh: start all of them over.

    Returns:
        Their records, in the same order; `status` tells what became of each.

    Raises:
        RunConflictError: a directory holds other settings; raised before anything is trained.
        RunFileError: a record's settings cannot be read just now, likewise.
        RunInterrupted: the user stopped; what was being trained has its checkpoint.
    """
    records = [RunRecord(run_directory(experiment)) for experiment in experiments]
    if not fresh:
        for experiment, record in zip(experiments, records, strict=True):
            if record.exists:
                record.check_same(experiment)
        settle_precision(zip(experiments, records, strict=True))
    loaded: dict[str, ImageSet] = {}

    def images(experiment: Experiment) -> ImageSet:
        key = repr(experiment.data)
        if key not in loaded:
            loaded[key] = load_images(experiment.data, say=log.info)
        return loaded[key]

    bar = Progress(experiments)
    try:
        for k, experiment in enumerate(experiments, start=1):
            bar.prefix = f"{k}/{len(experiments)} "
            try:
                run(experiment, fresh=fresh, images=images, progress=bar)
            except (RunFailed, RunFileError, RunInUseError) as error:
                log.error("%s", error)
    finally:
        bar.close()
    return records
