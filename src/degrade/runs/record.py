"""A run's directory: write, read, list. No torch.

`<output>/<experiment>/<variant>/seed-<k>/` holds config.yaml, environment.json, metrics.jsonl, summary.json,
checkpoint.pt and train.log; README.md says what is in each.
"""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from degrade.config import Experiment, compose
from degrade.config.groups import group_options
from degrade.config.schema import flatten
from degrade.errors import RunConflictError, RunError, RunInUseError

#: 2: `sessions` of environment.json say all that is known of each. 1: only of the last, outside `sessions`.
SCHEMA_VERSION = 2

#: Settings that change where a run is written, what is looked at on its way, and how it is computed, but not which
#: experiment it is. environment.json says how each session computed.
INCIDENTAL = frozenset(
    {
        "checkpoint.every",
        "checkpoint.snapshots",
        "eval.batch_size",
        "eval.clean_every",
        "eval.every",
        "log.every",
        "log.tensorboard",
        "name",
        "output",
        "runtime.deterministic",
        "runtime.device",
        "runtime.engine",
        "runtime.memory_format",
        "runtime.precision",
        "runtime.recompute",
        "runtime.threads",
    }
)

Row = dict[str, Any]

#: Settings without which a record cannot be drawn.
_NEEDED = {"seed", "model.family", "model.depth", "data.name", "recipe.name", "recipe.iterations"}
_INTEGERS = ("seed", "model.depth", "recipe.iterations")


def run_directory(experiment: Experiment) -> Path:
    """Where an experiment's record lies: different experiments never share a directory."""
    root = Path(os.path.expanduser(experiment.output))  # noqa: PTH111 - Path's own raises for unknown users
    return root / experiment.name / variant(experiment) / f"seed-{experiment.seed}"


def variant(experiment: Experiment) -> str:
    """Family and depth, plus whatever else differs from the recipe: `plain-56`, `plain-56,optim.lr=0.05`."""
    base = _recipe_settings(experiment.recipe.name)
    parts = [f"{experiment.model.family}-{experiment.model.depth}"]
    for key, value in sorted(experiment.flat().items()):
        if value == base[key] or key in INCIDENTAL or key in ("seed", "model.family", "model.depth"):
            continue
        if key == "data.root" and experiment.data.name != "folder":
            continue  # where CIFAR-10 is kept does not change it
        parts.append(f"{key.removesuffix('.name')}={_plain_text(value)}")
    return _folder_name(",".join(parts))


@cache
def _recipe_settings(name: str) -> dict[str, Any]:
    return compose([f"recipe={name}"] if name in group_options()["recipe"] else []).flat()


def _plain_text(value: Any) -> str:
    if isinstance(value, str):
        # Commas and equal signs separate settings: inside a value they must not look like that.
        return _folder_name(re.sub(r"[,=\[\]~]", "_", value), value)
    return json.dumps(value, separators=(",", ":"))


