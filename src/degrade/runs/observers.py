"""Progress while networks train, counted in work, so that the time left is right across different networks."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from degrade.config import Experiment
from degrade.config.schema import IMAGES
from degrade.errors import RunFileError
from degrade.progress import Progress
from degrade.runs.checked import Status
from degrade.runs.record import RunRecord

log = logging.getLogger("degrade.run")

#: Cost of evaluating an image, in units of training on it once; it is used only to estimate time.
#: Measured on 2 CPU cores: 499 images/s trained and 1,850 evaluated at depth 20, 168 and 620 at depth 56.
EVALUATION_COST = 0.27


class Pace:
    """Notices when work has become far slower than it was, by stretches of at least STRETCH seconds."""

    STRETCH, SLOW, STRETCHES = 10, 1 / 3, 6

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._work = self._best = 0.0
        self._slow = 0
        self._since: float | None = None

    def add(self, work: float) -> float | None:
        """Count work; return the share of the best rate once STRETCHES in a row stayed below SLOW of it, else None.

        A process that was stopped and let go on has one slow stretch, however long it was stopped.
        """
        now = self._clock()
        if self._since is None:  # the first step finds memory and chooses algorithms
            self._since = now
            return None
        self._work += work
        if now - self._since < self.STRETCH:
            return None
        rate, self._since, self._work = self._work / (now - self._since), now, 0.0
        self._best = max(self._best, rate)
        self._slow = self._slow + 1 if rate < self.SLOW * self._best else 0
        return rate / self._best if self._slow == self.STRETCHES else None


class Watch:
    """Shows the progress of many cells by their records, as they are trained by other processes or machines.

    A line is logged as each cell ends. The cells are all that there are, finished ones too.
    """

    def __init__(self, cells: Sequence[tuple[Experiment, RunRecord]]) -> None:
        self._cells = [_WatchedCell(experiment, record) for experiment, record in cells]
        self._seeds = len({experiment.seed for experiment, _ in cells}) > 1
        self._progress = Progress(sum(cell.work for cell in self._cells))
        self._progress.skip(sum(cell.done for cell in self._cells))
        # Seconds between two looks: the records may lie on a slow file system.
        self._seconds = max(1.0, len(cells) / 50)
        self._next = 0.0

    def look(self, *, now: bool = False) -> None:
        """Read the records, unless they were read a moment ago."""
        if time.monotonic() < self._next and not now:
            return
        self._next = time.monotonic() + self._seconds
        for cell in self._cells:
            if cell.look() and cell.status in ENDED:
                level = logging.ERROR if cell.status == Status.FAILED else logging.INFO
                log.log(level, "%d/%d  %s", self.count()["ended"], len(self._cells), cell.describe())
            if cell.done > cell.counted:  # a cell that resumes at an earlier checkpoint makes up for it first
                self._progress.advance(made := max(0.0, cell.made - cell.counted))
                self._progress.skip(cell.done - cell.counted - made)  # what one that diverged or failed leaves undone
                cell.counted = cell.done
        counts = self.count()
        parts = [f"{counts['ended']}/{len(self._cells)} cells"]
        parts += [f"{counts[status]} {status}" for status in (Status.FAILED, Status.DIVERGED) if counts[status]]
        running = [cell for cell in self._cells if cell.status == Status.RUNNING]
        said = ", ".join(parts)
        self._progress.tell(said, _running(running, self._progress.room - len(said), seeds=self._seeds))

    def count(self) -> Counter[str]:
        """How many cells there are of each status, and how many have ended."""
        counts = Counter(cell.status for cell in self._cells)
        counts["ended"] = sum(counts[status] for status in ENDED)
        return counts

    def close(self) -> None:
        """Look once more, and clear the bar."""
        self.look(now=True)
        self._progress.close()


#: Statuses of a cell of which nothing more is to be expected.
ENDED = (Status.COMPLETE, Status.DIVERGED, Status.FAILED)


class _WatchedCell:
    """A cell as its record shows it; unless it is finished, what an earlier sweep left there does not count."""

    def __init__(self, experiment: Experiment, record: RunRecord) -> None:
        self.experiment, self.record = experiment, record
        self.work = planned_work(experiment)
        self._seen: dict[str, Any] = record.summary
        self.status = str(self._seen.get("status")) if self._seen.get("status") in ENDED[:2] else "waiting"
        self.done = self.counted = self._work_done()

    def look(self) -> bool:
        """Read the record, and return whether its status changed."""
        if self.status in ENDED:
            return False
        before = self.status
        try:
            summary = self.record.summary
            if summary != self._seen or before == Status.RUNNING:
                self._seen, self.status = summary, self.record.status_of(summary)
        except RunFileError:  # the next look may tell
            return False
        self.done = self._work_done()
        return self.status != before

    @property
    def made(self) -> float:
        """Work that was computed."""
        return self.work * share_done(self.experiment, self._seen)

    def _work_done(self) -> float:
        return self.work if self.status in ENDED else self.made

    def short(self, *, seed: bool) -> str:
        """The network's name, its seed if that is asked for, and the percentage that is done."""
        model, which = self.experiment.model, f" seed {self.experiment.seed}" if seed else ""
        return f"{model.family}-{model.depth}{which} {share_done(self.experiment, self._seen):.0%}"

    def describe(self) -> str:
        """A line that says what became of the cell, or how far it is."""
        model = self.experiment.model
        name = f"{model.family}-{model.depth} seed {self.experiment.seed}"
        if self.status == Status.FAILED:
            return f"{name}: failed: {self._seen.get('error', '')}"
        far = f"{share_done(self.experiment, self._seen):.0%}" if self.status == Status.RUNNING else self.status
        return f"{name}: {far}  {errors_in_words(self._seen)}".rstrip()


