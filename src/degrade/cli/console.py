"""From a command line to an exit code: only this module knows which error gives which code.

0 done · 1 a run failed or diverged · 2 bad input · 3 verdict "not reproduced" · 4 verdict "inconclusive" or
"too early" · 130 interrupted, checkpoint written.
"""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from degrade.cli import completion
from degrade.cli.commands import app
from degrade.cli.options import BAD_INPUT, DONE, INTERRUPTED, RUN_FAILED
from degrade.cli.refusals import check_words, options_given, refuse_repeated, shown, usage_line
from degrade.errors import (
    ConfigError,
    DatasetError,
    DegradeError,
    RunFailed,
    RunFileError,
    RunInterrupted,
    raise_stopped,
)

# Some versions of Typer bundle click and others import it, so the base class is reached through a public name.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: Errors of the system for which the command is not to blame: a full, failing or read-only disk.
TROUBLE = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ESTALE, errno.EROFS)


def entry_point() -> None:
    """The console script."""
    # Each of these signals stops degrade as Ctrl-C does, while it fetches images and between runs too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell has jobs in the background ignore it
            signal.signal(number, raise_stopped)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as by >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - it stays open to the end
    if not sys.stdout.isatty() and "FORCE_COLOR" not in os.environ:
        os.environ.setdefault("_TYPER_FORCE_DISABLE_TERMINAL", "1")  # Typer takes a job on GitHub for a terminal
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what it cannot show
    code = main(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a late Ctrl-C must not change the exit code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away, as `head` does, which is no error; nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. An error is one line; DEGRADE_DEBUG=1 adds a traceback."""
    if completion.QUESTION in os.environ:
        return completion.answer(lambda: app(args=[], prog_name="degrade", standalone_mode=False))
    manners, words = _manners(arguments)
    _configure_logging(manners)
    return _run(words, manners)


def _manners(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words `--quiet` and `--verbose`, which may stand anywhere, and the other words."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    manners = [word for word in arguments[:end] if word in ("--quiet", "--verbose")]
    return manners, [*(word for word in arguments[:end] if word not in manners), *arguments[end:]]


def _files(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that `--with FILE` names, wherever it stands, and the other words.

    Raises:
        ConfigError: a file is missing from the command line.
    """
    files, others, rest = [], [], iter(words)
    for word in rest:
        if word == "--":
            others += [word, *rest]
        elif word == "--with" or word.startswith("--with="):
            file = word[7:] if "=" in word else next(rest, "")
            if not file:
                raise ConfigError("--with: needs a value; name a Python file")
            files.append(file)
        else:
            others.append(word)
    return files, others


def _run(words: list[str], manners: list[str]) -> int:
    try:
        command = typer.main.get_command(app)
        if len(set(manners)) > 1:
            raise ConfigError("--quiet --verbose: leave one of them out")
        check_words(words)
        files, words = _files(words)
        if files:
            from degrade.config import registry  # here, since --help does without settings

            for file in files:
                registry.load(Path(file))
        refuse_repeated(options_given(command, words))
        code = command.main(args=words, prog_name="degrade", standalone_mode=False)
        if code == INTERRUPTED:  # Typer returns this after Ctrl-C
            return _failed(KeyboardInterrupt(), "interrupted", words, INTERRUPTED)
        return code if isinstance(code, int) else DONE
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands alone shows its help
            print(error.format_message() if hasattr(error, "format_message") else error)
            return DONE
        return _failed(error, usage_line(error, command, words), words, BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort) as error:
        return _failed(error, "interrupted", words, INTERRUPTED)
    except DegradeError as error:
        codes = {RunInterrupted: INTERRUPTED, RunFailed: RUN_FAILED, RunFileError: RUN_FAILED}
        code = next((own for kind, own in codes.items() if isinstance(error, kind)), BAD_INPUT)
        return _failed(error, str(error), words, code)
    except SystemExit:  # Typer raises this where the reader of a pipe went away, which is no error
        return DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in TROUBLE:
            return _failed(error, f"{where}{error.strerror or error}", words, RUN_FAILED)
        return _failed(error, f"{where}{error.strerror or error}; check the path", words, BAD_INPUT)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        message = f"unexpected {type(error).__name__}: {lines[0]} (DEGRADE_DEBUG=1 shows more)"
        return _failed(error, message, words, RUN_FAILED)


def _failed(error: BaseException, message: str, words: Sequence[str], code: int) -> int:
    if os.environ.get("DEGRADE_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    lines = isinstance(error, DatasetError)  # its message lists in several lines what was tried
    with contextlib.suppress(OSError):
        print(f"degrade: {shown(message, words, lines=lines)}", file=sys.stderr)
    return code


class _Lines(logging.Handler):
    """Log lines on stdout, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # A reader of the pipe that went away must not end a training.
        with contextlib.suppress(BrokenPipeError):
            tqdm.write(record.getMessage(), file=sys.stdout)
            sys.stdout.flush()


def _configure_logging(manners: Sequence[str] = ()) -> None:
    log = logging.getLogger("degrade")
    level = logging.ERROR if "--quiet" in manners else logging.DEBUG if "--verbose" in manners else logging.INFO
    log.handlers = [_Lines(level)]
    log.setLevel(logging.DEBUG)
    log.propagate = False
