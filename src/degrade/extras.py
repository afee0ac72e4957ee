"""Packages that only some settings need: a missing one is named before any work, with the way to install it."""

import importlib.util

from degrade.errors import ConfigError


def installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # The package that would hold the module is missing too.
        return False


def require(package: str, *, extra: str, what: str) -> None:
    """Refuse a wish whose package is missing.

    `package` names the distribution and its module alike, `extra` is the extra of degrade that installs it, and
    `what` is the wish as the user wrote it.

    Raises:
        ConfigError: the package is not installed.
    """
    if not installed(package):
        raise ConfigError(
            f"{what} needs {package}, which is not installed: pip install {package}, "
            f"or pip install '.[{extra}]' in degrade's checkout"
        )
