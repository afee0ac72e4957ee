"""Reading that does not take trouble with the disk for damage, and writing that a crash leaves whole.

A file that is not there differs from one that cannot be read just now: a hiccup of a network disk must never lead to
starting over. A file that is proven to be damaged is kept beside its successor, as `NAME.damaged`.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from degrade.errors import RunFileError

T = TypeVar("T")

#: Errors of a path that leads to no file, whatever state the disk is in.
NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
#: Errors of a folder that may be written but not read, or on a file system that flushes no folders.
NO_FOLDER_TO_FLUSH = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP)


def present(path: Path) -> bool:
    """Whether there is a file.

    Raises:
        RunFileError: the system cannot tell just now.
    """
    return _unless_missing(path, path.stat) is not None


def regular(path: Path) -> Path:
    """The path, if there is a regular file, a folder or nothing.

    Raises:
        RunFileError: there is a named pipe, for which reading would wait, a socket or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RunFileError(f"{path} is not a regular file, but a pipe, a socket or a device; move it away")
    return path


def read_bytes(path: Path) -> bytes | None:
    """The content of a file; None where there is no such file.

    Raises:
        RunFileError: the file cannot be read just now.
    """
    return _unless_missing(path, lambda: regular(path).read_bytes())


def _unless_missing(path: Path, look: Callable[[], T]) -> T | None:
    try:
        return look()
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            return None
        raise RunFileError(
            f"{path} cannot be read just now ({reason(error)}); nothing was changed, try the same command again"
        ) from error


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Where to write what replaces a file, atomically and durably; if writing fails, the file stays as it was.

    The one before is renamed to `keep`, if that is given.
    """
    fresh = regular(path.with_name(path.name + ".tmp"))
    with gone_on_failure(fresh):
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        fresh.replace(path)
    try:
        folder = os.open(path.parent, os.O_RDONLY)  # a rename is on disk once its folder is
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER_TO_FLUSH:
            raise


def replace_text(path: Path, text: str) -> None:
    """Replace the text of a file as `replacing` does."""
    with replacing(path) as fresh:
        fresh.write_text(text)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file durably; where that fails, no part of the line stays."""
    data = (line + "\n").encode()
    with regular(path).open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


@contextmanager
def gone_on_failure(path: Path) -> Iterator[None]:
    """Remove a half-written file when the block raises, because on a full disk it would take the room of others."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `NAME.damaged`, or `NAME.damaged-2` and so on where that is taken."""
    target = _free(path)
    path.replace(target)
    return target


def copy_aside(path: Path) -> Path:
    """Copy a damaged file that is about to be replaced to the name that `set_aside` would give it."""
    target = _free(path)
    with gone_on_failure(target):
        shutil.copyfile(path, target)
    return target


def _free(path: Path) -> Path:
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while present(target):
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    return target


def reason(error: BaseException) -> str:
    """What went wrong, in one line: the words of the system, or the first line of the message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
