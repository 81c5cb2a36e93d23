"""State dicts: names and tensors out of whatever file they were saved in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import LaceError
from . import safe_unpickle
from .files import opened

# What a state dict is commonly kept under.
WRAPPERS = ("state_dict", "model", "net")


def read_data(path: str | os.PathLike[str]) -> Any:
    """Return the tensors of a .safetensors file, or what `safe_unpickle` makes of any other. Raises LaceError for
    damaged files.
    """
    if Path(path).suffix != ".safetensors":
        return safe_unpickle(path)
    from safetensors.torch import load_file

    with opened(path, "a safetensors file"):
        return load_file(str(path))


def state_of(data: Any) -> dict[str, Tensor]:
    """Return the tensors of a table by name, alone or under one of `WRAPPERS`, without the `module.` that all of them
    begin with.
    """
    for name in WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(name), Mapping):
            data = data[name]
    items = data.items() if isinstance(data, Mapping) else ()
    state = {str(name): value for name, value in items if isinstance(value, Tensor)}
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a file (see `read_data` and `state_of`); nothing in it is run. Raises LaceError where
    there is none.
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
    """Load the state dict in a file into a module (see `read_state`). Raises LaceError, which ends in `fix`, for
    another module's.
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