def _folder_name(text: str, original: str | None = None) -> str:
    """`text` as a folder's name; where it must be altered or cut, a hash of the original keeps it unique."""
    safe = re.sub(r"[^A-Za-z0-9.,=+\[\]~_-]", "_", text)
    if safe == (original or text) and len(safe) <= 120:
        return safe
    return f"{safe[:100]}~{hashlib.sha256((original or text).encode()).hexdigest()[:10]}"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf reads it, 16 times as fast: it matters with a thousand records."""


# As OmegaConf does: 1e-5 is a number without a dot too, and a date is text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class RunRecord:
    """One run's directory.

    Args:
        path: the directory; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"RunRecord({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """Whether a run was ever begun here."""
        return (self.path / "config.yaml").is_file()

    # Reading

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings, nested.

        Raises:
            RunError: the file is missing or damaged.
        """
        path = self.path / "config.yaml"
        try:
            settings: Any = yaml.load(regular(path).read_text(), Loader=_Loader)  # noqa: S506 - it is a safe loader
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{path} cannot be read ({_first_line(error)}); `--fresh` starts the run over") from error
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise RunError(f"{path} holds no settings; `--fresh` starts the run over")
        flat = flatten(settings)
        if missing := _NEEDED - flat.keys():
            raise RunError(f"{path} lacks {', '.join(sorted(missing))}; `--fresh` starts the run over")
        for key in _INTEGERS:
            if not isinstance(flat[key], int):
                raise RunError(f"{path}: {key}: {flat[key]} is no whole number; `--fresh` starts the run over")
        found: dict[str, Any] = settings
        return found

    @property
    def environment(self) -> dict[str, Any]:
        """Data, open choices and sessions; empty if missing or damaged."""
        return _read_json(self.path / "environment.json")

    @property
    def sessions(self) -> list[dict[str, Any]]:
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
        """Status, iteration and last errors; empty if missing or damaged."""
        return _read_json(self.path / "summary.json")

    @property
    def status(self) -> str:
        """`complete`, `interrupted`, `diverged`, `failed` or `running`; a run that was killed is `interrupted`."""
        return self.status_of(self.summary)

    def status_of(self, summary: Mapping[str, Any]) -> str:
        """The same, of a summary that was read already."""
        status = str(summary.get("status", "interrupted"))
        if status == "running" and not self.in_use:
            return "interrupted"
        return status

    @property
    def in_use(self) -> bool:
        """Whether a process is writing this record."""
        path = self.path / ".lock"
        if not path.is_file():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a read-only folder: nobody can be writing
            return False

    def rows(self) -> list[Row]:
        """The metrics that can be read, by iteration."""
        return self.rows_and_damage()[0]

    def rows_and_damage(self) -> tuple[list[Row], int]:
        """The metrics that can be read, by iteration, and the number of lines that cannot."""
        try:
            text = regular(self.path / "metrics.jsonl").read_text(errors="replace")
        except OSError:
            return [], 0
        lines = text.splitlines()
        rows: dict[int, Row] = {}
        damaged = 0
        for row in _parsed(lines):
            if isinstance(row, dict) and type(row.get("iteration")) is int:
                rows[row["iteration"]] = row
            else:
                damaged += 1
        return [rows[iteration] for iteration in sorted(rows)], damaged

    # Writing

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this while writing.

        Raises:
            RunInUseError: another process holds it.
            RunError: the directory cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # A second's patience: whoever lists runs takes the lock for an instant, to see whether it is held.
            lock = FileLock(self.path / ".lock", timeout=1)
            lock.acquire()
        except Timeout:
            raise RunInUseError(f"{self.path} is in use by another process; wait for it or stop it") from None
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({_first_line(error)}); set output=DIR") from error
        try:
            yield
        finally:
            lock.release()

    def begin(
        self, experiment: Experiment, environment: Mapping[str, Any], session: Mapping[str, Any], *, resumed: bool
    ) -> None:
        """Write config.yaml, and environment.json with one more session.

        Args:
            experiment: the settings.
            environment: what holds for all sessions.
            session: the one that begins now.
            resumed: it goes on from where earlier ones were; else there were none.
        """
        earlier = self.sessions if resumed else []
        if earlier:  # one that was killed left no word of how far it got
            earlier[-1]["last_iteration"] = session["first_iteration"]
        replace_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(asdict(experiment))))
        self._write_environment({**environment, "sessions": [*earlier, dict(session)]})

    def end_session(self, iteration: int) -> None:
        """Note how far the last session got."""
        environment = self.environment
        environment["sessions"][-1]["last_iteration"] = iteration
        self._write_environment(environment)

    def _write_environment(self, environment: Mapping[str, Any]) -> None:
        content = {**environment, "schema_version": SCHEMA_VERSION}
        replace_text(self.path / "environment.json", _json(content, indent=2))

    def check_same(self, experiment: Experiment) -> None:
        """Refuse to go on with a record that holds other settings.

        Raises:
            RunConflictError: names the differing keys.
        """
        # A record older than a setting was made with what is now its default.
        held, asked = Experiment().flat() | flatten(self.config), experiment.flat()
        ignored = INCIDENTAL | ({"data.root"} if experiment.data.name != "folder" else frozenset())
        differing = [
            f"{key} is {held.get(key)!r} there, {asked.get(key)!r} here"
            for key in sorted(held.keys() | asked.keys())
            if key not in ignored and held.get(key) != asked.get(key)
        ]
        if differing:
            raise RunConflictError(
                f"{self.path} holds a run of other settings ({'; '.join(differing)}): "
                "choose another name=... or start over with --fresh"
            )

    def check_images(self, content_hash: str) -> None:
        """Refuse images other than those that the run was begun on.

        Raises:
            RunConflictError: names both hashes.
        """
        before = self.environment.get("data_hash", content_hash)
        if before != content_hash:
            raise RunConflictError(
                f"{self.path} was begun on other images (SHA-256 {before[:12]}..., now {content_hash[:12]}...): "
                "bring them back, choose another name=... or --fresh"
            )

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row of metrics and flush it to disk; NaN and infinity become null."""
        with regular(self.path / "metrics.jsonl").open("a") as file:
            file.write(_json(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_rows(self, *, up_to: int) -> int:
        """Drop rows after an iteration, and damaged lines; returns the number of damaged ones."""
        rows, damaged = self.rows_and_damage()
        kept = "".join(_json(row) + "\n" for row in rows if row["iteration"] <= up_to)
        replace_text(self.path / "metrics.jsonl", kept)
        return damaged

    def summarise(self, **fields: Any) -> None:
        """Replace summary.json."""
        fields["updated"] = now()
        replace_text(self.path / "summary.json", _json(fields, indent=2))


def settle_precision(matrix: Iterable[tuple[Experiment, RunRecord]]) -> None:
    """Let `runtime.precision=auto` mean fp32 in a whole matrix of which a network was trained in fp32 already.

    Args:
        matrix: experiments, which are changed in place, and their records.
    """
    pairs = list(matrix)
    if any("fp32" in record.precisions for _, record in pairs):
        for experiment, _ in pairs:
            if experiment.runtime.precision == "auto":
                experiment.runtime.precision = "fp32"


def sessions_of(environment: Mapping[str, Any], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`RunRecord.sessions`, of files that were read already."""
    found = environment.get("sessions")
    sessions = [dict(own) for own in found if isinstance(own, dict)] if isinstance(found, list) else []
    if environment.get("schema_version") == 1 and sessions:
        firsts = [session.pop("iteration", None) for session in sessions]
        for session, first, last in zip(sessions, firsts, [*firsts[1:], summary.get("iteration")], strict=True):
            name, _, threads = str(session.get("device")).rpartition(", ")  # "AMD EPYC, 2 threads"
            if count := re.fullmatch(r"(\d{1,6}) threads?", threads):
                session |= {"device": name, "threads": int(count[1])}
            session |= {"first_iteration": first, "last_iteration": last}
        once = ("precision", "engine", "cpu_capability", "platform", "git", "versions")
        sessions[-1] |= {key: environment[key] for key in once if key in environment}
    return sessions


