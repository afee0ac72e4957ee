"""The first of several sources that delivers: a slow one gets the next beside it, and the others are ended.

Each source works in a thread of its own and in a folder of its own. A slow trickle never trips the time-out of a
socket, so it is the rate of arrival that is watched.
"""

import contextlib
import queue
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from degrade.progress import Progress

#: A source that stays below this many bytes per second for this many seconds gets the next one beside it.
SLOW_RATE, SLOW_SECONDS = 500_000, 10.0

#: A source that stays below this many bytes per second for this many seconds is given up.
STALLED_RATE, STALLED_SECONDS = 1_000, 60.0

#: A connection that is not made, or gives nothing, for this many seconds is given up.
SILENT_SECONDS = 30.0

#: Seconds between two looks at the sources.
TICK = 0.2

#: Seconds for which the end of a source is waited for; what is blocked longer ends with its connection.
ENDING_SECONDS = 1.0

_CHUNK = 1 << 18

Say = Callable[[str], None]
Got = TypeVar("Got")


class SourceFailed(Exception):  # noqa: N818 - no error of degrade's: the next source is tried
    """A source, or each of several, did not deliver; the message has a line for each."""


class Transfer:
    """What one source has received so far; any thread may read it or end it.

    Args:
        size: number of bytes that the source is expected to send.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self.whole = False
        """Whether nothing more has to arrive, so that the source is not slow however long it works."""
        self.ended = False
        self._started = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self._started, 0)])
        self._ender: Callable[[], object] = lambda: None

    def reach(self, received: int) -> None:
        """Count what has arrived in all.

        Raises:
            SourceFailed: the transfer was ended.
        """
        if self.ended:
            raise SourceFailed("ended")
        self.received = max(self.received, received)

    def when_ended(self, ender: Callable[[], object]) -> None:
        """Call `ender`, of which there is one, when the transfer is ended, at once if it was ended before."""
        self._ender = ender
        if self.ended:
            ender()

    def end(self) -> None:
        """Wake up whatever waits for the source, and let the next `reach` raise."""
        self.ended = True
        with contextlib.suppress(OSError):
            self._ender()

    def mark(self) -> None:
        """Note when how much had arrived; rates are told from the marks of the last seconds."""
        now = time.monotonic()
        self._marks.append((now, self.received))
        while len(self._marks) > 1 and self._marks[1][0] <= now - STALLED_SECONDS:
            self._marks.popleft()

    def rate(self, seconds: float) -> float:
        """Bytes per second over the last `seconds`, or since the start if that is later."""
        now = time.monotonic()
        before = next((mark for mark in reversed(self._marks) if mark[0] <= now - seconds), self._marks[0])
        return (self.received - before[1]) / max(now - before[0], 1e-9)

    def stays_below(self, rate: float, seconds: float) -> bool:
        """Whether less than `rate` has arrived over the last `seconds`, all of which it had."""
        return not self.whole and time.monotonic() - self._started >= seconds and self.rate(seconds) < rate

    @property
    def seconds_left(self) -> float:
        """Time left by the rate of the last seconds; infinite where nothing arrives."""
        rate = self.rate(SLOW_SECONDS)
        return max(0, self.size - self.received) / rate if rate > 0 else float("inf")


class Source(NamedTuple, Generic[Got]):
    """Something that may deliver: its name in a sentence, the bytes that it sends, and what fetches and checks them.

    `read` gets the transfer and an empty folder, and raises SourceFailed where it does not deliver.
    """

    name: str
    size: int
    read: Callable[[Transfer, Path], Got]


def first_to_deliver(sources: Sequence[Source[Got]], scratch: Path, *, what: str, say: Say) -> tuple[str, Got]:
    """The name of the first source that delivers, and what it delivered; when this returns, the others are ended.

    Args:
        sources: in the order in which they are tried. The next one is begun when those before it have failed, or
            when all that are at work stay below SLOW_RATE for SLOW_SECONDS.
        scratch: a folder in which each source gets one of its own.
        what: the name of what is fetched, for people.
        say: receives a line whenever a source fails, or gets another one beside it.

    Raises:
        SourceFailed: every source failed; the message has a line for each.
    """
    race: _Race[Got] = _Race(sources, scratch, what, say)
    with contextlib.closing(race), contextlib.closing(Progress(1.0)) as progress:
        while race.goes_on:
            if (found := race.look()) is not None:
                return found
            race.tell(progress)
    raise SourceFailed("\n  tried: ".join(race.failures))


class _Race(Generic[Got]):
    """The sources at work, and those that wait for their turn."""

    def __init__(self, sources: Sequence[Source[Got]], scratch: Path, what: str, say: Say) -> None:
        self._waiting = deque(sources)
        self._running: dict[str, tuple[Transfer, threading.Thread]] = {}
        self._outcomes: queue.SimpleQueue[tuple[str, Got | Exception]] = queue.SimpleQueue()
        self._scratch, self._what, self._say = scratch, what, say
        self.failures: list[str] = []

    @property
    def goes_on(self) -> bool:
        return bool(self._waiting or self._running)

    def look(self) -> tuple[str, Got] | None:
        """Begin and give up what has to be, and wait a little for an outcome; returns it if it is a delivery."""
        self._begin_or_give_up()
        try:
            name, outcome = self._outcomes.get(timeout=TICK)
        except queue.Empty:
            return None
        if name not in self._running:  # it was given up before
            return None
        if not isinstance(outcome, Exception):
            return name, outcome
        if not isinstance(outcome, SourceFailed):
            raise outcome
        self._fail(name, str(outcome))
        return None

    def _begin_or_give_up(self) -> None:
        for name, (transfer, _) in list(self._running.items()):
            transfer.mark()
            if transfer.stays_below(STALLED_RATE, STALLED_SECONDS):
                transfer.end()
                self._fail(name, f"gave less than {STALLED_RATE / 1000:g} kB/s for {STALLED_SECONDS:g} s")
        transfers = [transfer for transfer, _ in self._running.values()]
        if self._waiting and all(own.stays_below(SLOW_RATE, SLOW_SECONDS) for own in transfers):
            for name, (transfer, _) in self._running.items():
                beside = f"trying {self._waiting[0].name} beside it"
                self._say(f"{self._what}: {name} gives {_in_words(transfer.rate(SLOW_SECONDS))}; {beside}")
            self._begin(self._waiting.popleft())

    def _begin(self, source: Source[Got]) -> None:
        transfer = Transfer(source.size)
        folder = self._scratch / str(len(self._waiting))
        folder.mkdir()

        def work() -> None:
            outcome: Got | Exception
            try:
                outcome = source.read(transfer, folder)
            except Exception as error:
                outcome = error
            self._outcomes.put((source.name, outcome))

        # A daemon, so that a source that hangs in the system keeps no one from leaving.
        thread = threading.Thread(target=work, name=f"source {source.name}", daemon=True)
        self._running[source.name] = transfer, thread
        thread.start()

    def _fail(self, name: str, reason: str) -> None:
        del self._running[name]
        self.failures.append(f"{name}: {reason}")
        self._say(f"{self._what}: {self.failures[-1]}")

    def tell(self, progress: Progress) -> None:
        """Show how far the source is that will be the first by its rate."""
        if not self._running:
            return
        name, (leader, _) = min(self._running.items(), key=lambda own: own[1][0].seconds_left)
        progress.reach(min(1.0, leader.received / leader.size))
        short = name if len(name) <= 30 else f"{name[:29]}…"  # so that a bar of 80 columns has room for the rest
        numbers = "checking" if leader.whole else _in_words(leader.rate(SLOW_SECONDS))
        progress.tell(f"{self._what} from {short}", numbers, left=leader.seconds_left)

    def close(self) -> None:
        """End all that are still at work."""
        for transfer, _ in self._running.values():
            transfer.end()
        until = time.monotonic() + ENDING_SECONDS
        for _, thread in self._running.values():
            thread.join(max(0.0, until - time.monotonic()))
        for folder in self._scratch.iterdir():
            shutil.rmtree(folder, ignore_errors=True)


def download(url: str, target: Path, transfer: Transfer) -> None:
    """Fetch a file of `transfer.size` bytes over HTTP or HTTPS, following up to ten redirections.

    Raises:
        SourceFailed: it cannot be had, or is of another size; or the transfer was ended.
    """
    try:
        request = Request(url, headers={"User-Agent": "degrade"})  # noqa: S310 - the settings allow no other scheme
        with ExitStack() as stack:
            response = stack.enter_context(urlopen(request, timeout=SILENT_SECONDS))  # noqa: S310
            file = stack.enter_context(target.open("wb"))
            if response.isclosed():  # it has no body
                raise SourceFailed("sent nothing")
            connection = stack.enter_context(socket.socket(fileno=socket.dup(response.fileno())))
            # This wakes up the thread that reads; closing the response would wait for it.
            transfer.when_ended(lambda: connection.shutdown(socket.SHUT_RDWR))
            while chunk := response.read1(_CHUNK):  # what has arrived, however little, so that a trickle is seen
                transfer.reach(transfer.received + len(chunk))
                file.write(chunk)
                if transfer.received > transfer.size:
                    break
    except HTTPError as error:
        with error:  # it holds the connection
            raise SourceFailed(f"HTTP {error.code}, {reason_of(error)}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise SourceFailed(reason_of(error)) from error
    if transfer.received != transfer.size:
        more = "more than " if transfer.received > transfer.size else "cut off after "
        raise SourceFailed(
            f"{more}{_megabytes(min(transfer.received, transfer.size))} of {_megabytes(transfer.size)}"
        )


def reason_of(error: BaseException) -> str:
    """The first line of an error, or its name."""
    lines = str(getattr(error, "reason", None) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _in_words(rate: float) -> str:
    return f"{rate / 1e6:.1f} MB/s" if rate >= 1e6 else f"{rate / 1e3:.0f} kB/s"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
