"""A progress bar over one run or a whole matrix, counted in work so that its time left is right across depths."""

import math
import time
from collections.abc import Sequence

from tqdm import tqdm

from degrade.config import Experiment

#: Cost of an image's forward pass, in units of its training step; used only to tell the time left.
#: Measured on 2 CPU cores: 499 images/s trained and 1,850 evaluated at depth 20, 168 and 620 at depth 56.
EVALUATION_COST = 0.27


class Progress:
    """A tqdm bar over the work of one or more experiments.

    Work of an image is proportional to depth. Hidden where stderr is no terminal; log lines take its place.

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
            bar_format="{desc} {percentage:3.0f}%|{bar}|{postfix}",
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


def planned_work(experiment: Experiment, *, train: int | None = None, test: int | None = None) -> float:
    """Work of a whole run, in images times depth.

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
    evaluated = tests * test + cleans * train
    return experiment.model.depth * (recipe.iterations * recipe.batch_size + EVALUATION_COST * evaluated)


def clock(seconds: float) -> str:
    """Seconds as mm:ss or h:mm:ss; ? for NaN."""
    if math.isnan(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
