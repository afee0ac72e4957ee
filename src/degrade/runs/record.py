"""A run's directory: write it, read it, list many. This module does not import torch.

`<output>/<experiment>/<variant>/seed-<k>/` holds config.yaml, environment.json, metrics.jsonl, summary.json,
checkpoint.pt and train.log; docs/reference/record.md says what is in each.
"""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import yaml
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from degrade.config import Experiment
from degrade.config.identity import differing, variant
from degrade.config.schema import flatten, settings
from degrade.errors import ConfigError, RunConflictError, RunError, RunFileError, RunInUseError
from degrade.files import append_line, copy_aside, present, read_bytes, reason, replace_text
from degrade.metrics import Metrics
from degrade.runs.checked import Measured, Row, Status, read_json, read_metrics, sealed, sealed_line

#: In version 2 each of `sessions` of environment.json says all that is known of it. In version 1 that is known of the
#: last session only, and stands outside `sessions`.
SCHEMA_VERSION = 2

#: Settings without which a record cannot be drawn.
_NEEDED = {"seed", "model.family", "model.depth", "data.name", "recipe.name", "recipe.iterations"}

#: Errors which say that a path can be no folder, whatever the disk does.
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)

#: The key of environment.json that holds the SHA-256 of config.yaml, which people read, copy and run again.
_CONFIG_HASH = "config_sha256"

Own = TypeVar("Own", bound="Run")


def run_directory(experiment: Experiment) -> Path:
    """Where an experiment's record lies: different experiments never share a directory."""
    root = Path(os.path.expanduser(experiment.output))  # noqa: PTH111 - Path's own raises for unknown users
    return root / experiment.name / variant(experiment) / f"seed-{experiment.seed}"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as OmegaConf does, but 16 times as fast, which matters with a thousand records."""


# In OmegaConf 1e-5 is a number even without a dot, and a date is text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Loss(NamedTuple):
    """What a file of a record lacks or holds wrongly."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


class Session(TypedDict, total=False):
    """What one process that worked on a run computed with, as far as the record tells."""

    started: str
    first_iteration: int
    last_iteration: int | None
    lost_rows: int
    device: str
    threads: int
    precision: str
    engine: str
    engine_refused: str
    memory_format: str
    cpu_capability: str
    platform: str
    git: dict[str, Any]
    modules: list[str]
    versions: dict[str, str]


