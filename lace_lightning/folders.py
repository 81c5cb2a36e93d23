"""Folders of runs: each belongs to one run."""

from __future__ import annotations

import os
from itertools import count

# What was asked for in this process, and the folder that it got: a configuration is resolved more than once.
_TAKEN: dict[str, str] = {}


def new_folder(path: str) -> str:
    """Create a folder that no other run has, and return its path: the given one, or with -2, -3, ... behind it.

    Args:
        path: the folder that is wanted.

    Returns:
        The path of the new folder; the same one for the same path until `forget_folders` is called.

    Raises:
        OSError: when it cannot be created.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     first = new_folder(f"{root}/run")
        ...     forget_folders()
        ...     os.path.basename(first), os.path.basename(new_folder(f"{root}/run"))
        ('run', 'run-2')
    """
    if path not in _TAKEN:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        for number in count(1):
            candidate = path if number == 1 else f"{path}-{number}"
            try:
                os.mkdir(candidate)
            except FileExistsError:
                continue
            _TAKEN[path] = candidate
            break
    return _TAKEN[path]


def forget_folders() -> None:
    """Let the next run of this process have folders of its own."""
    _TAKEN.clear()
