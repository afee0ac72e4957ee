"""A record's metrics and JSON files with checksums, so that damage is named and never becomes another answer.

Each line of metrics ends with its number, `"row"`, and the CRC-32 of what stands before, `"crc"`: a changed line is
found by the one, a lost line by the other. A JSON file holds the CRC-32 of its content as `"checksum"`. Records of
earlier versions hold neither, and are read all the same; whatever the age, a value of a wrong type is left out by
name. No torch.
"""

import json
import math
import zlib
from collections.abc import Mapping
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

_WHOLE = {"iteration", "iterations", "rows", "parameters", "schema_version"}
_TEXTS = {"updated", "error", "data_hash", "data_source", "config_sha256"}
_TABLES = {"images", "open_choices", "git", "versions"}


def flaw(key: str, value: Any) -> str | None:
    """What is wrong with a value of a record, in words; None if nothing is, or the key is none of ours."""
    if value is None:
        return None
    if key in _WHOLE:
        good, wanted = type(value) is int and 0 <= value < _LARGEST, "whole number"
    elif "_error" in key:
        good, wanted = _is_number(value) and 0 <= value <= 1, "fraction of 1"
    elif key == "seconds":
        good, wanted = _is_number(value), "finite number"
    elif key == "status":
        good, wanted = value in tuple(Status), f"status ({', '.join(Status)})"
    elif key == "synthetic":
        good, wanted = isinstance(value, bool), "true or false"
    elif key in _TEXTS:
        good, wanted = isinstance(value, str), "text"
    elif key in _TABLES:
        good, wanted = isinstance(value, dict), "table of names and values"
    elif key == "sessions":
        good, wanted = isinstance(value, list) and all(isinstance(own, dict) for own in value), "list of sessions"
    else:
        return None
    return None if good else f"{key}: {_short(value)} is no {wanted}"


def _is_number(value: Any) -> bool:
    return math.isfinite(value) if type(value) is float else type(value) is int and abs(value) < _LARGEST


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
    """Of each row, which one it is, from 1; by its place in the file where lines have no checksums."""
    damaged: int
    """Lines that cannot be read, or whose checksum differs."""
    flaws: list[str]
    """Values of a wrong type or size, which are None in the rows."""

    @property
    def expected(self) -> int:
        """Rows that there must have been."""
        return max(self.numbers, default=0)

    def lost_before(self, iteration: int) -> int:
        """Of the rows up to an iteration at which one was measured, how many are not there; at least 1 if that is."""
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
            wrong = flaw(key, value[key]) if key in _WHOLE or "_error" in key else _no_number(key, value[key])
            if wrong:
                flaws.append(f"iteration {value['iteration']:,}: {wrong}")
                value[key] = None
        found[value["iteration"]] = number, value
    order = sorted(found)
    return Measured([found[k][1] for k in order], [found[k][0] for k in order], damaged, flaws)


def _is_row(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("iteration") is None or flaw("iteration", value["iteration"]):
        return False
    return flaw("rows", value.get("row")) is None


def _no_number(key: str, value: Any) -> str | None:
    """All that is measured is a number, whatever it is called."""
    if value is None or _is_number(value):
        return None
    return f"{key}: {_short(value)} is no finite number"


def _is_sealed(line: str) -> bool:
    body, middle, end = line[:-20], line[-20:-10], line[-10:]
    return middle == ', "crc": "' and end == f'{_crc(body + "}")}"}}'


def _parsed(lines: list[str]) -> list[Any]:
    """Each line as JSON, None where it is none."""
    try:
        # All at once: with a thousand records that takes a third of the time.
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
    """Without the checksum, and without values of a wrong type; empty if the file is missing or damaged."""
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
