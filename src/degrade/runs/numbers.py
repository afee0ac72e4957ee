"""Numbers that probes found in a run: tables kept beside it as `RUN/probes/<probe>.csv`, each with a checksum."""

import csv
import io
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

from degrade.files import read_bytes, replace_text
from degrade.runs.record import Run

log = logging.getLogger("degrade.run")

Value = int | float | str
Row = dict[str, Value]


def numbers_path(record: Run, probe: str) -> Path:
    """The file that holds a probe's numbers of a run."""
    return record.path / "probes" / f"{probe}.csv"


#: The last column, which holds in each row `crc32:` and the CRC-32 of the table without this column.
CHECKSUM = "checksum"
_MARK = "crc32:"


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of equal columns as csv with a checksum, atomically."""
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    checksum = _checksum(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, _text([[*table[0], CHECKSUM], *([*row, checksum] for row in table[1:])]))


def read(path: Path) -> list[Row]:
    """The rows of a csv file, numbers as numbers; none if there is no such file, or it is damaged, which is logged.

    Raises:
        RunFileError: the file cannot be read just now.
    """
    content = read_bytes(path)
    if content is None:
        return []
    table = _table(content.decode(errors="replace"))
    if table is None:
        log.error("%s: damaged, left out", path)
        return []
    head, *rows = table
    return [dict(zip(head, map(_value, row), strict=True)) for row in rows]


def _table(text: str) -> list[list[str]] | None:
    """Head and rows without the checksum, which files of earlier versions lack; None if the file is damaged."""
    try:
        table = list(csv.reader(io.StringIO(text))) or [[]]
    except csv.Error:
        return None
    head, *rows = table
    decoded = text.endswith("\n") and "\ufffd" not in text
    named = len(set(head)) == len(head) and all(name.isidentifier() for name in head)
    if not decoded or not named or any(len(row) != len(head) for row in rows):
        return None
    if CHECKSUM not in head and not any(cell.startswith(_MARK) for row in table for cell in row):
        return table
    bare = [row[:-1] for row in table]
    checksum = _checksum(bare)
    return bare if all(row[-1] == checksum for row in rows) and head[-1:] == [CHECKSUM] else None


def _text(table: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(table)
    return out.getvalue()


def _checksum(table: Sequence[Sequence[str]]) -> str:
    return f"{_MARK}{zlib.crc32(_text(table).encode()):08x}"


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
