"""degrade reproduces the degradation problem of deep plain networks, and its mending by identity shortcuts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from degrade.runs.library import networks
    from degrade.runs.trained import classifier, load

__version__ = "0.1.0"

__all__ = ["classifier", "load", "networks"]


def __getattr__(name: str) -> Any:
    # They are imported when they are asked for, since torch takes seconds.
    if name in ("classifier", "load"):
        from degrade.runs import trained

        return getattr(trained, name)
    if name == "networks":
        from degrade.runs.library import networks

        return networks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
