"""Folders of runs: each belongs to one run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

# What was asked for in this process, and the folder that it got: a configuration is resolved more than once.
_TAKEN: dict[str, str] = {}
# Folders, and those that they are in, that did not exist before they were taken.
_NEW: set[Path] = set()
# Files that a run writes before its work.
LOG, INPUTS, LOCKS = "cli.log", ("config.yaml", "command.txt"), (".lock", ".owner")


def note_missing(path: str) -> None:
    """Remember which of a folder and the folders that it is in do not exist yet; `discard_unused` may remove those.

    Args:
        path: the folder.
    """
    folder = Path(path).absolute()
    _NEW.update(part for part in (folder, *folder.parents) if not part.exists())


def discard_unused(path: str | os.PathLike[str], traces: Iterable[str]) -> None:
    """Remove the folder of a run that has done no work, with those folders around it that were new and are empty.

    Args:
        path: the folder.
        traces: names of the files that such a run leaves. A folder with any other file stays as it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     folder = Path(root, "drawn", "ships")
        ...     note_missing(str(folder))
        ...     folder.mkdir(parents=True)
        ...     _ = (folder / LOG).write_text("")
        ...     discard_unused(folder, [LOG])
        ...     os.listdir(root)
        []
    """
    folder = Path(path).absolute()
    with suppress(OSError):
        names = os.listdir(folder)
        if not set(names) <= set(traces):
            return
        for name in names:
            (folder / name).unlink()
        for part in (folder, *folder.parents):
            if part not in _NEW:
                return
            part.rmdir()


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
        note_missing(path)
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        for number in count(1):
            candidate = path if number == 1 else f"{path}-{number}"
            try:
                os.mkdir(candidate)
            except FileExistsError:
                continue
            _TAKEN[path] = candidate
            _NEW.add(Path(candidate).absolute())
            break
    return _TAKEN[path]


def forget_folders() -> None:
    """Let the next run of this process have folders of its own."""
    _TAKEN.clear()
    _NEW.clear()
