"""Checkpoints that a crash at any moment leaves whole.

Each is written beside the last one, flushed to disk and renamed, and the last one is kept. A checkpoint that the
system cannot read just now is never taken for damaged: that raises RunFileError. Snapshots are the weights alone of
some iterations, for looking back; training never reads them.
"""

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from degrade.files import present, read_bytes, replacing

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.prev.pt"
SNAPSHOTS = "snapshots"

#: Errors for which no checkpoint is to blame: there is too little memory, or the device is in trouble.
NO_DAMAGE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as the newest checkpoint in `folder`; the one before stays as a fallback."""
    with replacing(folder / NAME, keep=folder / PREVIOUS) as fresh, fresh.open("wb") as file:
        torch.save(state, file)


def save_snapshot(folder: Path, iteration: int, model: nn.Module) -> None:
    """Write a network's weights and running statistics after an iteration; an earlier snapshot of it is replaced."""
    (folder / SNAPSHOTS).mkdir(exist_ok=True)
    state = {"iteration": iteration, "engine": {"model": model.state_dict()}}
    with replacing(folder / SNAPSHOTS / f"{iteration}.pt") as fresh, fresh.open("wb") as file:
        torch.save(state, file)


def snapshots(folder: Path) -> dict[int, Path]:
    """Snapshots in `folder` by iteration, the earliest first."""
    found = {int(path.stem): path for path in (folder / SNAPSHOTS).glob("*.pt") if path.stem.isdecimal()}
    return dict(sorted(found.items()))


def candidates(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first."""
    return [folder / name for name in (NAME, PREVIOUS) if present(folder / name)]


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read one checkpoint; nothing in it is executed.

    Raises:
        ValueError: the file is missing, damaged, or not a checkpoint.
        RunFileError: the file cannot be read just now.
    """
    data = read_bytes(path)  # all of it, so that no error below can be the disk's
    if data is None:
        raise ValueError(f"{path.name} is not there")
    content = io.BytesIO(data)
    try:
        with zipfile.ZipFile(content) as archive:
            if archive.testzip() is not None:  # PyTorch does not look at the checksums that it writes
                raise ValueError("a checksum differs")
        content.seek(0)
        place = "cpu" if device.type == "mps" else device  # a sum may be float64, which Apple's GPUs lack
        state = torch.load(content, map_location=place, weights_only=True)
    except NO_DAMAGE:
        raise
    except Exception as error:  # torch.load raises whatever zipfile, pickle and the storage readers do
        raise ValueError(f"{path.name} is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or "iteration" not in state or "engine" not in state:
        raise ValueError(f"{path.name} is no checkpoint of degrade")
    return state


def restore(
    folder: Path, device: torch.device, apply: Callable[[dict[str, Any]], None], *, complain: Callable[[str], None]
) -> Path | None:
    """Apply the newest checkpoint in `folder` that is whole and fits; no file is changed.

    Args:
        folder: where the checkpoints are.
        device: where the tensors are to be.
        apply: takes up a state; it may be called again after it raised.
        complain: receives one line for each checkpoint that cannot be used.

    Returns:
        The checkpoint that was applied; None if there is none.

    Raises:
        RunFileError: a checkpoint cannot be read just now.
    """
    for path in candidates(folder):
        try:
            apply(load(path, device))
            return path
        except NO_DAMAGE:
            raise
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            complain(f"{folder}: {path.name} cannot be used: {(str(error).splitlines() or [''])[0]}")
    return None


def remove(folder: Path) -> None:
    """Delete all checkpoints and snapshots in `folder`."""
    for name in (NAME, PREVIOUS, f"{NAME}.tmp"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / SNAPSHOTS, ignore_errors=True)