class Run:
    """One run's directory. Every reader raises RunFileError where the system cannot read a file just now.

    Args:
        path: the directory, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # While this process writes the record, these hold the number of rows in metrics.jsonl, the content of
        # environment.json, and which directory is locked.
        self._count: int | None = None
        self._environment: dict[str, Any] = {}
        self._place: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """Whether a run was ever begun here."""
        return present(self.path / "config.yaml")

    # Reading

    @property
    def experiment(self) -> Experiment:
        """What was trained; a setting that is younger than the record has its default.

        Raises:
            RunError: config.yaml is missing or damaged.
        """
        return self._read_config()[0]

    def _read_config(self) -> tuple[Experiment, dict[str, Any]]:
        """The experiment, and the settings as the file has them."""
        path = self.path / "config.yaml"
        try:
            content = read_bytes(path)
            if content is None:
                raise RunError(f"{path} is missing; `--fresh` starts the run over")
            held: Any = yaml.load(content.decode(), Loader=_Loader)  # noqa: S506 - it is a safe loader
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise RunError(f"{path} cannot be read ({reason(error)}); `--fresh` starts the run over") from error
        if not isinstance(held, dict) or not all(isinstance(key, str) for key in held):
            raise RunError(f"{path} holds no settings; `--fresh` starts the run over")
        flat = flatten(held)
        if missing := _NEEDED - flat.keys():
            raise RunError(f"{path} lacks {', '.join(sorted(missing))}; `--fresh` starts the run over")
        try:
            return Experiment.read(held), flat
        except ConfigError as error:
            raise RunError(f"{path}: {error}; `--fresh` starts the run over") from error

    @property
    def environment(self) -> dict[str, Any]:
        """Data, open choices and sessions; empty if environment.json is missing or damaged."""
        content = read_json(self.path / "environment.json").content
        content.pop(_CONFIG_HASH, None)
        return content

    @property
    def sessions(self) -> list[Session]:
        """What each process that worked on the run computed with, and from which iteration to which.

        Empty if environment.json is missing or damaged. A record of schema 1 knows of a session before the last only
        when it began, where, and on what.
        """
        return sessions_of(self.environment, self.summary)

    @property
    def precisions(self) -> list[str]:
        """`fp32` or `bf16` for each session, as far as the record says."""
        return [session["precision"] for session in self.sessions if session.get("precision") in ("fp32", "bf16")]

    @property
    def precision(self) -> str | None:
        """`fp32` or `bf16`, as the last session computed; None where the record does not say."""
        return self.precisions[-1] if self.precisions else None

    @property
    def summary(self) -> dict[str, Any]:
        """Status, iteration and last errors; empty if summary.json is missing or damaged."""
        return read_json(self.path / "summary.json").content

    @property
    def status(self) -> Status:
        """What became of the run; one that was killed counts as interrupted."""
        return self.status_of(self.summary)

    def status_of(self, summary: Mapping[str, Any]) -> Status:
        """The status of the run by a summary that was read already."""
        status = Status(summary.get("status") or Status.INTERRUPTED)
        return Status.INTERRUPTED if status is Status.RUNNING and not self.in_use else status

    @property
    def in_use(self) -> bool:
        """Whether a process is writing this record."""
        path = self.path / ".lock"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:  # there is none, or none that we may look at
            return False
        try:  # shared, so that it works where nothing may be written, and two that look don't see each other
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
        finally:
            os.close(descriptor)
        return False

    def rows(self) -> list[Row]:
        """The metrics that can be read, by iteration."""
        return self.measured().rows

    def metrics(self) -> list[Metrics]:
        """The metrics that can be read, typed, by iteration."""
        return [Metrics.read(row) for row in self.rows()]

    def measured(self) -> Measured:
        """The content of metrics.jsonl, and what is known of its damage."""
        return read_metrics(self.path / "metrics.jsonl")

    def losses(self) -> list[Loss]:
        """What the record's files lack or hold wrongly; empty for a record that is whole, as far as it can tell."""
        return [*self.file_losses(), *self.earlier_losses(), *self.row_losses()]

    def file_losses(self) -> list[Loss]:
        """What config.yaml, environment.json and summary.json lack or hold wrongly."""
        found = []
        summary, environment = (read_json(self.path / f"{name}.json") for name in ("summary", "environment"))
        if not environment.content:
            found.append(Loss("environment.json", "missing or damaged; data, sessions and precision are unknown"))
        found += [Loss("environment.json", f"{wrong}; left out") for wrong in environment.flaws]
        expected = environment.content.get(_CONFIG_HASH)
        content = read_bytes(self.path / "config.yaml")
        if expected and content is not None and expected != hashlib.sha256(content).hexdigest():
            found.append(Loss("config.yaml", "was changed since the run wrote it; its SHA-256 differs"))
        if not summary.content:
            found.append(Loss("summary.json", "missing or damaged; taken for interrupted"))
        found += [Loss("summary.json", f"{wrong}; left out") for wrong in summary.flaws]
        return found

    def row_losses(self) -> list[Loss]:
        """What metrics.jsonl lacks or holds wrongly."""
        measured, summary = self.measured(), self.summary
        status = self.status_of(summary)
        there = len(measured.rows) + measured.damaged
        expected = max(measured.expected, summary.get("rows") or 0 if status.finished else 0)
        reached = summary.get("iteration") if status is Status.COMPLETE else None
        last = measured.rows[-1]["iteration"] if measured.rows else 0
        found = []
        if measured.damaged:
            found.append(f"{measured.damaged} of {there} lines cannot be read, and are left out")
        if expected > there:
            found.append(f"{expected - there} of {expected} rows are missing")
        elif not measured.damaged and reached is not None and last < reached:
            found.append(f"ends at iteration {last:,}, though the run went on to {reached:,}")
        return [Loss("metrics.jsonl", what) for what in (*found, *(f"{wrong}; left out" for wrong in measured.flaws))]

    def earlier_losses(self) -> list[Loss]:
        """Rows that were lost already when a session resumed."""
        lost = [(session.get("lost_rows"), session.get("started")) for session in self.sessions]
        said = [f"lost at least {rows} rows before {started}, as train.log says" for rows, started in lost if rows]
        return [Loss("metrics.jsonl", what) for what in said]

    # Writing

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the record, which must be held while writing.

        Raises:
            RunInUseError: another process holds it.
            RunFileError: the directory cannot be written just now.
            RunError: there can be no such directory.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Whoever lists runs takes the lock for an instant to see whether it is held, so wait for a moment.
            lock = FileLock(self.path / ".lock", timeout=1)
            lock.acquire()
        except Timeout:
            raise RunInUseError(f"{self.path} is in use by another process; wait for it or stop it") from None
        except OSError as error:
            kind = RunError if error.errno in _NO_FOLDER else RunFileError
            raise kind(f"{self.path} cannot be written ({reason(error)}); set output=DIR") from error
        try:
            self._place = self._identity()
            yield
        finally:
            self._place = None
            lock.release()

    def check_place(self) -> None:
        """Check, before writing, that the folder is still the one that was locked, since somebody may have moved it.

        Raises:
            RunFileError: the folder was moved or replaced.
        """
        if self._place is not None and self._identity() != self._place:
            raise RunFileError(
                f"{self.path} was moved or replaced while it was being written, and is left alone; "
                "move it back, and the same command goes on from its last checkpoint"
            )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def begin(
        self, experiment: Experiment, environment: Mapping[str, Any], session: Mapping[str, Any], *, resumed: bool
    ) -> None:
        """Write config.yaml, and environment.json with one more session.

        Args:
            experiment: the settings.
            environment: what holds for all sessions.
            session: the one that begins now.
            resumed: whether it goes on from where earlier sessions stopped.
        """
        self.check_place()
        earlier = self.sessions if resumed else []
        if earlier:  # a session that was killed did not note how far it got
            earlier[-1]["last_iteration"] = session["first_iteration"]
        text = OmegaConf.to_yaml(OmegaConf.create(asdict(experiment)))
        hashed = {_CONFIG_HASH: hashlib.sha256(text.encode()).hexdigest()}
        self._environment = {**environment, **hashed, "sessions": [*earlier, dict(session)]}
        replace_text(self.path / "config.yaml", text)
        self._write_environment()

    def end_session(self, iteration: int) -> None:
        """Note how far the last session got."""
        self._environment["sessions"][-1]["last_iteration"] = iteration
        self._write_environment()

    def _write_environment(self) -> None:
        self.check_place()
        replace_text(self.path / "environment.json", sealed({**self._environment, "schema_version": SCHEMA_VERSION}))

    def check_same(self, experiment: Experiment) -> None:
        """Refuse to go on with a record that holds other settings.

        Raises:
            RunConflictError: settings differ; the message names their keys.
        """
        held, flat = self._read_config()
        told = [f"{key} is {a!r} there, {b!r} here" for key, (a, b) in differing(held, experiment).items()]
        told += [f"{key} is {flat[key]!r} there, unknown here" for key in sorted(flat.keys() - settings().keys())]
        if told:
            changed = "".join(f"; {loss}" for loss in self.file_losses() if loss.file == "config.yaml")
            raise RunConflictError(
                f"{self.path} holds a run of other settings ({'; '.join(told)}): "
                f"choose another name=... or start over with --fresh{changed}"
            )

    def check_images(self, content_hash: str) -> None:
        """Refuse images other than those that the run was begun on.

        Raises:
            RunConflictError: the images differ; the message names both hashes.
        """
        before = self.environment.get("data_hash", content_hash)
        if before != content_hash:
            raise RunConflictError(
                f"{self.path} was begun on other images (SHA-256 {before[:12]}..., now {content_hash[:12]}...): "
                "bring them back, choose another name=... or --fresh"
            )

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics and flush it to disk; NaN and infinity become null."""
        self.check_place()
        if self._count is None:
            self._count = self.measured().expected
        append_line(self.path / "metrics.jsonl", sealed_line(row, self._count + 1))
        self._count += 1

    def keep_rows(self, *, up_to: int) -> tuple[int, int]:
        """Drop damaged lines and the rows after an iteration at which one was measured; all others get checksums.

        If rows up to that iteration are lost, or several lines are damaged, the file as it was is kept as
        `metrics.jsonl.damaged`.

        Returns:
            The number of damaged lines, and of lost rows.
        """
        path, measured = self.path / "metrics.jsonl", self.measured()
        lost = measured.lost_before(up_to)
        if (lost or measured.damaged > 1) and present(path):  # a kill leaves one torn line
            copy_aside(path)
        kept = [row for row in measured.rows if row["iteration"] <= up_to]
        replace_text(path, "".join(sealed_line(row, number) + "\n" for number, row in enumerate(kept, start=1)))
        self._count = len(kept)
        return measured.damaged, lost

    def summarise(self, **fields: Any) -> None:
        """Replace summary.json; while metrics are written, it says how many rows there are."""
        self.check_place()
        if self._count is not None:
            fields["rows"] = self._count
        fields["updated"] = now()
        replace_text(self.path / "summary.json", sealed(fields))


#: The name that `Run` had before it was typed.
RunRecord = Run


def sessions_of(environment: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Session]:
    """The sessions of a run, by files that were read already, as `Run.sessions` gives them."""
    sessions: list[Any] = [dict(own) for own in environment.get("sessions") or []]
    if environment.get("schema_version") == 1:
        sessions = sessions or [{}]
        firsts = [session.pop("iteration", None) for session in sessions]
        for session, first, last in zip(sessions, firsts, [*firsts[1:], summary.get("iteration")], strict=True):
            name, _, threads = str(session.get("device")).rpartition(", ")  # "AMD EPYC, 2 threads"
            if count := re.fullmatch(r"(\d{1,6}) threads?", threads):
                session |= {"device": name, "threads": int(count[1])}
            session |= {"first_iteration": first, "last_iteration": last}
        once = ("precision", "engine", "cpu_capability", "platform", "git", "versions")
        sessions[-1] |= {key: environment[key] for key in once if key in environment}
    return sessions


def find_records(paths: Iterable[Path]) -> list[Run]:
    """Records at or below each path, in the order of their paths, each once.

    Raises:
        RunError: a path does not exist, or holds no record.
        RunFileError: a folder cannot be read just now.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        if not present(path):
            raise RunError(
                f"{path}: no such directory; `degrade train` makes runs, below outputs unless told otherwise"
            )
        below = sorted(_folders_of_runs(path))
        if not below:
            raise RunError(f"{path}: holds no run; `degrade train` makes one")
        found.update({folder.resolve(): Run(folder) for folder in below})
    return list(found.values())


