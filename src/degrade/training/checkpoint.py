"""Checkpoints that a crash at any moment leaves whole: written beside, flushed to disk, renamed; one older kept."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.prev.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as the newest checkpoint in `folder`; the one before stays as a fallback."""
    fresh = folder / f"{NAME}.tmp"
    with fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if (folder / NAME).exists():
        (folder / NAME).replace(folder / PREVIOUS)
    fresh.replace(folder / NAME)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def candidates(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first."""
    return [folder / name for name in (NAME, PREVIOUS) if (folder / name).is_file()]


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read one checkpoint; nothing in it is executed.

    Raises:
        ValueError: it is damaged, or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # PyTorch does not look at the checksums that it writes
                raise ValueError("a checksum differs")
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises whatever zipfile, pickle and the storage readers do
        raise ValueError(f"{path.name} is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or "iteration" not in state or "engine" not in state:
        raise ValueError(f"{path.name} is no checkpoint of degrade")
    return state


def restore(
    folder: Path, device: torch.device, apply: Callable[[dict[str, Any]], None], *, complain: Callable[[str], None]
) -> Path | None:
    """Apply the newest checkpoint in `folder` that is whole and fits.

    Args:
        folder: where.
        device: for the tensors.
        apply: takes up a state; may be called again after it raised.
        complain: receives a line for each checkpoint that cannot be used.

    Returns:
        The checkpoint that was applied; None if there is none.
    """
    for path in candidates(folder):
        try:
            apply(load(path, device))
            return path
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            complain(f"{folder}: {path.name} cannot be used: {(str(error).splitlines() or [''])[0]}")
    return None


def remove(folder: Path) -> None:
    """Delete all checkpoints in `folder`."""
    for name in (NAME, PREVIOUS, f"{NAME}.tmp"):
        (folder / name).unlink(missing_ok=True)
