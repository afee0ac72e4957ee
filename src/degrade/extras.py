"""Packages that only some settings need: one that is missing is named, with what installs it, before any work."""

import importlib.util

from degrade.errors import ConfigError


def installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that holds it is there
        return False


def require(package: str, *, extra: str, what: str) -> None:
    """Refuse a wish whose package is missing.

    Args:
        package: the distribution, and the module that it brings.
        extra: degrade's, that installs it.
        what: the wish, as the user wrote it.

    Raises:
        ConfigError: the package is not installed.
    """
    if not installed(package):
        raise ConfigError(
            f"{what} needs {package}, which is not installed: pip install {package}, "
            f"or pip install '.[{extra}]' in degrade's checkout"
        )
