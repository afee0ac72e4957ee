"""Refusals of a command line: one line that repeats the bad value and names the fix."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from degrade.errors import ConfigError

#: At most this many characters of a value are repeated; of a longer one a message shows the beginning and the end.
LONGEST = 60

#: At most this many characters without a space are shown of anything else, such as a number written as 1e400.
_LONGEST_ANYHOW = 200


class Given(NamedTuple):
    """An option on the command line: Typer's parameter, the text as typed, such as `--depth 20`, and the value."""

    parameter: Any
    text: str
    value: str


def check_words(words: Sequence[str]) -> None:
    """Refuse words that no file, record or terminal can hold.

    Raises:
        ConfigError: a word is not valid UTF-8, or holds a null character.
    """
    for word in words:
        if re.search("[\0\ud800-\udfff]", word):
            raise ConfigError(f"{word}: holds bytes that are not UTF-8 text; write it in UTF-8")


def options_given(command: Any, words: Sequence[str]) -> Iterator[Given]:
    """The options on a command line, in their order, as the command declares them."""
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        name, equals, value = word.partition("=")
        parameter = next((own for own in command.params if name in (*own.opts, *own.secondary_opts)), None)
        if not word.startswith("-"):
            command = getattr(command, "commands", {}).get(word, command)
        elif parameter is None:
            continue
        elif parameter.is_flag:
            yield Given(parameter, name, name)
        elif equals:
            yield Given(parameter, word, value)
        else:
            value = next(rest, "")
            yield Given(parameter, f"{name} {value}", value)


def refuse_repeated(given: Iterable[Given]) -> None:
    """Refuse an option that is given twice with two values, of which the last would win silently.

    Raises:
        ConfigError: an option is given so; the message names both values.
    """
    first: dict[str, Given] = {}
    for option in given:
        other = first.setdefault(option.parameter.name, option)
        if other.value != option.value:
            raise ConfigError(f"{other.text} {option.text}: leave one of them out")


def usage_line(error: Any, command: Any, words: Sequence[str]) -> str:
    """The message for a UsageError, by which Typer says what is wrong with a command line."""
    kind = type(error).__name__
    help_text = f"`{_path(command, words)} --help`"
    message = " ".join(error.format_message().split())
    parameter = getattr(error, "param", None)
    if kind == "NoSuchOption":
        mend = f"did you mean {error.possibilities[0]}?" if error.possibilities else f"{help_text} lists the options"
        name = str(error.option_name)
        typed = (w for w in words if w.partition("=")[0] == name or (w.startswith(name) and not w.startswith("--")))
        return f"{next(typed, name)}: no such option; {mend}"
    if kind == "BadOptionUsage":
        takes = "takes no value" if "not take" in message else "needs a value"
        return f"{error.option_name}: {takes}; {help_text} shows how it is written"
    if kind == "MissingParameter" and parameter is not None:
        missing = re.search("'(.*)'", message)
        return f"{missing[1] if missing else parameter.name} is missing; {help_text} shows how it is written"
    if parameter is not None:
        typed = (own.text for own in options_given(command, words) if own.parameter.name == parameter.name)
        return f"{next(typed, parameter.name)}: {_must_be(message.partition(': ')[2] or message)}"
    if extra := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return f"{extra[1]}: more arguments than the command takes; {help_text} lists them"
    if message.startswith("No such command"):
        return f"{message.rstrip('.')}" + ("" if "Did you mean" in message else f"; {help_text} lists the commands")
    return message


def _path(command: Any, words: Sequence[str]) -> str:
    """The command that the first words name, such as `degrade data fetch`."""
    path = ["degrade"]
    for word in words:
        below = getattr(command, "commands", {}).get(word)
        if below is None:
            break
        command = below
        path.append(word)
    return " ".join(path)


def _must_be(message: str) -> str:
    """What a value must be, from Typer's message for one that is not."""
    if choices := re.search(r" is not one of (.*?)\.?$", message):
        return f"must be one of {choices[1]}"
    if "integer" in message:
        return "must be a whole number, such as 20, of at most 19 digits"
    if "valid number" in message or "valid float" in message:
        return "must be a number, such as 0.5"
    for theirs, ours in (
        ("Input should be", "must be"),
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
    ):
        message = message.replace(theirs, ours)
    return message


def shown(message: str, words: Sequence[str], *, lines: bool = False) -> str:
    """A message as a terminal may show it: long values are shortened, and what is not printable is escaped.

    Words that name an existing file are left whole, and so are line breaks if `lines` is set.
    """
    missing = [word for word in words if not os.path.lexists(word)]
    values = {part for word in missing for part in word.split("=", 1) if len(part) > LONGEST}
    for value in sorted(values, key=len, reverse=True):
        if not os.path.lexists(value):
            message = message.replace(value, _shortened(value, LONGEST))
    message = re.sub(rf"\S{{{_LONGEST_ANYHOW + 1},}}", lambda found: _shortened(found[0], _LONGEST_ANYHOW), message)
    return "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode() for c in message
    )


def _shortened(value: str, length: int) -> str:
    end = length // 3
    return f"{value[: length - 1 - end]}…{value[-end:]}"