def _running(cells: Sequence[_WatchedCell], room: int, *, seeds: bool) -> str:
    """How far running cells are, within `room` columns: with their errors if these fit, else by name and percent."""
    said = ", ".join(cell.describe() for cell in cells)
    for count in range(len(cells), 0, -1):
        if len(said) <= room:
            break
        said = ", ".join(cell.short(seed=seeds) for cell in cells[:count])
        if count < len(cells):
            said += f", and {len(cells) - count} more"
    return said


def errors_in_words(row: Mapping[str, Any]) -> str:
    """The errors of a row or a summary: `training error 12.00% running, 11.00% clean  test error 14.00%`."""
    kinds = {"train_error": "running", "train_error_clean": "clean", "train_error_batch": "batch-statistics"}
    said = ", ".join(f"{row[key]:.2%} {kind}" for key, kind in kinds.items() if row.get(key) is not None)
    test = "" if row.get("test_error") is None else f"test error {row['test_error']:.2%}"
    return "  ".join(filter(None, [said and f"training error {said}", test]))


def image_work(experiment: Experiment) -> float:
    """Work of training on one image once: the network's depth times the image's area, in units of 32 x 32 pixels."""
    return experiment.model.depth * (experiment.data.pixels / 32) ** 2


def share_done(experiment: Experiment, summary: Mapping[str, Any]) -> float:
    """Share of a run's iterations that are made, by the summary of its record."""
    return float(summary.get("iteration") or 0) / experiment.recipe.iterations


def planned_work(experiment: Experiment, *, train: int | None = None, test: int | None = None) -> float:
    """Work of a whole run, evaluations included, in units of `image_work`.

    `train` and `test` are numbers of images; None means as many as the settings allow of CIFAR-10's, by their split.
    """
    whole = IMAGES[experiment.data.split]
    train = train or experiment.data.train_limit or whole[0]
    test = test or experiment.data.test_limit or whole[1]
    recipe, evaluation = experiment.recipe, experiment.eval
    per_epoch = -(-train // recipe.batch_size)
    tests = -(-recipe.iterations // (evaluation.every or per_epoch))
    cleans = -(-recipe.iterations // evaluation.clean_every) if evaluation.clean_every else 1
    passes = 2 if experiment.model.batch_norm else 1  # with running statistics, and with each batch's own
    evaluated = tests * test + cleans * passes * train
    return image_work(experiment) * (recipe.iterations * recipe.batch_size + EVALUATION_COST * evaluated)
