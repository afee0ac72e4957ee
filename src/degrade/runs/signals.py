"""SIGINT and SIGTERM, noted and acted on between two steps."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType

#: Wrappers that forward signals deliver one Ctrl-C twice; a person is slower than this.
REPEAT_SECONDS = 0.3


class StopSignals:
    """Notes the first SIGINT or SIGTERM, to be acted on between two steps; the second SIGINT stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._at = 0.0

    def __enter__(self) -> "StopSignals":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
            with contextlib.suppress(OSError):  # whoever read our stderr may have been stopped before us
                os.write(2, b"\nstopping after this step; once more stops at once\n")
        elif time.monotonic() - self._at > REPEAT_SECONDS:
            os._exit(130)  # everything on disk is whole at any moment
