"""Pickles and PyTorch checkpoints as data.

`pickle` runs any function that a file names. This reader looks every name up in a table of allowed names, which build
numbers, texts, containers, arrays, tensors and inert records; any other name ends the reading. Sizes are checked before
memory is allocated, so that memory is bounded by the size of the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..errors import LaceError
from ..progress import byte_bar
from .files import opened, read
from .values import MAX_OPCODES, Budget, Record

# Modules of one network, and characters of a name that a network here can have.
MAX_MODULES, MAX_NAME = 20_000, 1000

__all__ = ["Record", "plain_pickle", "safe_unpickle", "tensors_of"]


def safe_unpickle(path: str | os.PathLike[str]) -> Any:
    """Return the content of a pickle or a PyTorch checkpoint as data, without running any code of the file.

    Memory is bounded by a few times the size of the file.

    Args:
        path: the file.

    Returns:
        Containers, texts, numbers, NumPy arrays, tensors on the CPU (read-only views of the file's bytes), and `Record`
        for NVIDIA's networks, TensorFlow networks and argparse namespaces.

    Raises:
        LaceError: for a file that does not exist, is damaged or of another kind, or needs any other class or function.

    Example:
        >>> import pickle, tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.pkl")
        ...     _ = path.write_bytes(pickle.dumps({"epoch": 3}))
        ...     safe_unpickle(path)
        {'epoch': 3}
    """
    with (
        opened(path, "a pickle or a PyTorch checkpoint with data alone") as (file, size),
        byte_bar(f"reading {os.path.basename(path)}", size) as bar,
    ):
        return read(file, size, Budget(MAX_OPCODES, 4 * size + 2**24), bar.update)


def plain_pickle(content: bytes) -> Any:
    """Return the content of a pickle that is a part of another file, as `safe_unpickle` returns that of a file.

    Args:
        content: the bytes of the pickle.

    Raises:
        LaceError: for content that is damaged, or needs any other class or function than those of data.

    Example:
        >>> import pickle
        >>> plain_pickle(pickle.dumps({"epoch": 3}))
        {'epoch': 3}
    """
    try:
        return read(io.BytesIO(content), len(content), Budget(MAX_OPCODES, 4 * len(content) + 2**24), lambda _: None)
    except Exception as error:
        # A damaged pickle may raise any exception.
        raise LaceError(str(error)) from None


def tensors_of(record: Record) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the tensor of every parameter and buffer of one of NVIDIA's networks.

    Args:
        record: the network, as `safe_unpickle` returns it.

    Returns:
        An iterator over pairs of the name in the network's state dict and the tensor.

    Raises:
        LaceError: when the network contains itself, has more than `MAX_MODULES` modules, or its tables of parameters
            are no tables.

    Example:
        >>> import torch
        >>> [name for name, _ in tensors_of(Record("Layer", (), {"_parameters": {"weight": torch.ones(2)}}))]
        ['weight']
    """
    yield from _tensors_of(record, "", 0, [MAX_MODULES])


def _tensors_of(record: Record, prefix: str, depth: int, left: list[int]) -> Iterator[tuple[str, Tensor]]:
    state = record.attributes
    left[0] -= 1
    if depth > 16:
        raise LaceError("The network in the file contains itself: get the file again.")
    if left[0] < 0:
        raise LaceError(
            f"The network in the file must have at most {MAX_MODULES} modules and has more: get the file again."
        )
    for kind in ("_parameters", "_buffers"):
        for name, value in _table(state, kind).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{str(name)[:MAX_NAME]}", value
    for name, module in _table(state, "_modules").items():
        if isinstance(module, Record):
            yield from _tensors_of(module, f"{prefix}{str(name)[:MAX_NAME]}.", depth + 1, left)


def _table(state: dict[Any, Any], kind: str) -> dict[Any, Any]:
    """Return one of a module's tables, empty where there is none. Raises LaceError for another type."""
    table = state.get(kind) or {}
    if not isinstance(table, dict):
        raise LaceError(
            f"The {kind} of a network in the file must be a table, received {type(table).__name__}: get the file again."
        )
    return table
