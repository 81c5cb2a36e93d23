"""Whether a graph of operations is being recorded, by torch.compile, torch.export or an export of this program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_EXPORTING: ContextVar[bool] = ContextVar("exporting", default=False)


@contextmanager
def exporting() -> Iterator[None]:
    """Mark the code inside as recorded for other programs and devices.

    Example:
        >>> with exporting():
        ...     is_exporting(), is_recording()
        (True, True)
    """
    token = _EXPORTING.set(True)
    try:
        yield
    finally:
        _EXPORTING.reset(token)


def is_exporting() -> bool:
    """Return whether the code runs inside of `exporting`.

    Example:
        >>> is_exporting()
        False
    """
    return _EXPORTING.get()


def is_recording() -> bool:
    """Return whether operations are recorded: tensors may have no memory, and numbers of rows no value.

    Example:
        >>> is_recording()
        False
    """
    return torch.compiler.is_compiling() or is_exporting()
