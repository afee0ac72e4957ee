"""Progress bars over one run, a matrix or a sweep, counted in work so that time left is right across networks."""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from degrade.config import Experiment
from degrade.errors import RunFileError
from degrade.runs.record import RunRecord

log = logging.getLogger("degrade.run")

#: Cost of an image's forward pass, in units of its training step; used only to tell the time left.
#: Measured on 2 CPU cores: 499 images/s trained and 1,850 evaluated at depth 20, 168 and 620 at depth 56.
EVALUATION_COST = 0.27


class Progress:
    """A tqdm bar over the work of one or more experiments.

    Hidden where stderr is no terminal; log lines take its place.

    Args:
        experiments: all that will be worked on.
    """

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        self.prefix = ""
        self._total = sum(map(planned_work, experiments))
        self._done = self._worked = 0.0
        self._started: float | None = None
        self._bar = tqdm(
            total=self._total,
            disable=None,
            bar_format="{desc} |{bar}| {percentage:.0f}%{postfix}",
            dynamic_ncols=True,
            leave=False,
        )

    def describe(self, text: str) -> None:
        """Name what is being worked on."""
        self._bar.set_description_str(self.prefix + text, refresh=False)

    def numbers(self, text: str) -> None:
        """Show the time left and other numbers behind the bar."""
        self._bar.set_postfix_str(f"left {clock(self.seconds_left)} {text}", refresh=False)

    def expect(self, more: float) -> None:
        """Correct the total."""
        self._total += more
        self._bar.total = self._total

    def advance(self, work: float) -> None:
        """Count work that was done now."""
        if self._started is None:
            self._started = time.monotonic()  # when the first piece of work is done: start-up does not count
        else:
            self._worked += work
        self.skip(work)

    def skip(self, work: float) -> None:
        """Count work that an earlier session did, or that will not be done."""
        self._done += work
        self._bar.update(min(work, max(0.0, self._total - self._bar.n)))

    @property
    def seconds_left(self) -> float:
        """Time left for everything, by the rate of work so far; NaN before there is any."""
        if self._started is None or not self._worked:
            return math.nan
        return max(0.0, self._total - self._done) * (time.monotonic() - self._started) / self._worked

    def close(self) -> None:
        """Clear the bar."""
        self._bar.close()


class SweepBar:
    """A bar over a sweep's cells, which run in other processes and perhaps on other machines: it reads their records.

    Use as a context. A line is logged as each cell ends; the bar is hidden where stderr is no terminal.

    Args:
        cells: all of the sweep's, finished ones too.
    """

    def __init__(self, cells: Sequence[tuple[Experiment, RunRecord]]) -> None:
        self._cells = [_WatchedCell(experiment, record) for experiment, record in cells]
        self._total = sum(cell.work for cell in self._cells)
        self._before = sum(cell.done for cell in self._cells)
        self._started = time.monotonic()
        self._seconds = max(1.0, len(cells) / 50)  # between two looks: records may lie on a slow file system
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._bar = tqdm(
            total=1.0,
            disable=None,
            bar_format="{desc} |{bar}| {percentage:.0f}%{postfix}",
            leave=False,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "SweepBar":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._bar.close()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(self._seconds)
            for cell in self._cells:
                if cell.look() and cell.status in ENDED:
                    log.info("%d/%d  %s", self._count()["ended"], len(self._cells), cell.describe())
            self._show()

    def _count(self) -> Counter[str]:
        counts = Counter(cell.status for cell in self._cells)
        counts["ended"] = sum(counts[status] for status in ENDED)
        return counts

    def _show(self) -> None:
        counts, done = self._count(), sum(cell.done for cell in self._cells)
        lately = done - self._before
        left = (self._total - done) * (time.monotonic() - self._started) / lately if lately > 0 else math.nan
        bad = [f"{counts[status]} {status}" for status in ("failed", "diverged") if counts[status]]
        text = ", ".join([f"{counts['ended']}/{len(self._cells)} cells", f"{counts['running']} running", *bad])
        self._bar.set_description_str(text, refresh=False)
        self._bar.set_postfix_str(f"left {clock(left)}", refresh=False)
        self._bar.n = done / self._total
        self._bar.refresh()


#: Statuses of a cell of which nothing more is to be expected.
ENDED = ("complete", "diverged", "failed")


class _WatchedCell:
    """A cell as its record shows it; what an earlier sweep left there, unless finished, is not what becomes of it."""

    def __init__(self, experiment: Experiment, record: RunRecord) -> None:
        self.experiment, self.record = experiment, record
        self.work = planned_work(experiment)
        self._seen: dict[str, Any] = record.summary
        self.status = str(self._seen.get("status")) if self._seen.get("status") in ENDED[:2] else "waiting"
        self.done = self._work_done()

    def look(self) -> bool:
        """Read the record; whether its status is another."""
        if self.status in ENDED:
            return False
        before = self.status
        try:
            summary = self.record.summary
            if summary != self._seen or before == "running":
                self._seen, self.status = summary, self.record.status_of(summary)
        except RunFileError:  # the next look may tell
            return False
        self.done = self._work_done()
        return self.status != before

    def _work_done(self) -> float:
        return self.work * (1 if self.status in ENDED else share_done(self.experiment, self._seen))

    def describe(self) -> str:
        """A line for the log."""
        model, error = self.experiment.model, self._seen.get("test_error")
        text = f"{model.family}-{model.depth} seed {self.experiment.seed}: {self.status}"
        if self.status == "failed":
            return f"{text}: {self._seen.get('error', '')}"
        return text if error is None else f"{text}, test error {error:.2%}"


def image_work(experiment: Experiment) -> float:
    """Work of training on an image once: proportional to the network's depth and the image's area, 32 x 32 as 1."""
    return experiment.model.depth * (experiment.data.pixels / 32) ** 2


def share_done(experiment: Experiment, summary: Mapping[str, Any]) -> float:
    """Share of a run's iterations that its record's summary tells of."""
    return float(summary.get("iteration") or 0) / experiment.recipe.iterations


def planned_work(experiment: Experiment, *, train: int | None = None, test: int | None = None) -> float:
    """Work of a whole run, evaluations included, in units of `image_work`.

    Args:
        experiment: what is to be run.
        train: number of training images; None: as many as CIFAR-10 has.
        test: number of test images, likewise.
    """
    train = train or experiment.data.train_limit or 50_000
    test = test or experiment.data.test_limit or 10_000
    recipe, evaluation = experiment.recipe, experiment.eval
    per_epoch = -(-train // recipe.batch_size)
    tests = -(-recipe.iterations // (evaluation.every or per_epoch))
    cleans = -(-recipe.iterations // evaluation.clean_every) if evaluation.clean_every else 1
    passes = 1 if experiment.model.norm == "none" else 2  # with running statistics, and with each batch's own
    evaluated = tests * test + cleans * passes * train
    return image_work(experiment) * (recipe.iterations * recipe.batch_size + EVALUATION_COST * evaluated)


def clock(seconds: float) -> str:
    """Seconds as mm:ss or h:mm:ss; ? for NaN."""
    if math.isnan(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def about(seconds: float) -> str:
    """A time as a person says it: `40 s`, `9 min`, `2 h 10 min`, `19 h`, `2.5 days`."""
    if not math.isfinite(seconds):
        return "an unknown time"
    minutes = round(seconds / 60)
    if seconds <= 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 10 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
