"""The error tree. Each message names the bad value and the mend; only the command line turns one into an exit code.

DegradeError
├── ConfigError        a setting that cannot be right
│   └── NoEffectError      a setting that takes no effect
├── DatasetError       images that are missing, damaged or cannot be fetched
└── RunError           a run's record that cannot be used
    ├── RunFileError       a file of it cannot be read or written just now
    ├── RunInUseError      another process is writing it
    ├── RunConflictError   it holds other settings
    ├── RunInterrupted     stopped by the user, checkpoint written
    └── RunFailed          training ended without a result
"""

import difflib
from collections.abc import Iterable


class DegradeError(Exception):
    """Base of every error that degrade raises on purpose."""


class ConfigError(DegradeError):
    """A setting that cannot be right."""


class NoEffectError(ConfigError):
    """A setting that takes no effect beside the others.

    Args:
        key: of the setting.
        message: names its value and the mend.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class DatasetError(DegradeError):
    """Images that are missing, damaged or cannot be fetched."""


class RunError(DegradeError):
    """A run's record that cannot be used."""


class RunFileError(RunError):
    """The system cannot read or write one of the record's files just now; that proves no damage."""


class RunInUseError(RunError):
    """Another process is writing this record."""


class RunConflictError(RunError):
    """The record holds a run of other settings."""


class RunInterrupted(RunError):  # noqa: N818 - an event, not an error of anybody's
    """The user stopped the run; its checkpoint is written."""


class RunFailed(RunError):  # noqa: N818 - reads as what happened
    """Training ended without a result."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, raised by a signal handler; not an error, and caught as KeyboardInterrupt.

    Not KeyboardInterrupt itself: where that passes through an `exec` on its way, as in torch's imports, CPython
    remembers it and dies of SIGINT at its end, whatever the exit code.
    """


def raise_stopped(*_: object) -> None:
    """A signal handler that raises Stopped."""
    raise Stopped


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest of `known`, or lists them when none is near."""
    candidates = sorted(known)
    near = difflib.get_close_matches(word, candidates, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if len(candidates) > 12:
        return "`degrade train --dry-run` shows them all"
    return f"choose one of {', '.join(candidates)}"