def find_records(paths: Iterable[Path]) -> list[RunRecord]:
    """Records at or below each path, in the order of their paths, each once.

    Raises:
        RunError: a path does not exist, or holds no record.
    """
    found: dict[Path, RunRecord] = {}
    for path in paths:
        if not path.exists():
            raise RunError(
                f"{path}: no such directory; `degrade train` makes runs, below outputs unless told otherwise"
            )
        below = sorted(config.parent for config in path.rglob("config.yaml") if _is_record(config.parent))
        if not below:
            raise RunError(f"{path}: holds no run; `degrade train` makes one")
        found.update({folder.resolve(): RunRecord(folder) for folder in below})
    return list(found.values())


def _is_record(folder: Path) -> bool:
    return (folder / "summary.json").exists() or (folder / "environment.json").exists()


def now() -> str:
    """The present moment in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(regular(path).read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _parsed(lines: list[str]) -> list[Any]:
    """Each line as JSON, None where it is none."""
    try:
        # All at once: with a thousand records that takes a third of the time.
        values: list[Any] = json.loads(f"[{','.join(lines)}]")
        if len(values) == len(lines):
            return values
    except ValueError:
        pass
    return [_parsed_line(line) for line in lines]


def _parsed_line(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _json(value: Mapping[str, Any], indent: int | None = None) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    return json.dumps(finite, indent=indent, allow_nan=False)


def replace_text(path: Path, text: str) -> None:
    """Replace a file's text atomically and durably."""
    fresh = regular(path.with_name(path.name + ".tmp"))
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def regular(path: Path) -> Path:
    """The path, unless what is there is a named pipe, which would be waited for, a socket or a device.

    Raises:
        OSError: it is one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def _first_line(error: BaseException) -> str:
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
