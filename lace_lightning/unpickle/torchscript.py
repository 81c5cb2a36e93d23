"""Reading of TorchScript files, which are programs."""

from __future__ import annotations

import os

import torch

from .files import opened
from .values import Refused


def load_program(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> torch.jit.ScriptModule:
    """Return the network of a TorchScript file in evaluation mode.

    A TorchScript file is a program, and it is run: give only one that you trust.

    Args:
        path: the file.
        device: device of the network.

    Raises:
        LaceError: when the file is missing or no TorchScript.
    """
    with opened(path, "a TorchScript file"):
        try:
            result: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device).eval()
            return result
        except (RuntimeError, ValueError, OSError) as error:
            raise Refused(
                f"it could not be read ({last_line(error)})",
                "write it with torch.jit.save, since a state dict is no program",
            ) from error


def last_line(error: Exception) -> str:
    """Return the last line of the message of an error, at most 200 characters, or its class where it has no message.

    The message of an error of a TorchScript program begins with the source of the program.

    Args:
        error: the error.

    Example:
        >>> last_line(ValueError(f"return x + y{chr(10)}  shapes differ")), last_line(ValueError())
        ('shapes differ', 'ValueError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
