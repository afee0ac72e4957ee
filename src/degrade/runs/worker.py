"""The process in which cells are trained one after the other, and its parent's side of it.

Cells are trained in another process, since one that is killed, runs out of memory or crashes then takes no other with
it. The two are joined by pipes: the parent writes a line of settings for each cell, may offer it more threads, and
hears log lines and how each cell ended. When the parent closes its end, to stop the work or because it died itself,
the process writes a checkpoint and ends. The parent does not import torch.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from omegaconf import OmegaConf

from degrade.config import Experiment
from degrade.config.compose import experiment_of
from degrade.errors import RunError, RunFileError, RunInterrupted, RunInUseError, raise_stopped
from degrade.runs.checked import Status
from degrade.runs.record import RunRecord, run_directory

log = logging.getLogger("degrade.run")

#: Seconds for a step to end and a checkpoint to be written; after them the process is killed.
GRACE = 60


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Keep Python processes that start now from importing files of the working directory, such as a queue.py."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


class Worker:
    """A process that trains cells; it starts with the first one, and again with the next one if a cell ended it.

    Args:
        folder: where the command was started; relative paths count from there, on whatever machine this is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self._record: RunRecord | None = None
        self._rest = b""

    @property
    def busy(self) -> bool:
        """Whether the process has a cell to train."""
        return self._record is not None

    def give(self, experiment: Experiment) -> None:
        """Let the process train a cell; what becomes of the cell is in its record."""
        record = RunRecord(self.folder / run_directory(experiment))
        with contextlib.suppress(RunFileError, OSError):
            summary = record.summary
            if summary.get("status") == Status.FAILED and not record.in_use:  # an earlier attempt failed
                record.summarise(**{**summary, "status": Status.RUNNING})
        if self.process is not None and self.process.poll() is not None:  # killed between two cells
            self.close()
        if self.process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
            with safe_path():
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "degrade.runs.worker"],
                    cwd=self.folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    start_new_session=True,  # Ctrl-C reaches it through the pipe alone, not from the terminal as well
                )
        self._record = record
        with contextlib.suppress(BrokenPipeError):  # it died at once: hear() tells
            os.write(self.process.stdin.fileno(), json.dumps(asdict(experiment)).encode() + b"\n")  # type: ignore[union-attr]

    def offer(self, threads: int) -> None:
        """Let the cell go on with so many threads, if that is more than it has and enough of it is left."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.process.stdin.fileno(), json.dumps({"threads": threads}).encode() + b"\n")  # type: ignore[union-attr]

    def fileno(self) -> int:
        """The file on which the process speaks, for `select`."""
        return self.process.stdout.fileno()  # type: ignore[union-attr]

    def hear(self) -> None:
        """Log what the process says; note how its cell ended, or that the process itself did."""
        heard = os.read(self.fileno(), 65536)
        *lines, self._rest = (self._rest + heard).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "level" in said:
                log.log(said["level"], "%s", said["text"])
            else:
                self._ended(said["error"])
        if not heard:
            self._died()

    def _ended(self, error: str | None) -> None:
        record, self._record = self._record, None
        if not error or record is None:
            return
        try:
            summary = record.summary
            if summary.get("status") in (Status.COMPLETE, Status.DIVERGED):  # such a record is not written over
                log.error("%s: %s", record.path, error)
            elif summary.get("status") != Status.FAILED:  # the process could not note it
                with record.lock():
                    record.summarise(**{**summary, "status": Status.FAILED, "error": error[:2000]})
        except (RunError, OSError):  # this process cannot either, for instance where there can be no such folder
            log.error("%s: %s", record.path, error)

    def _died(self) -> None:
        code = self.process.wait()  # type: ignore[union-attr]
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or [f"exit code {code}, no message"]
        self.close()
        self._ended(lines[-1] if code == 1 else None)  # an exception gives 1; after a signal the record stands

    def close(self) -> None:
        """Kill the process if it is still there, and forget it."""
        if self.process is not None:
            self.process.kill()
            with self.process:  # closes the pipes
                self.process = None
            self._errors.close()
            self._rest = b""


def hear(workers: Sequence[Worker], seconds: float) -> None:
    """Wait for some seconds at most until a worker says something, and hear it."""
    for worker in select.select([worker for worker in workers if worker.busy], [], [], seconds)[0]:
        worker.hear()


def stop(workers: Sequence[Worker]) -> None:
    """Let workers write checkpoints and end; kill them after GRACE seconds, or when stopped once more."""
    alive = [worker for worker in workers if worker.process is not None]
    deadline = time.monotonic() + GRACE
    try:
        for worker in alive:
            worker.process.stdin.close()  # type: ignore[union-attr]
        for worker in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=max(0, deadline - time.monotonic()))  # type: ignore[union-attr]
    finally:
        for worker in alive:
            worker.close()


# The process itself


def main() -> None:
    """Train each experiment that is a line of JSON on stdin; answer in lines of JSON on what was stdout."""
    signal.signal(signal.SIGTERM, raise_stopped)
    # Slurm sends these two to all processes of a job, and the parent heeds them.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints is an answer
    log.addHandler(_Relay(answers))
    inbox = _Inbox()
    threading.Thread(target=inbox.read, daemon=True).start()
    try:
        while True:
            _answer(answers, error=_train(inbox.cells.get(), lambda: inbox.threads))
    except (KeyboardInterrupt, RunInterrupted):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _train(settings: dict[str, Any], offered: Callable[[], int] = lambda: 0) -> str | None:
    """Train a cell, with the threads that are `offered` meanwhile; return what went wrong unless its record tells."""
    import torch

    from degrade.runs.train import MoreThreads, load_once, run

    try:
        experiment = experiment_of(OmegaConf.create(settings))
        while True:
            torch.compiler.reset()  # otherwise earlier networks would count towards a limit of compilations
            try:
                run(experiment, images=load_once, offered=offered)
                break
            except MoreThreads as more:
                experiment.runtime.threads = more.threads
    except RunInterrupted:
        raise
    except (RunInUseError, RunFileError) as error:
        log.error("%s", error)
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {first[0]}"
    return None


class _Relay(logging.Handler):
    """Sends the parent what is logged."""

    def __init__(self, answers: int) -> None:
        super().__init__(logging.DEBUG)
        self.answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        _answer(self.answers, level=record.levelno, text=record.getMessage())


def _answer(answers: int, **words: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent died; training still has to write its checkpoint
        os.write(answers, json.dumps(words).encode() + b"\n")


class _Inbox:
    """What the parent wrote: cells, and how many threads it last offered for the one that is being trained."""

    def __init__(self) -> None:
        self.cells: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self.threads = 0

    def read(self) -> None:
        """Read lines without a buffered reader, whose lock, held by this thread, would keep Python from ending."""
        rest = b""
        while heard := os.read(0, 65536):
            *whole, rest = (rest + heard).split(b"\n")
            for said in map(json.loads, whole):
                self.threads = said.get("threads", 0)
                if "threads" not in said:
                    self.cells.put(said)
        # The signal must reach the main thread, which may be waiting for a cell: only there does it end the wait.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


if __name__ == "__main__":
    main()
