"""Checkpoints of trainings, with checksums; the one before is kept until the next is whole."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ..cache import is_whole, remove_sealed, sealed_path, sum_file

# The two files that take turns, so that the newest whole checkpoint is never written over.
SLOTS = ("last.ckpt", "last-2.ckpt")
# File of the steps and seconds of a training that goes on.
STEPS = "steps.json"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a folder; damaged ones are set aside with a warning.

    Args:
        folder: folder of a training.

    Returns:
        The path, None where there is no whole checkpoint.
    """
    whole = []
    for path in (folder / name for name in SLOTS):
        if is_whole(path):
            whole.append(path)
        elif path.is_file():
            aside = path.with_name(f"{path.name}.damaged")
            os.replace(path, aside)
            sum_file(path).unlink(missing_ok=True)
            warnings.warn(f"The checkpoint '{path}' is not whole and is set aside as '{aside.name}'.", stacklevel=2)
    return max(whole, key=lambda path: path.stat().st_mtime_ns, default=None)


def remove_checkpoints(folder: Path) -> None:
    """Remove what a training that has ended needs no more: checkpoints, also those set aside, and its steps.

    Args:
        folder: folder of a training; its subfolders are of later parts of it.
    """
    for name in SLOTS:
        for path in folder.rglob(name):
            remove_sealed(path)
        for path in folder.rglob(f"{name}.damaged"):
            path.unlink()
    for path in folder.rglob(STEPS):
        path.unlink()


class SealedCheckpoints(TorchCheckpointIO):
    """Write checkpoints of Lightning so that a killed process or a full disk never costs the one before.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step in (1, 2, 3):
        ...         SealedCheckpoints().save_checkpoint({"step": step}, Path(folder, "last.ckpt"))
        ...     newest = newest_checkpoint(Path(folder))
        ...     newest.name, SealedCheckpoints().load_checkpoint(newest, weights_only=True)["step"]
        ('last.ckpt', 3)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; `last.ckpt` goes to the one of two files that is not the newest.

        Args:
            checkpoint: the state.
            path: the file.
            storage_options: not used.

        Raises:
            LaceError: when it cannot be written.
        """
        target = Path(path)
        if target.name in SLOTS:
            newest = newest_checkpoint(target.parent)
            target = next(target.with_name(name) for name in SLOTS if newest is None or name != newest.name)
            remove_sealed(target)
        with sealed_path(target) as temporary, open(temporary, "wb") as stream:
            torch.save(checkpoint, stream)