#: Files of which a folder holds both if it is a run's, and perhaps a damaged one's.
_OF_A_RUN = (
    {"config.yaml", "summary.json"},
    {"config.yaml", "environment.json"},
    {"environment.json", "metrics.jsonl"},
)


def _folders_of_runs(path: Path) -> Iterator[Path]:
    def trouble(error: OSError) -> None:
        # A folder that nobody may look into holds no run of ours, but a failing disk must not make runs vanish.
        if not isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):
            raise RunFileError(f"{error.filename} cannot be read just now ({reason(error)})") from error

    for folder, _, names in os.walk(path, onerror=trouble):
        if any(pair <= set(names) for pair in _OF_A_RUN):  # whoever reads it says what is missing
            yield Path(folder)


def now() -> str:
    """The present moment in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def undamaged(runs: Iterable[Own], complain: Callable[[str], object] = lambda _: None) -> list[Own]:
    """Those runs whose settings can be read; `complain` is told of the others.

    Raises:
        RunError: all are damaged; it names the last, after `complain` was told of the others.
        RunFileError: some cannot be read just now, and the answer without them would be another one.
    """
    found: list[Own] = []
    damage: list[RunError] = []
    for run in runs:
        try:
            _ = run.experiment
            found.append(run)
        except RunFileError:
            raise
        except RunError as error:
            damage.append(error)
    last = damage.pop() if damage and not found else None
    for each in damage:
        complain(str(each))
    if last is not None:
        raise last
    return found
