"""Training of one experiment into its record: lock it, skip or resume it, train until done or stopped by a signal."""

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from degrade.config import Experiment, RuntimeConfig
from degrade.cores import at_first, look, usable
from degrade.data import ImageSet, load_images
from degrade.errors import ConfigError, DegradeError, RunFailed, RunFileError, RunInterrupted
from degrade.files import copy_aside, reason, regular, set_aside
from degrade.metrics import ERRORS
from degrade.models import count_parameters
from degrade.progress import Progress, about
from degrade.runs.checked import Status
from degrade.runs.environment import describe, describe_session
from degrade.runs.loggers import FOLDERS, STATE, Loggers, check_loggers
from degrade.runs.many import finished
from degrade.runs.observers import EVALUATION_COST, Pace, errors_in_words, image_work, planned_work
from degrade.runs.onnx import NAME as ONNX
from degrade.runs.record import RunRecord, Session, run_directory
from degrade.runs.trained import NAME as WEIGHTS
from degrade.training import Metrics, Training, checkpoint, fit
from degrade.training.choice import choose_runtime
from degrade.training.device import choose_device, device_name

log = logging.getLogger("degrade.run")

Images = Callable[[Experiment], ImageSet]


#: Seconds after which summary.json is written again between two rows, so that a watcher sees how far the run is.
LIVELY = 5

#: Wrappers that forward signals deliver one Ctrl-C twice; a person does not repeat it within this many seconds.
REPEAT_SECONDS = 0.3

#: A run goes on with more threads only if it has more seconds left: its engine is then set up, or compiled, anew.
WORTH_MORE_THREADS, WORTH_COMPILING = 60, 600

_DEFAULT_THREADS = torch.get_num_threads()


class MoreThreads(RunInterrupted):
    """A run has written its checkpoint, and is to go on with more threads."""

    def __init__(self, threads: int) -> None:
        super().__init__(f"{threads} threads are free")
        self.threads = threads


def run(
    experiment: Experiment,
    *,
    fresh: bool = False,
    images: Images | None = None,
    begin: Callable[[Training], None] | None = None,
    offered: Callable[[], int] = lambda: 0,
) -> RunRecord:
    """Train one experiment into its record; a finished run is returned as it is, an interrupted one goes on.

    Args:
        experiment: what to train.
        fresh: start over, whatever the directory holds.
        images: gives the images; None loads what the experiment names.
        begin: gives a training at iteration 0 other weights than those drawn; `model.start` names them.
        offered: asked after each step how many CPU threads the run may have by now.

    Returns:
        The record; its status is `complete` or `diverged`.

    Raises:
        RunInterrupted: SIGINT, SIGTERM or SIGHUP came; a checkpoint is written.
        MoreThreads: more threads were offered than the run has, and enough is left for them to pay.
        RunConflictError: the directory holds a run of other settings.
        RunInUseError: another process is writing it.
        RunFailed: training raised, and the record says what; or the record is damaged, so that only --fresh helps.
        RunFileError: the system cannot read or write the record just now.
        ConfigError: `model.start` is set, and neither `begin` nor a checkpoint gives those weights; or
            the package of a logger of `log.to` is not installed.
    """
    check_loggers(experiment)
    if not fresh and (done := finished(experiment)):
        return done
    record = RunRecord(run_directory(experiment))
    if not fresh and not record.exists and (checkpoint.candidates(record.path) or record.rows()):
        raise RunFailed(f"{record.path}/config.yaml is missing from a run; bring it back, or start over with --fresh")
    if experiment.model.start is not None and begin is None and (fresh or not checkpoint.candidates(record.path)):
        start = experiment.model.start
        raise ConfigError(f"model.start={start}: `degrade probe construct` begins such runs; start it there")
    bar = Progress(planned_work(experiment))
    session: _Session | None = None
    try:
        with record.lock(), _log_file(record.path / "train.log"):
            session = _Session(experiment, record, bar, images, offered, fresh=fresh)
            if fresh:
                clear(record)  # only now, when nothing stands in the way of a new run
            with session.signals:
                session.train(begin)
    except MoreThreads:
        if session is None or not session.signals.received:
            raise
    except DegradeError:
        raise
    except Exception as error:  # the record says what it was, and a matrix goes on
        at = session.training.iteration if session is not None else 0
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        mend = ""
        if isinstance(error, torch.OutOfMemoryError):
            mend = "; runtime.recompute=true needs less memory, and so does a smaller eval.batch_size"
        if session is not None:
            session.failed(error, mend)
        raise RunFailed(f"{record.path} failed at iteration {at:,}: {reason(error)}{where}{mend}") from error
    finally:
        if session is not None:
            session.loggers.close()
        bar.close()
    if session.signals.received:
        raise RunInterrupted(f"{record.path} is {record.status}; stopped there")
    return record


