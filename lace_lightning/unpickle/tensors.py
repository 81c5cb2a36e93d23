"""PyTorch's tensors and the storages that they are views of."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .containers import sequence
from .machine import Machine
from .values import Name, Names, Refused

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_TORCH_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}
_STORAGES = {
    Name("torch.storage", "UntypedStorage"): torch.uint8,
    Name("torch", "UntypedStorage"): torch.uint8,
    **{Name(module, f"{kind}Storage"): dtype for module in ("torch", "torch.cuda") for kind, dtype in _DTYPES.items()},
}


@dataclass(eq=False)
class Storage:
    """The numbers of tensors as bytes.

    Args:
        dtype: their number format.
        count: how many numbers there are, 0 or more.
        data: their bytes, `count` times the size of a number or more; None before they are read.

    Example:
        >>> Storage(torch.float32, 2, bytes(8)).count
        2
    """

    dtype: torch.dtype
    count: int
    data: Any = None


def identified_storage(identifier: Any) -> tuple[str, torch.dtype, int]:
    """Return key, number format and size of the storage that a persistent identifier names.

    Args:
        identifier: the tuple ('storage', type, key, location, count, ...) of torch.save.

    Returns:
        The key, the number format, and the number of values.

    Raises:
        Refused: for another identifier.

    Example:
        >>> identified_storage(("storage", Name("torch", "FloatStorage"), "0", "cpu", 6))
        ('0', torch.float32, 6)
    """
    if (
        not isinstance(identifier, tuple)
        or len(identifier) < 5
        or identifier[0] != "storage"
        or not isinstance(identifier[1], Name)
    ):
        raise Refused("it refers to data outside of itself")
    dtype, key, count = _STORAGES.get(identifier[1]), identifier[2], identifier[4]
    if dtype is None or not isinstance(key, (str, int)) or not isinstance(count, int) or not 0 <= count < 2**40:
        raise Refused("it has a storage of an unknown kind")
    return str(key), dtype, count


def _tensor(machine: Machine, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a view of the storage, after a check that it has no more elements and none outside."""
    if (
        not isinstance(storage, Storage)
        or not isinstance(size, tuple)
        or not isinstance(stride, tuple)
        or len(size) != len(stride)
    ):
        raise Refused("it has a tensor without numbers")
    numbers = (offset, *size, *stride)
    if len(size) > 16 or not all(isinstance(n, int) and 0 <= n < 2**40 for n in numbers):
        raise Refused("it has a tensor of an impossible shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if count > storage.count or (count and last >= storage.count) or offset > storage.count:
        raise Refused("it has a tensor that does not fit its storage")
    machine.budget.spend(count * storage.dtype.itemsize)
    if storage.data is None or not count:
        return torch.empty(size if not count else 0, dtype=storage.dtype)
    with warnings.catch_warnings():
        # The bytes belong to the file and are only read.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        flat = torch.frombuffer(storage.data, dtype=storage.dtype, count=storage.count)
    return flat.as_strided(size, stride, offset)


def _tensor_v3(
    machine: Machine, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    real = _TORCH_DTYPES.get(dtype.name) if isinstance(dtype, Name) else None
    if not isinstance(storage, Storage) or real is None:
        raise Refused("it has a tensor without numbers")
    typed = Storage(real, storage.count * storage.dtype.itemsize // real.itemsize, storage.data)
    return _tensor(machine, typed, offset, size, stride)


def _parameter(machine: Machine, data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("it has a parameter that is no tensor")
    return data


def _of_type(machine: Machine, function: Any, cls: Any, arguments: Any, state: Any = None) -> Any:
    return machine.call(function, arguments)


def _torch_size(machine: Machine, items: Any = ()) -> tuple[Any, ...]:
    return tuple(sequence(machine, items))


def _text(machine: Machine, *parts: Any) -> str:
    return ":".join(str(part) for part in parts if isinstance(part, (str, int)) and len(str(part)) < 100)


NAMES = Names(
    {
        Name("torch._utils", "_rebuild_tensor"): _tensor,
        Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
        Name("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
        Name("torch._utils", "_rebuild_parameter"): _parameter,
        Name("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        Name("torch._tensor", "_rebuild_from_type_v2"): _of_type,
        Name("torch", "Size"): _torch_size,
        Name("torch", "device"): _text,
    },
    frozenset(
        {
            Name("torch", "Tensor"),
            Name("torch.nn.parameter", "Parameter"),
            Name("torch.storage", "TypedStorage"),
            *_STORAGES,
            *(Name("torch", name) for name in _TORCH_DTYPES),
        }
    ),
)
