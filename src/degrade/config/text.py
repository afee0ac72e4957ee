"""The settings as text, for readers of a terminal."""

import json
import textwrap

from degrade.config.registry import OPEN, names
from degrade.config.schema import descriptions, settings
from degrade.errors import ConfigError, did_you_mean

_WIDTH = 80


def settings_text(begin: str = "") -> str:
    """What each setting whose key begins so means, its default and its choices.

    Raises:
        ConfigError: no key begins so.
    """
    known = settings()
    found = {key: own for key, own in known.items() if key == begin or key.startswith(begin)}
    if not found:
        groups = dict.fromkeys(key.partition(".")[0] for key in known)
        raise ConfigError(f"{begin}: no setting begins so; {did_you_mean(begin, [*groups, *known])}")
    blocks = []
    for key, own in found.items():
        default = own.default if isinstance(own.default, str) else json.dumps(own.default)
        said = [descriptions()[key]]
        more = [*names(key), "or your own by --with FILE"] if key in OPEN else []
        said += [f"Choices: {', '.join([*map(str, own.choices), *more])}."] * bool(own.choices)
        said += [f"Only {' and '.join(own.families)} networks have it."] * bool(own.families)
        lines = textwrap.wrap(" ".join([*said, own.kind.means]).replace("`", ""), _WIDTH - 4)
        blocks.append("\n".join([f"{key}={default}", *(f"    {line}" for line in lines)]))
    return "\n\n".join(blocks)
