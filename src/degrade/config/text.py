"""The settings as text, for readers of a terminal."""

import dataclasses
import json
import textwrap

from degrade.config import launcher
from degrade.config.registry import OPEN, names
from degrade.config.schema import descriptions, fields_described, settings
from degrade.errors import ConfigError, did_you_mean

_WIDTH = 80


def settings_text(begin: str = "") -> str:
    """What each setting whose key begins so means, its default and its choices.

    Raises:
        ConfigError: no key begins so.
    """
    known = settings()
    blocks = []
    for key, own in known.items():
        if not key.startswith(begin):
            continue
        said = [descriptions()[key]]
        more = [*names(key), "or your own by --with FILE"] if key in OPEN else []
        said += [f"Choices: {', '.join([*map(str, own.choices), *more])}."] * bool(own.choices)
        said += [f"Only {' and '.join(own.families)} networks have it."] * bool(own.families)
        said += [own.kind] * (own.counts is None)
        blocks.append(_block(key, own.default, said))
    for name, key, default, meaning in launcher_settings():
        if key.startswith(begin):
            blocks.append(_block(key, default, [meaning, f"Only launcher={name} has it."]))
    if not blocks:
        groups = dict.fromkeys([*(key.partition(".")[0] for key in known), "launcher"])
        raise ConfigError(f"{begin}: no setting begins so; {did_you_mean(begin, [*groups, *known])}")
    return "\n\n".join(blocks)


def launcher_settings() -> list[tuple[str, str, object, str]]:
    """Each setting of each launcher: the launcher's name, the setting's key, its default, and what it means."""
    said = fields_described(launcher)
    return [
        (name, f"launcher.{own.name}", getattr(kind(), own.name), said[kind.__name__][own.name])
        for name, kind in launcher.LAUNCHERS.items()
        for own in dataclasses.fields(kind)
    ]


def _block(key: str, default: object, said: list[str]) -> str:
    value = default if isinstance(default, str) else json.dumps(default)
    lines = textwrap.wrap(" ".join(said).replace("`", ""), _WIDTH - 4)
    return "\n".join([f"{key}={value}", *(f"    {line}" for line in lines)])
