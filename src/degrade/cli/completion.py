"""What a shell completes: settings and their values, run directories, the words that options take.

A shell asks at each press of Tab, so neither torch nor Hydra is imported. No answer ends in `=` or `/` alone, because
shells put a space after an answer that is the only one: what can follow is answered with it.
"""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

#: The environment variable in which Typer's scripts ask the shell's question: `complete_bash`.
QUESTION = "_DEGRADE_COMPLETE"

#: At most this many entries of folders are searched for runs; after that, folders are offered without a look inside.
_PATIENCE = 2000


def answer(ask: Callable[[], Any]) -> int:
    """Answer a shell's question.

    Args:
        ask: lets Typer print its answer to what the environment asks.

    Returns:
        The exit code, from which fish learns whether there is an answer.
    """
    bash = os.environ[QUESTION] == "complete_bash" and "COMP_WORDS" in os.environ
    prefix = _join_words() if bash else ""
    code: Any = 0
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            ask()
        except SystemExit as end:
            code = end.code
    lines = out.getvalue().splitlines()
    if bash:
        lines = [re.sub(r"([\s\\'\"`$&|;<>()*?!#{}])", r"\\\1", line.removeprefix(prefix)) for line in lines]
    print("\n".join(lines))
    return code if isinstance(code, int) else 0


def _join_words() -> str:
    """Undo what bash does to words: it splits them at `=` and `:`, and replaces only the last part.

    Returns:
        The parts of the word before the last one, which bash does not want repeated.
    """
    words = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
    joined: list[str] = []
    glued = False
    for word in words:
        breaks = bool(re.fullmatch("[=:]+", word))
        if joined and (breaks or glued):
            joined[-1] += word
        else:
            joined.append(word)
        glued = breaks
    last = "" if glued else words[-1]
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    return joined[-1].removesuffix(last) if last else joined[-1] * glued


def values_of(key: str) -> Callable[[str], list[str]]:
    """The completion by the values of a setting or config group."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(_values(key, {}), incomplete)

    return complete


def settings(incomplete: str) -> list[str]:
    """`KEY=VALUE`: keys of settings and config groups; values after a key's `=`, or if only one key fits."""
    return _settings(incomplete, _defaults())


def settings_groups(incomplete: str) -> list[str]:
    """Groups of settings, and their keys."""
    keys = [*_defaults(), *_launcher_defaults()]
    return _beginning([*dict.fromkeys(key.partition(".")[0] for key in keys), *keys], incomplete)


def swept_settings(incomplete: str) -> list[str]:
    """Settings as above, and a launcher with its settings."""
    return _settings(incomplete, {**_defaults(), **_launcher_defaults()})


def experiment_or_settings(incomplete: str) -> list[str]:
    """A named experiment, or settings that it leaves free."""
    from degrade.config.groups import experiment_names

    fixed = ("model", "model.family", "model.depth", "seed")
    free = {key: value for key, value in _defaults().items() if key not in fixed}
    return [*_beginning(experiment_names(), incomplete), *_settings(incomplete, free | _launcher_defaults())]


def runs_or_networks(incomplete: str) -> list[str]:
    """A run's directory, or a trained network that comes with degrade."""
    from degrade.runs.library import networks

    return [*runs(incomplete), *_beginning(networks(), incomplete)]


def runs_or_settings(incomplete: str) -> list[str]:
    """A run's directory, or settings, or `experiment=`."""
    return [*runs(incomplete), *_settings(incomplete, {**_defaults(), "experiment": None})]


def _settings(incomplete: str, known: dict[str, Any]) -> list[str]:
    key, equals, value = incomplete.partition("=")
    keys = [key] if equals else _beginning(known, key)
    if len(keys) != 1:
        return [f"{each}=" for each in keys]
    before = value[: value.rfind(",") + 1]  # the values of a sweep that are typed already
    found = [f"{keys[0]}={before}{own}" for own in _values(keys[0], known) if own not in before.split(",")]
    return found if equals else [f"{keys[0]}=", *found]


def _defaults() -> dict[str, Any]:
    """Settings with their defaults, and config groups, which have none."""
    from degrade.config.groups import group_options
    from degrade.config.schema import settings

    return {**dict.fromkeys(group_options()), **{key: own.default for key, own in settings().items()}}


def _launcher_defaults() -> dict[str, Any]:
    """The settings of launchers with their defaults, and `launcher` itself, which has none."""
    from degrade.config.launcher import LAUNCHERS

    own = {f"launcher.{key}": value for kind in LAUNCHERS.values() for key, value in vars(kind()).items()}
    return {"launcher": None, **own}


def _values(key: str, known: dict[str, Any]) -> Sequence[str]:
    """The values that a setting may take; only its default where they cannot be listed."""
    from degrade.config.groups import experiment_names, group_options
    from degrade.config.launcher import LAUNCHERS
    from degrade.config.registry import names
    from degrade.config.schema import settings

    default = known.get(key)
    if key in known and key in ("experiment", "launcher"):
        return experiment_names() if key == "experiment" else tuple(LAUNCHERS)
    if isinstance(default, bool):
        return ("true", "false")
    if key == "runtime.device":  # how many GPUs there are is not known without torch
        return ("auto", "cpu", "cuda", "mps")
    if found := (settings()[key].choices if key in settings() else group_options().get(key)):
        listed = [*map(str, found), *names(key)]
        return [f"[{value}]" for value in listed] if isinstance(default, list) else listed
    if key not in known:
        return ()
    return ("null",) if default is None else (str(default).replace(" ", ""),)


def runs(incomplete: str) -> list[str]:
    """Run directories and folders that hold some, one level below what is typed; deeper where only one fits."""
    typed, _, name = incomplete.rpartition("/")
    typed = f"{typed}/" if "/" in incomplete else ""
    patience = [_PATIENCE]
    found = []
    for entry in _folders(Path(os.path.expanduser(typed or "."))):  # noqa: PTH111 - Path's own raises for unknown users
        if entry.name.startswith(name) and not (entry.name.startswith(".") and not name.startswith(".")):
            if _is_run(entry):
                found.append(f"{typed}{entry.name}")
            elif _holds_runs(entry, 4, patience):
                found.append(f"{typed}{entry.name}/")
    if len(found) == 1 and found[0].endswith("/"):
        found += runs(found[0])
    return found


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any(
        (folder / name).exists() for name in ("summary.json", "environment.json")
    )


def _holds_runs(folder: Path, levels: int, patience: list[int]) -> bool:
    """Whether there is a run at most `levels` levels below a folder, or there are too many entries to find out."""
    for below in _folders(folder):
        patience[0] -= 1
        if patience[0] < 0 or _is_run(below):
            return True
        if levels > 1 and not below.name.startswith(".") and _holds_runs(below, levels - 1, patience):
            return True
    return False


def _beginning(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