_loaded: dict[str, ImageSet] = {}


def load_once(experiment: Experiment) -> ImageSet:
    """The images of an experiment; those that were loaded last are kept for the next one."""
    key = repr(experiment.data)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_images(experiment.data, say=log.info)
    return _loaded[key]


def set_up(runtime: RuntimeConfig, *, before: int | None = None) -> None:
    """Set what of the runtime holds for the whole process: threads and determinism.

    Args:
        runtime: the settings.
        before: number of threads of the run's last session on this CPU, which is kept because results with another
            number are not the same bit for bit.
    """
    if (threads := runtime.threads or before) is None:
        threads = min(_DEFAULT_THREADS, usable())
    elif runtime.threads is None and (found := at_first()).usable < threads:
        log.warning(
            "going on with %d threads as before, though %s; runtime.threads=%d is faster until that ends",
            *(threads, found.why(), found.usable),
        )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(runtime.deterministic)
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _threads(before: Session) -> int | None:
    """Number of threads of a session, if it was on the same CPU and had no more than are allowed here."""
    threads = before.get("threads")
    same = before.get("device") == device_name(torch.device("cpu")) and (threads or 0) <= at_first().allowed
    return threads if same else None


class _Session:
    """One process's work on one record, whose lock must be held."""

    def __init__(
        self,
        experiment: Experiment,
        record: RunRecord,
        bar: Progress,
        images: Images | None,
        offered: Callable[[], int],
        *,
        fresh: bool,
    ) -> None:
        self.experiment = experiment
        self.offered = offered
        self.record = record
        self.bar = bar
        self.signals = StopSignals()
        self.before: Session = {} if fresh or not record.sessions else record.sessions[-1]
        set_up(experiment.runtime, before=_threads(self.before))
        self.images = images(experiment) if images else load_images(experiment.data, say=log.info)
        self.training = self._new_training()
        self.name = f"{experiment.model.family}-{experiment.model.depth}"
        sizes = {"train": len(self.images.train_labels), "test": len(self.images.test_labels)}
        self.planned = planned_work(experiment, **sizes)
        bar.expect(self.planned - planned_work(experiment))
        self.checkpoint_every = self._checkpoint_interval(experiment)
        self.snapshots = frozenset(experiment.checkpoint.snapshot_iterations(experiment.recipe.iterations))
        self.latest: dict[str, Any] = dict.fromkeys((*ERRORS, "images_per_second", "seconds"))
        self.loggers = Loggers(record.path, experiment)
        self.lost_rows = 0  # rows that the record had lost when it was found
        self.pace = Pace()
        self._shown = self._summarised = 0.0
        self._begun = False

    def train(self, begin: Callable[[Training], None] | None) -> None:
        resumed = self._resume()
        if begin is not None and not resumed:
            begin(self.training)
        wanted = self.training.engine.name
        refused = self.training.check_engine()
        engine = self.training.engine
        session = describe_session(engine, first_iteration=self.training.iteration)
        if resumed:
            self._warn_of_another_machine(session)
        if refused is not None:
            session["engine_refused"] = f"{wanted}: {refused}"
            log.warning("%s: engine eager in place of %s, which cannot be trusted: %s", self.name, wanted, refused)
        if self.lost_rows:
            session["lost_rows"] = self.lost_rows
        self.record.begin(self.experiment, describe(self.experiment, engine, self.images), session, resumed=resumed)
        self._begun = True
        self._summarise(Status.RUNNING)
        how = f"{engine.device}, {engine.precision}, {engine.name}, {self.images.source}"
        log.info("%s: %s parameters, %s", self.name, f"{count_parameters(engine.model):,}", how)
        self.loggers.begin(self.record.metrics())
        if self.training.iteration == 0:
            self._warn_of_missed_milestones()
            self._keep_snapshot()
        try:
            for row in fit(self.training, after_step=self._stepped):
                self.record.append(dataclasses.asdict(row))
                self._note(row)
                self._tell(row)
                self.loggers.add([row])
        except MoreThreads:
            self._save()
            self._end(Status.RUNNING)  # to whoever looks on, it never stopped
            if self.signals.received:
                self._summarise(Status.INTERRUPTED)
            raise
        except RunInterrupted:
            self._save()
            self._end(Status.INTERRUPTED)
            raise RunInterrupted(
                f"stopped at iteration {self.training.iteration:,}, checkpoint written; "
                "the same command goes on from there"
            ) from None
        self._save()
        self._end(Status.DIVERGED if self.training.diverged else Status.COMPLETE)
        self.loggers.finish(self.latest)  # after the record is whole: a tool may take long to send what it has
        if self.training.diverged:
            at = self.training.iteration
            log.warning("%s diverged at iteration %d: loss is not finite; try a smaller optim.lr", self.name, at)

    def _warn_of_missed_milestones(self) -> None:
        recipe = self.experiment.recipe
        if recipe.missed:
            log.warning(
                "%s: it ends at update %s, so its rate does not fall at %s; recipe.milestones sets when it falls",
                *(self.name, f"{recipe.iterations:,}", " or ".join(f"{milestone:,}" for milestone in recipe.missed)),
            )

    def failed(self, error: Exception, mend: str) -> None:
        """Note a failure and what helps in the record, if it can be written at all."""
        with contextlib.suppress(OSError, RunFileError):
            self._end(Status.FAILED, error=f"{type(error).__name__}: {error}"[:2000] + mend)

    def _checkpoint_interval(self, experiment: Experiment) -> int:
        return experiment.checkpoint.every or experiment.eval.every or self.training.batches.per_epoch

    def _new_training(self) -> Training:
        runtime = choose_runtime(self.experiment, choose_device(self.experiment.runtime.device), before=self.before)
        return Training(dataclasses.replace(self.experiment, runtime=runtime), self.images, tick=self._evaluated)

    def _resume(self) -> bool:
        """Take up the newest checkpoint that can be read, log damage, and return whether there was one."""
        folder, device = self.record.path, self.training.engine.device
        found = checkpoint.candidates(folder)
        if found:
            self.record.check_images(self.images.content_hash)
        used = checkpoint.restore(folder, device, self.training.load_state_dict, complain=log.error)
        if used is None:
            if found:  # one of them may have been applied in part
                self.training = self._new_training()
            self._check_that_nothing_is_lost()
        # Newer checkpoints are damaged or do not fit, and the next save must not keep one as its fallback.
        for path in found[: found.index(used) if used else None]:
            log.error("%s: kept as %s", folder, set_aside(path).name)
        self._keep_damaged_files()
        if used is None:
            if self.record.exists:
                log.info("%s: no usable checkpoint, starting from the beginning", folder)
                self.record.keep_rows(up_to=0)
            return False
        self._keep_rows()
        log.info("%s: going on from iteration %s", self.name, f"{self.training.iteration:,}")
        share = self.training.iteration / self.experiment.recipe.iterations
        self.bar.skip(share * self.planned)
        return True

    def _check_that_nothing_is_lost(self) -> None:
        """Let a run start over only if it never had a checkpoint, as when it was killed before its first.

        Raises:
            RunFailed: the rows show that there once was a checkpoint.
        """
        rows = self.record.rows()
        if not rows:
            return
        folder, last = self.record.path, rows[-1]["iteration"]
        every = self._checkpoint_interval(self.record.experiment)
        had_one = last >= every or self.record.summary.get("status") == Status.INTERRUPTED
        if had_one or checkpoint.candidates(folder):
            raise RunFailed(
                f"{folder} holds {len(rows)} rows of metrics, the last of iteration {last:,}, but no checkpoint that "
                "can be used; bring one back, or start over with --fresh"
            )

    def _keep_damaged_files(self) -> None:
        """Log damage to files that are about to be written anew, and keep copies of them."""
        damaged = self.record.file_losses() if self.record.exists else []
        for loss in damaged:
            log.error("%s/%s", self.record.path, loss)
        for name in dict.fromkeys(loss.file for loss in damaged):
            with contextlib.suppress(FileNotFoundError):  # the file is missing, not damaged
                copy_aside(self.record.path / name)

    def _keep_rows(self) -> None:
        """Keep the rows up to the checkpoint; how many of them are lost is logged, and noted in environment.json."""
        folder = self.record.path
        damaged, self.lost_rows = self.record.keep_rows(up_to=self.training.recorded)
        for row in self.record.metrics():
            self._note(row)
        if damaged:
            log.error("%s: dropped %d damaged lines of metrics.jsonl", folder, damaged)
        if self.lost_rows:
            log.error(
                "%s: metrics.jsonl lacks at least %d rows up to iteration %s; what was left of it is kept beside it",
                *(folder, self.lost_rows, f"{self.training.recorded:,}"),
            )

    def _warn_of_another_machine(self, here: Mapping[str, Any]) -> None:
        """Warn if this is another machine, or number of threads, with which resuming is not exact."""
        before: Mapping[str, Any] = self.before
        # Where more threads were offered, that was said.
        told = self.training.engine.device.type != "cpu" or self.offered() >= here["threads"]
        for key in ("device", "precision", "threads"):
            if before.get(key) not in (None, here[key]) and not (told and key == "threads"):
                log.warning("%s: begun with %s %s, goes on with %s", self.name, key, before[key], here[key])
        for entry in set(before.get("modules", [])) - set(here.get("modules", [])):
            path = entry.rpartition("#")[0]
            log.warning("%s: begun with another content of %s, goes on with this one", self.name, path)

    def _stepped(self, training: Training) -> None:
        self._work(self.experiment.recipe.batch_size)
        self._keep_snapshot()  # before any checkpoint of this iteration, after which training would not return to it
        if self.signals.received:
            raise RunInterrupted
        if training.iteration % self.checkpoint_every == 0:
            self._save()
        self._look_for_threads()
        self._show_numbers()

    def _look_for_threads(self) -> None:
        threads, engine = self.offered(), self.training.engine
        if threads <= torch.get_num_threads() or engine.device.type != "cpu":
            return
        if self.bar.seconds_left > (WORTH_MORE_THREADS if engine.name == "eager" else WORTH_COMPILING):
            log.info("%s: cores are free, so it goes on with %d threads", self.name, threads)
            raise MoreThreads(threads)

    def _evaluated(self, images: int) -> None:
        self._work(images * EVALUATION_COST)
        self._show_numbers()
        if self.signals.received:
            raise RunInterrupted

    def _work(self, images: float) -> None:
        """Count images trained on, or what costs as much, and warn once it has become far slower than it was."""
        work = images * image_work(self.experiment)
        self.bar.advance(work)
        if (share := self.pace.add(work)) is None:
            return
        mend = look().shortage(torch.get_num_threads()) if self.training.engine.device.type == "cpu" else ""
        mend = mend or "see what else uses the machine; the same command goes on after a stop"
        log.warning("%s: it has run at %.0f%% of its best speed for a minute: %s", self.name, 100 * share, mend)

    def _show_numbers(self) -> None:
        """Show numbers beside the progress once a second: formatting costs more than a small step on a GPU."""
        if time.monotonic() - self._shown < 1:
            return
        self._shown = time.monotonic()
        numbers = [errors_in_words({key: self.latest[key] for key in ("train_error", "test_error")})]
        numbers.append(f"lr {self.training.lr:g}")
        if self.latest["images_per_second"] is not None:
            numbers.append(f"{self.latest['images_per_second']:,.0f} img/s")
        self.bar.tell(self.name, "  ".join(filter(None, numbers)))
        if time.monotonic() - self._summarised > LIVELY:
            self._summarise(Status.RUNNING)

    def _note(self, row: Metrics) -> None:
        """Remember the last measured values."""
        self.latest.update({key: value for key in self.latest if (value := row.finite(key)) is not None})

    def _tell(self, row: Metrics) -> None:
        self._summarise(Status.RUNNING)
        parts = [
            f"{self.name}  {row.iteration:,}/{self.experiment.recipe.iterations:,}",
            errors_in_words(dataclasses.asdict(row)),
            f"lr {row.lr:g}",
            f"{row.images_per_second:,.0f} img/s",
            f"{about(self.bar.seconds_left)} left",
        ]
        # There are many rows without a test error, so they are written to train.log only.
        log.log(logging.DEBUG if row.test_error is None else logging.INFO, "  ".join(parts))

    def _save(self) -> None:
        self.record.check_place()
        checkpoint.save(self.record.path, self.training.state_dict())

    def _keep_snapshot(self) -> None:
        if self.training.iteration in self.snapshots:
            self.record.check_place()
            checkpoint.save_snapshot(self.record.path, self.training.iteration, self.training.engine.model)

    def _end(self, status: str, **more: Any) -> None:
        """Note how the session ended. The summary is written last, so that a run that it calls complete is whole."""
        if self._begun:
            self.record.end_session(self.training.iteration)
        self._summarise(status, **more)

    def _summarise(self, status: str, **more: Any) -> None:
        self._summarised = time.monotonic()
        self.record.summarise(
            status=status,
            iteration=self.training.iteration,
            iterations=self.experiment.recipe.iterations,
            seconds=self.latest["seconds"],
            **{key: self.latest[key] for key in ERRORS},
            synthetic=self.images.synthetic,
            **more,
        )


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Copy what is logged into the record's train.log."""
    handler = logging.FileHandler(regular(path))
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.setLevel(logging.DEBUG)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)  # whoever calls us has most likely configured no logging
    try:
        yield
    except Exception as error:
        log.debug("%s: %s", type(error).__name__, error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def clear(record: RunRecord) -> None:
    """Remove a run's content, and its exported network, under its lock; train.log stays."""
    # If the process is killed in between, this order leaves an unfinished run, never a finished one without content.
    (record.path / "summary.json").unlink(missing_ok=True)
    checkpoint.remove(record.path)
    for name in ("probes", *FOLDERS):
        shutil.rmtree(record.path / name, ignore_errors=True)
    (record.path / STATE).unlink(missing_ok=True)
    for name in (*("metrics.jsonl", "environment.json", "config.yaml"), WEIGHTS, ONNX):
        (record.path / name).unlink(missing_ok=True)


class StopSignals:
    """Notes the first SIGINT, SIGTERM or SIGHUP, which is obeyed between two steps; a second one stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._at = 0.0

    def __enter__(self) -> "StopSignals":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & leave it
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
            with contextlib.suppress(OSError):  # whoever reads our stderr may have been stopped before
                os.write(2, b"\nstopping after this step; once more stops at once\n")
        elif time.monotonic() - self._at > REPEAT_SECONDS:
            os._exit(130)  # everything on disk is whole at any moment
