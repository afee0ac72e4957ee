"""One cell of a sweep: the job that Hydra's launchers run, and the process of its own in which it trains.

A process for each cell, since one that is killed, runs out of memory or crashes then takes no other with it,
whatever the launcher does with its workers. The two are joined by a pipe: the job writes the settings into it and
holds it open; when it closes, because somebody stops the sweep or because the job itself was killed, the process
writes a checkpoint and ends. No torch in the job.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from degrade.config import Experiment
from degrade.config.compose import experiment_of
from degrade.errors import RunInterrupted, RunInUseError, Stopped, raise_stopped
from degrade.runs.record import RunRecord, run_directory

DONE, FAILED, IN_USE, INTERRUPTED = 0, 1, 75, 130

#: A file of this name in the sweep's folder asks its jobs to stop.
STOP = "stop"

#: Seconds for a step to end and a checkpoint to be written; after them the process is killed.
GRACE = 60

#: Seconds to wait for whoever held the record: a cell that was requeued may still be writing its checkpoint.
PATIENCE = 30


def job(config: DictConfig) -> str:
    """Train one cell in a process of its own; what became of it is in its record.

    Args:
        config: the cell, composed by Hydra.

    Returns:
        A word for the launcher's log. It never raises an Exception: some launchers let one end all other jobs.
    """
    try:
        hydra = HydraConfig.get()
        return _supervise(experiment_of(config), Path(hydra.runtime.cwd), Path(hydra.sweep.dir) / STOP)
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"


def _supervise(experiment: Experiment, folder: Path, stop: Path) -> str:
    """Train in another process, and leave word in the record where that could not.

    Args:
        experiment: the cell.
        folder: where the sweep was started; relative paths count from there, on whatever machine this is.
        stop: a file that appears when the sweep is to stop.
    """
    if stop.exists():
        return "not begun"
    record = RunRecord(folder / run_directory(experiment))
    _wait_for(record)
    _forget_failure(record)
    with tempfile.TemporaryFile("w+") as errors:
        code = _train_elsewhere(experiment, folder, stop, errors.fileno())
        errors.seek(0)
        lines = errors.read().strip().splitlines() or [f"exit code {code}, no message"]
    if code == FAILED and record.summary.get("status") != "failed":  # it came to grief before it could say so
        with record.lock():
            record.summarise(**{**record.summary, "status": "failed", "error": lines[-1][:2000]})
    return {DONE: "done", FAILED: "failed", IN_USE: "in use", INTERRUPTED: "interrupted"}.get(code, f"ended {code}")


def _wait_for(record: RunRecord) -> None:
    deadline = time.monotonic() + PATIENCE
    while record.in_use and time.monotonic() < deadline:
        time.sleep(0.2)


def _forget_failure(record: RunRecord) -> None:
    """An earlier failure must not be taken for what becomes of this attempt."""
    if record.summary.get("status") == "failed" and not record.in_use:
        record.summarise(**{**record.summary, "status": "running"})


def _train_elsewhere(experiment: Experiment, folder: Path, stop: Path, errors: int) -> int:
    """The exit code of the process that trains; negative if a signal killed it."""
    with _signals_raised():
        # A session of its own: Ctrl-C reaches it through the pipe alone, not from the terminal as well.
        child = subprocess.Popen(
            [sys.executable, "-m", "degrade.runs.cell"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # train.log has it all
            stderr=errors,
            start_new_session=True,
            text=True,
        )
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code tells
                assert child.stdin is not None  # noqa: S101 - for mypy
                child.stdin.write(json.dumps(asdict(experiment)) + "\n")
                child.stdin.flush()
            while child.poll() is None and not stop.exists():
                time.sleep(0.1)
        finally:
            _stop(child)
        return child.returncode


def _stop(child: "subprocess.Popen[str]") -> None:
    """Ask it to write a checkpoint and end; insist after a while, or when stopped once more."""
    try:
        with contextlib.suppress(BrokenPipeError):
            child.communicate(timeout=GRACE)  # closes the pipe
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


class _Signalled(BaseException):
    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Let a scheduler's signal end the wait for the process before whoever handled it does what it did.

    submitit, on SIGUSR2, has Slurm requeue the job, which kills it soon: the checkpoint must come first. After
    any signal the job ends without a result, since it is to be run again.
    """

    def note(number: int, _: FrameType | None) -> None:
        raise _Signalled(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield
    except _Signalled as signalled:
        before[signal.Signals(signalled.number)](signalled.number, None)
        raise SystemExit(128 + signalled.number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    """The process that trains: settings as a line of JSON on stdin, which then stays open.

    Returns:
        0 complete or diverged, 1 failed (a line on stderr says why), 75 the record is in use, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, raise_stopped)
    try:
        experiment = experiment_of(OmegaConf.create(json.loads(_first_line())))
        threading.Thread(target=_end_with_the_job, daemon=True).start()

        from degrade.runs.runner import run

        run(experiment)
        return DONE
    except RunInUseError:
        return IN_USE
    except (RunInterrupted, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {first[0]}", file=sys.stderr)  # noqa: T201 - for the job
        return FAILED


def _first_line() -> str:
    """Unbuffered: a buffered reader's lock, held by the thread below, would hinder Python from ending."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 65536)
        if not more:
            raise Stopped
        line += more
    return line.decode()


def _end_with_the_job() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    code = main()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is done: a late stop must not change the exit code
    sys.exit(code)
