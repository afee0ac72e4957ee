"""Runs while they are trained: a page that follows their records, for this machine alone, and curves in the terminal.

Records are read and never written. No torch is imported here.
"""

import contextlib
import json
import shutil
import textwrap
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from degrade.analysis import error_curves, facts
from degrade.analysis.curves import Curve
from degrade.analysis.page import page
from degrade.errors import ConfigError, DegradeError, RunError
from degrade.runs import Run, Status
from degrade.runs.observers import errors_in_words, share_done
from degrade.runs.record import undamaged

#: Who may ask: other names would be those of pages elsewhere that a browser was led to ask for.
HERE = ("127.0.0.1", "localhost")

Read = Callable[[], Sequence[Run]]


def running(runs: Sequence[Run]) -> list[str]:
    """One line for each run that is being trained: how far it is, and its last errors."""
    lines = []
    for run in runs:
        summary = run.summary
        if run.status_of(summary) is Status.RUNNING:
            name = f"{run.path.parent.name} {run.path.name.replace('-', ' ')}"
            with contextlib.suppress(RunError):  # its settings may be damaged
                share = share_done(run.experiment, summary)
                lines.append(f"{name}: {share:.0%}  {errors_in_words(summary)}".rstrip())
    return lines


def server(read: Read, port: int, every: float) -> ThreadingHTTPServer:
    """A server on the loopback interface whose page shows the runs that `read` gives, new ones too, as they are.

    Port 0 means any that is free. An open page asks again after `every` seconds whether there is more.

    Raises:
        ConfigError: the port is in use.
    """
    shown, lock = _Shown(read, every), Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # the page was closed meanwhile
                self._answer()

        def _answer(self) -> None:
            host = str(self.headers.get("Host", "")).rpartition(":")[0] or str(self.headers.get("Host", ""))
            if host not in HERE or self.path not in ("/", "/now"):
                self.send_error(404)
                return
            try:
                with lock:  # pages are made one at a time
                    text = shown.page() if self.path == "/" else shown.now()
            except DegradeError as error:  # the next request may find it mended
                self.send_error(503, explain=str(error))
                return
            kind, body = "text/html" if self.path == "/" else "application/json", text.encode()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing of requests."""

    try:
        return ThreadingHTTPServer((HERE[0], port), Handler)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; take another, or 0 for any that is free") from error


class _Shown:
    """The page, made anew whenever there is a new row or a run ended."""

    def __init__(self, read: Read, every: float) -> None:
        self._read, self._every = read, every
        self._stamp, self._page = "", ""

    def now(self) -> str:
        """What an open page asks for: a stamp that changes with the curves, and what is being trained."""
        runs = self._read()
        return json.dumps({"stamp": _stamp(runs), "running": running(runs)})

    def page(self) -> str:
        runs = self._read()
        if (stamp := _stamp(runs)) != self._stamp:
            live = {"seconds": self._every, "stamp": stamp}
            self._page, self._stamp = page(error_curves(undamaged(runs)), live=live), stamp
        return self._page


def _stamp(runs: Sequence[Run]) -> str:
    """Another text whenever a run has another number of rows, or ended, or began, or has other settings."""
    parts = []
    for run in runs:
        rows, settings = (_seen(run.path / name) for name in ("metrics.jsonl", "config.yaml"))
        parts.append(f"{run.path}:{rows}:{settings}:{run.status}")
    return " ".join(parts)


def _seen(path: Path) -> tuple[int, int]:
    """A file's size and time of change; zeros if it is not there."""
    try:
        own = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return own.st_size, own.st_mtime_ns


def in_terminal(curves: Sequence[Curve], runs: Sequence[Run], *, colour: bool) -> str:
    """Running training errors drawn in characters, as large as the terminal, and what is being trained."""
    import plotext

    columns, rows = shutil.get_terminal_size((80, 24))
    told = running(runs) or ["nothing is being trained"]
    lines = [line for each in told for line in textwrap.wrap(each, columns, subsequent_indent="  ")]
    plotext.clear_figure()
    plotext.plot_size(columns, max(10, rows - len(lines) - 2))
    plotext.theme("default" if colour else "clear")
    for curve in curves:
        if len(curve.train.iteration):
            errors = [100 * float(error) for error in curve.train.mean]
            plotext.plot(list(map(float, curve.train.iteration)), errors, label=curve.label)
    plotext.title(f"{facts.RUNNING} (%)")
    plotext.xlabel("iterations")
    drawn = str(plotext.build()).rstrip("\n")
    return "\n".join([drawn if colour else plotext.uncolorize(drawn), *lines])


def find(known: Read) -> Read:
    """Reads runs again and again; where one cannot be read just now, as it was before."""
    last: list[Run] = []

    def read() -> Sequence[Run]:
        nonlocal last
        try:
            last = list(known())
        except DegradeError:
            if not last:
                raise
        return last

    return read
