"""Networks that are programs: TorchScript files."""

from __future__ import annotations

import os

import torch

from ..unpickle.files import opened
from ..unpickle.values import Refused


def load_program(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> torch.jit.ScriptModule:
    """Return the network in a TorchScript file, which is a program and is run: give only one that you trust.

    Raises LaceError for a file that is missing or something else.
    """
    with opened(path, "a TorchScript file"):
        try:
            return torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise Refused(
                f"it could not be read ({last_line(error)})",
                "write it with torch.jit.save, since a state dict is no program",
            ) from error


def last_line(error: Exception) -> str:
    """Return the last line of what an error says, or its kind where it says nothing: a program's errors begin with its
    own source.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
