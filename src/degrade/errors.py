"""The error tree. Each message names the bad value and the fix; only the command line turns one into an exit code.

DegradeError
├── ConfigError        a setting that cannot be right
│   └── NoEffectError      a setting that takes no effect
├── DatasetError       images that are missing, damaged or cannot be fetched
└── RunError           a run's record that cannot be used
    ├── RunFileError       one of its files cannot be read or written just now
    ├── RunInUseError      another process is writing it
    ├── RunConflictError   it holds other settings
    ├── RunInterrupted     the user stopped the run, and its checkpoint is written
    └── RunFailed          training ended without a result
"""

import difflib
from collections.abc import Iterable


class DegradeError(Exception):
    """Base of every error that degrade raises on purpose."""


class ConfigError(DegradeError):
    """A setting that cannot be right."""


class NoEffectError(ConfigError):
    """A setting that takes no effect beside the others; the message names its value and the fix."""

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


class RunInterrupted(RunError):  # noqa: N818 - it is an event, not an error
    """The user stopped the run; its checkpoint is written."""


class RunFailed(RunError):  # noqa: N818 - it says what happened
    """Training ended without a result."""


class Stopped(KeyboardInterrupt):
    """A signal handler's exception on Ctrl-C or SIGTERM, which is no error and is caught as KeyboardInterrupt.

    KeyboardInterrupt itself would not do: where it passes through an `exec`, as in torch's imports, CPython remembers
    it and dies of SIGINT at its end, whatever the exit code.
    """


def raise_stopped(*_: object) -> None:
    """A signal handler that raises Stopped."""
    raise Stopped


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest of `known`, or lists them when none is near."""
    candidates = sorted(set(known))
    if near := difflib.get_close_matches(word, candidates, n=3, cutoff=0.5):
        return f"did you mean {' or '.join(near)}?"
    if len(candidates) > 12:
        return "`degrade settings` lists them all"
    return f"choose one of {', '.join(candidates)}"
