"""A record's metrics and JSON files with checksums, so that damage is named and never changes an answer.

Each line of metrics ends with its number, `"row"`, which tells whether a line is lost, and with the CRC-32 of what
stands before, `"crc"`, which tells whether the line was changed. A JSON file holds the CRC-32 of its content as
`"checksum"`. Records of earlier versions hold none of these and are read all the same. In any record a value of a
wrong type is left out and named. This module does not import torch.
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from degrade.files import read_bytes

Row = dict[str, Any]


class Status(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"
    FAILED = "failed"
    COMPLETE = "complete"

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self in (Status.COMPLETE, Status.DIVERGED)


#: Whole numbers are below this; a larger one is damage, and no array would hold it.
_LARGEST = 2**63


def flaw(key: str, value: Any, otherwise: str | None = None) -> str | None:
    """What is wrong with a value of a record, in words; None if nothing is.

    `otherwise` is the kind of value of a key that `_KINDS` does not list; None allows any.
    """
    kind = "fraction of 1" if "_error" in key else _KINDS.get(key, otherwise)
    if value is None or kind is None or _GOOD[kind](value):
        return None
    return f"{key}: {_short(value)} is no {kind}"


def _is_number(value: Any) -> bool:
    return math.isfinite(value) if type(value) is float else type(value) is int and abs(value) < _LARGEST


#: What values a record may hold, by what an error calls them.
_GOOD: dict[str, Callable[[Any], bool]] = {
    "whole number": lambda value: type(value) is int and 0 <= value < _LARGEST,
    "finite number": _is_number,
    "fraction of 1": lambda value: _is_number(value) and 0 <= value <= 1,
    "true or false": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "table of names and values": lambda value: isinstance(value, dict),
    "list of sessions": lambda value: isinstance(value, list) and all(isinstance(own, dict) for own in value),
    f"status ({', '.join(Status)})": lambda value: value in tuple(Status),
}

#: The kind of value of each key whose name does not tell it.
_KINDS = {
    **dict.fromkeys(("iteration", "iterations", "rows", "parameters", "schema_version"), "whole number"),
    **dict.fromkeys(("updated", "error", "data_hash", "data_source", "config_sha256"), "text"),
    **dict.fromkeys(("images", "open_choices", "git", "versions"), "table of names and values"),
    "seconds": "finite number",
    **dict.fromkeys(("synthetic", "shortcuts"), "true or false"),
    "sessions": "list of sessions",
    "status": f"status ({', '.join(Status)})",
}


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except ValueError:  # an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:39]}…"


# Metrics


@dataclass(frozen=True)
class Measured:
    """metrics.jsonl as it was read."""

    rows: list[Row]
    """Whole rows, by iteration, without number and checksum."""
    numbers: list[int]
    """The number of each row, from 1; where lines have no checksums, its place in the file."""
    damaged: int
    """Number of lines that cannot be read, or whose checksum differs."""
    flaws: list[str]
    """Values of a wrong type or size, which are None in the rows."""

    @property
    def expected(self) -> int:
        """Number of rows that there must have been."""
        return max(self.numbers, default=0)

    def lost_before(self, iteration: int) -> int:
        """How many rows are missing up to an iteration at which one was measured; at least 1 if that row is."""
        kept = [number for row, number in zip(self.rows, self.numbers, strict=True) if row["iteration"] <= iteration]
        if iteration and (not kept or self.rows[len(kept) - 1]["iteration"] != iteration):
            return max(1, self.damaged)
        return max(kept, default=0) - len(kept)


def sealed_line(row: Mapping[str, Any], number: int) -> str:
    """A row as a line of metrics.jsonl, with its number and checksum; NaN and infinity become null."""
    text = as_json({**row, "row": number})
    return f'{text[:-1]}, "crc": "{_crc(text)}"}}'


def read_metrics(path: Path) -> Measured:
    """The rows of a metrics.jsonl; none if there is no such file.

    Raises:
        RunFileError: the file cannot be read just now.
    """
    lines = (read_bytes(path) or b"").decode(errors="replace").split("\n")
    if not lines[-1]:
        lines.pop()
    values = _parsed(lines)
    checked = any(isinstance(value, dict) and ("row" in value or "crc" in value) for value in values)
    found: dict[int, tuple[int, Row]] = {}
    damaged, flaws = 0, []
    for place, (line, value) in enumerate(zip(lines, values, strict=True), start=1):
        if not _is_row(value) or (checked and not _is_sealed(line)):
            damaged += 1
            continue
        number = value.pop("row", place)
        value.pop("crc", None)
        for key in value:
            if wrong := flaw(key, value[key], "finite number"):
                flaws.append(f"iteration {value['iteration']:,}: {wrong}")
                value[key] = None
        found[value["iteration"]] = number, value
    order = sorted(found)
    return Measured([found[k][1] for k in order], [found[k][0] for k in order], damaged, flaws)


def _is_row(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("iteration") is None or flaw("iteration", value["iteration"]):
        return False
    return flaw("rows", value.get("row")) is None


def _is_sealed(line: str) -> bool:
    body, middle, end = line[:-20], line[-20:-10], line[-10:]
    return middle == ', "crc": "' and end == f'{_crc(body + "}")}"}}'


def _parsed(lines: list[str]) -> list[Any]:
    """The value of each line of JSON; None where a line is not JSON."""
    try:
        # All lines are parsed at once, which takes a third of the time with a thousand records.
        values: list[Any] = json.loads(f"[{','.join(lines)}]")
        if len(values) == len(lines):
            return values
    except (ValueError, RecursionError):
        pass
    return [_parsed_line(line) for line in lines]


def _parsed_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


# JSON files


@dataclass(frozen=True)
class Checked:
    """A JSON file as it was read."""

    content: dict[str, Any]
    """The content without the checksum and values of a wrong type; empty if the file is missing or damaged."""
    flaws: list[str]
    """Values of a wrong type or size, which were left out."""


def sealed(content: Mapping[str, Any]) -> str:
    """A JSON file's text, with a checksum; NaN and infinity become null."""
    return as_json({**content, "checksum": _crc(as_json(content))}, indent=2)


def read_json(path: Path) -> Checked:
    """A JSON file's content.

    Raises:
        RunFileError: the file cannot be read just now.
    """
    try:
        content = json.loads((read_bytes(path) or b"").decode())
        if not isinstance(content, dict):
            return Checked({}, [])
        if "checksum" in content and content.pop("checksum") != _crc(as_json(content)):
            return Checked({}, [])
    except (ValueError, RecursionError):
        return Checked({}, [])
    flaws = {key: wrong for key, value in content.items() if (wrong := flaw(key, value))}
    return Checked({key: value for key, value in content.items() if key not in flaws}, list(flaws.values()))


def as_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON text; NaN and infinity become null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    return json.dumps(finite, indent=indent, allow_nan=False)


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
