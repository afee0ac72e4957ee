"""What a setting says about itself, for the fields of `schema`, and the words in which it is said."""

import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from degrade.config import registry
from degrade.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from degrade.config.schema import Experiment


class Must(NamedTuple):
    """What a value must be."""

    holds: Callable[[Any], Any]
    words: str
    """What an error says of a value for which it does not hold."""
    quoted: bool = False
    """Whether the error shows the value in quotes."""


class Kind(StrEnum):
    """What a setting is to the experiment, as a sentence for readers of the settings' page."""

    FIXED = "The paper fixes it: another value is named on figures as a departure."
    """It changes the result, and its default is the paper's value."""
    OPEN = "The paper leaves it open: another value is named on figures as an open choice."
    """It changes the result, and the paper does not say."""
    COMPARED = "It tells apart the runs that are set beside each other."
    """Such are family, depth and seed."""
    INCIDENTAL = "It does not change which experiment a run is."
    """It changes where a run is written, what is looked at on its way, or how it is computed. environment.json says
    how each session computed."""


@dataclass(frozen=True)
class Need:
    """What must hold in an experiment for a setting to take effect."""

    holds: "Callable[[Experiment], bool]"
    why: str
    """What is wrong where it does not hold, and the fix; the `{family}`, `{depth}`, `{norm}`, `{data}`, `{optim}`,
    `{schedule}` and `{warmup}` in it are filled in."""
    families: tuple[str, ...] = ()
    """The only families that have the setting; empty where all have it."""


@dataclass(frozen=True)
class Setting:
    """What a setting says about itself; `schema.settings` lists all of them by key."""

    default: Any
    """Its value in the paper, where the paper has one."""
    name: str = ""
    """Its name in figures where it departs from the paper; empty where they do not name it."""
    kind: Kind = Kind.FIXED
    choices: tuple[Any, ...] = ()
    """The values that it, or each of its list, may have, where they are few."""
    check: Must | None = None
    """What other values must be."""
    needs: tuple[Need, ...] = ()
    """What must hold for it to take effect."""
    null: str = "none"
    """The word for None in figures."""
    says: "Callable[[Experiment], str] | None" = None
    """Gives a figure's whole remark, empty for none, where a name and two values would not do."""
    counts: "Callable[[Experiment], bool] | None" = None
    """Whether the result of an experiment depends on it, though it is incidental elsewhere."""
    follows: "Callable[[Experiment], Any] | None" = None
    """Gives the value that other settings bring with them, None where they bring none. It counts as the default."""
    key: str = ""
    """Its key, such as `model.depth`."""
    types: tuple[Any, ...] = ()
    """The types of its values."""

    @property
    def families(self) -> tuple[str, ...]:
        """The only families of networks that have it; empty: all have it."""
        return next((need.families for need in self.needs if need.families), ())

    def unmet(self, experiment: "Experiment") -> Need | None:
        """The first need that an experiment does not meet, so that it takes no effect; None if it takes effect."""
        return next((need for need in self.needs if not need.holds(experiment)), None)

    def changes_result(self, experiment: "Experiment") -> bool:
        """Whether the result depends on it, where it takes effect."""
        return self.kind is not Kind.INCIDENTAL or (self.counts is not None and self.counts(experiment))

    def is_brought(self, experiment: "Experiment", value: Any) -> bool:
        """Whether a value is the one that other settings bring with them."""
        return self.follows is not None and value is not None and value == self.follows(experiment)

    def validate(self, key: str, value: Any) -> None:
        """Refuse a value that it must not have.

        Raises:
            ConfigError: there is something wrong with the value; the message names it and the fix.
        """
        given = value if isinstance(value, list) else [value]
        added = key in registry.OPEN
        unknown = [own for own in given if own not in self.choices and not (added and registry.find(key, own))]
        if self.choices and unknown:
            value, known = unknown[0], (*self.choices, *registry.names(key))
            listed = ", ".join(map(str, known))
            hint = did_you_mean(value, known) if isinstance(value, str) else f"choose one of {listed}"
            more = " (--with FILE adds others)" if key in registry.OPEN else ""
            raise ConfigError(
                f"{key}={value}: {hint}{'' if hint.startswith('choose') else f' (one of {listed})'}{more}"
            )
        if self.check is not None and value is not None and not self.check.holds(value):
            raise ConfigError(f"{key}={repr(value) if self.check.quoted else value}: {self.check.words}")

    def wrong(self, value: Any) -> str | None:
        """What is wrong with the type of a value that was read from YAML; None if nothing is."""
        if any(_is(value, own) for own in self.types):
            return None
        return f"{self.key}: {value} is no {' or '.join(TYPES[own] for own in self.types if own is not type(None))}"

    def words(self, value: Any) -> str:
        """A value as figures write it."""
        if value is None:
            return self.null
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, list):
            return "/".join(map(self.words, value)) or "none"
        if isinstance(value, int) and value >= 1000:
            return f"{value // 1000}k" if value % 1000 == 0 else f"{value:,}"
        return f"{value:g}" if isinstance(value, float) else str(value)


#: Types of settings, in words.
TYPES = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    list[int]: "list of whole numbers",
    list[str]: "list of names",
    type(None): "null",
}


def _is(value: Any, kind: Any) -> bool:
    if kind in (list[int], list[str]):
        return isinstance(value, list) and all(_is(own, *typing.get_args(kind)) for own in value)
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    if kind is float:
        return _is(value, int) or (type(value) is float and math.isfinite(value))
    return isinstance(value, kind)


def setting(default: Any, name: str = "", **more: Any) -> Any:
    """A field of a dataclass that says all about itself; its arguments are attributes of `Setting`."""
    metadata = {"setting": Setting(default, name, **more)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# What values may be: `Must`, which `Setting.validate` asks

FINITE = Must(lambda value: math.isfinite(value) and value >= 0, "must be 0 or a finite number above it")
POSITIVE = Must(lambda value: math.isfinite(value) and value > 0, "must be a finite number above 0")
COUNT = Must(lambda value: value >= 1, "must be 1 or more")
INTERVAL = Must(lambda value: value >= 1, "must be 1 or more iterations, or null for the default")
RISING = Must(
    lambda value: sorted(set(value)) == list(value) and all(iteration >= 1 for iteration in value),
    "write rising iterations from 1, such as [32000,48000]",
)
SOURCES = Must(
    lambda value: value and len(set(value)) == len(value) and set(value) <= {"local", "mirror", "original", "npm"},
    "name each source once, of local, mirror, original and npm, such as [local,npm]",
)
MIRROR = Must(
    lambda value: (
        value and "\0" not in value and re.match(r"https?://[^/\s]+/|(?![A-Za-z][A-Za-z0-9+.-]*://)", value)
    ),
    "write the archive's address, http:// or https://, or a folder",
    quoted=True,
)
PATH_PART = Must(
    lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,99}", value),
    "it names a folder; use up to 100 letters, digits and . _ + = , - beginning with a letter or digit",
    quoted=True,
)
FOLDER = Must(lambda value: value and "\0" not in value, "name a folder", quoted=True)
DEVICE = Must(
    lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9]\d?))?", value),
    "choose one of auto, cpu, cuda, cuda:N, mps",
)


def within(low: float, high: float, *, below: bool = False) -> Must:
    """A number from `low` to `high`; `below` excludes `high` itself."""
    words = f"must lie from {low:,} to {'below ' if below else ''}{high:,}"
    return Must(lambda value: low <= value < high if below else low <= value <= high, words)
