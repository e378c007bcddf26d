"""Checkpoints of a training: the last two, each written all at once, so that a killed run goes on from one of them."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from visiontool.errors import ConversionError, first_line
from visiontool.files import replacing

_KEPT = 2
_COPIES = 5  # of the weights at most: the network, averaged and best ones, and the two moments of Adam
_PATTERN = "step-*.pt"


def files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first."""
    return sorted(folder.glob(_PATTERN), reverse=True)


def check_room(folder: Path, weights_bytes: int) -> None:
    """Raises ConversionError where the disk has no room for the checkpoints and the model of a run."""
    needed, free = weights_bytes * (_COPIES * (_KEPT + 1) + 3), shutil.disk_usage(folder).free
    if needed > free:
        raise ConversionError(
            f"{folder}: training needs {needed / 1e9:,.2f} GB for its checkpoints; the disk has {free / 1e9:,.2f}.\n"
            "-o names a folder on another disk."
        )


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes the state after so many steps; after an OSError the ones before are still there."""
    buffer = io.BytesIO()  # torch's own writer has no OSError for a full disk
    torch.save(state, buffer)
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"step-{step:09d}.pt") as unfinished, open(unfinished, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    for old in files(folder)[_KEPT:]:
        old.unlink()


def load(folder: Path) -> dict[str, Any] | None:
    """The newest state that can be read; None where there is none at all."""
    fault = None
    for file in files(folder):
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch and pickle raise much
            fault = f"{file}: is broken ({first_line(error)})"
        else:
            return state
    if fault is not None:
        raise ConversionError(f"{fault}\nDelete {folder.parent.parent} and begin again.")
    return None
