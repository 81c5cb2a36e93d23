"""State dicts: tensors by name, read from safetensors files, pickles and PyTorch checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import LaceError
from . import safe_unpickle
from .files import opened

# Keys of a checkpoint under which programs commonly save a state dict.
WRAPPERS = ("state_dict", "model", "net")


def read_data(path: str | os.PathLike[str]) -> Any:
    """Return the content of a safetensors file, a pickle or a PyTorch checkpoint, as data.

    Args:
        path: the file; its ending .safetensors decides the format.

    Returns:
        Tensors by name of a safetensors file, else the value of `safe_unpickle`.

    Raises:
        LaceError: for a file that is missing, damaged, or needs classes that are not data.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"epoch": 3}, f"{folder}/a.pt")
        ...     read_data(f"{folder}/a.pt")
        {'epoch': 3}
    """
    if Path(path).suffix != ".safetensors":
        return safe_unpickle(path)
    from safetensors.torch import load_file

    with opened(path, "a safetensors file"):
        return load_file(str(path))


def state_of(data: Any) -> dict[str, Tensor]:
    """Return the state dict in the content of a file.

    Args:
        data: a state dict, or a table that has one under a key of `WRAPPERS`; any other value has no tensors.

    Returns:
        Tensors by name. The prefix `module.` is removed where every name begins with it.

    Example:
        >>> import torch
        >>> state_of({"epoch": 3, "model": {"module.bias": torch.zeros(1)}})
        {'bias': tensor([0.])}
    """
    for name in WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(name), Mapping):
            data = data[name]
    items = data.items() if isinstance(data, Mapping) else ()
    state = {str(name): value for name, value in items if isinstance(value, Tensor)}
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a file, without running any code of the file.

    Args:
        path: a safetensors file, a pickle or a PyTorch checkpoint.

    Returns:
        Tensors by name, as `state_of` returns them.

    Raises:
        LaceError: for a file that is missing or damaged, and for one without tensors.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"bias": torch.zeros(1)}, f"{folder}/a.pt")
        ...     read_state(f"{folder}/a.pt")
        {'bias': tensor([0.])}
    """
    data = read_data(path)
    state = state_of(data)
    if not state:
        held = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else f"a {type(data).__name__}"
        raise LaceError(
            f"The file '{path}' must hold a state dict, alone or under {', '.join(WRAPPERS)}, and holds "
            f"{held or 'nothing'}: "
            "save module.state_dict()."
        )
    return state


def load_state(
    module: nn.Module, path: str | os.PathLike[str], strict: bool = True, fix: str = "save module.state_dict() again"
) -> None:
    """Load the state dict in a file into a module.

    Args:
        module: the module.
        path: a safetensors file, a pickle or a PyTorch checkpoint.
        strict: require that the names of the file and of the module are the same.
        fix: advice at the end of the message of an error.

    Raises:
        LaceError: for a file that is missing or damaged, and for the state dict of another module.

    Example:
        >>> import tempfile, torch
        >>> source, target = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(source.state_dict(), f"{folder}/a.pt")
        ...     load_state(target, f"{folder}/a.pt")
        >>> torch.equal(source.weight, target.weight)
        True
    """
    state = read_state(path)
    if all(name.startswith("module.") for name in module.state_dict()):
        state = {f"module.{name}": value for name, value in state.items()}  # here the prefix is the module's own
    try:
        module.load_state_dict(state, strict=strict)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LaceError(
            f"The weights '{path}' must be those of a {type(module).__name__} and are not ({reason[:160]}): {fix}."
        ) from None
