"""Progress of long work: a bar on a terminal, and elsewhere a line now and then. No torch is imported here."""

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

#: Where there is no terminal, progress is logged at intervals of this many seconds.
TOLD = 20

#: Columns of a terminal that a short bar, percentage and time left take, and columns of other numbers elsewhere.
BESIDE, ELSEWHERE = 28, 150


def quiet() -> bool:
    """Whether only errors are logged, as `--quiet` asks."""
    handlers = logging.getLogger("degrade").handlers
    return bool(handlers) and all(handler.level >= logging.ERROR for handler in handlers)


class Progress:
    """Shows how far the work is: by a bar on a terminal, elsewhere by a line every TOLD seconds.

    `total` is all the work that there is, in any unit.
    """

    def __init__(self, total: float) -> None:
        self._total = total
        self._done = self._worked = 0.0
        self._started: float | None = None
        self._told = time.monotonic()
        self._bar = tqdm(
            total=total,
            disable=quiet() or None,
            bar_format="{desc} |{bar}| {percentage:.0f}%{postfix}",
            dynamic_ncols=True,
            leave=False,
        )

    def tell(self, name: str, numbers: str = "", *, left: float | None = None) -> None:
        """Say what is being worked on, the time left and other numbers.

        `left` is given, in seconds, where the caller knows it better than the rate of all work so far tells it.
        """
        left_in_words = f"{about(self.seconds_left if left is None else left)} left"
        said = f"{left_in_words}  {numbers}".rstrip()
        if not self._bar.disable:
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._bar.set_description_str(name, refresh=False)
                self._bar.set_postfix_str(said)
        elif time.monotonic() - self._told >= TOLD:
            self._told = time.monotonic()
            logging.getLogger("degrade.progress").info("%s: %.0f%%, %s", name, 100 * self._done / self._total, said)

    @property
    def room(self) -> int:
        """Columns that there are for a name and other numbers."""
        return ELSEWHERE if self._bar.disable else shutil.get_terminal_size().columns - BESIDE

    def expect(self, more: float) -> None:
        """Correct the total by `more` work, which may be negative."""
        self._total += more
        self._bar.total = self._total

    def advance(self, work: float) -> None:
        """Count work that was done now."""
        if self._started is None:
            self._started = time.monotonic()  # when the first piece of work is done: start-up does not count
        else:
            self._worked += work
        self.skip(work)

    def reach(self, done: float) -> None:
        """Say how much is done in all; it may be less than before, where another attempt has taken the lead."""
        self.skip(done - self._done)

    def skip(self, work: float) -> None:
        """Count work that an earlier session did, or that will not be done."""
        self._done += work
        with contextlib.suppress(OSError):
            self._bar.update(min(work, max(0.0, self._total - self._bar.n)))

    @property
    def seconds_left(self) -> float:
        """Time left for everything, by the rate of work so far; NaN before there is any."""
        if self._started is None or not self._worked:
            return math.nan
        return max(0.0, self._total - self._done) * (time.monotonic() - self._started) / self._worked

    def close(self) -> None:
        """Clear the bar."""
        with contextlib.suppress(OSError):
            self._bar.close()


Item = TypeVar("Item")


def through(items: Iterable[Item], name: str, *, total: int, done: int = 0) -> Iterator[Item]:
    """The items, one after the other, with their progress shown under a name.

    The items are those that are left, and `total` includes the `done` ones before them.
    """
    with contextlib.closing(Progress(total)) as progress:
        progress.skip(done)
        for item in items:
            progress.tell(name)
            yield item
            progress.advance(1)


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
