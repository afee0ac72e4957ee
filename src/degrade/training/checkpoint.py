"""Checkpoints that a crash at any moment leaves whole: written beside, flushed to disk, renamed; one older kept."""

import os
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
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises whatever zipfile, pickle and the storage readers do
        raise ValueError(f"{path.name} is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or "iteration" not in state or "engine" not in state:
        raise ValueError(f"{path.name} is no checkpoint of degrade")
    return state


def remove(folder: Path) -> None:
    """Delete all checkpoints in `folder`."""
    for name in (NAME, PREVIOUS, f"{NAME}.tmp"):
        (folder / name).unlink(missing_ok=True)
