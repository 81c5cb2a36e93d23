"""NumPy's arrays and numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .machine import Machine
from .values import Name, Names, Refused


@dataclass(eq=False)
class Dtype:
    """The number format of an array, as NumPy writes it.

    Args:
        text: byte order, kind and size in bytes, for example "<f4"; kinds are numbers, text and "O" for containers.

    Example:
        >>> np.dtype(Dtype("<f4").text)
        dtype('float32')
    """

    text: str


def _dtype(machine: Machine, text: Any, *_: Any) -> Dtype:
    text = text.decode("ascii") if isinstance(text, bytes) else text
    if not isinstance(text, str) or re.fullmatch(r"[<>|=]?([biufcO]\d{1,2}|[SU]\d{1,6}|bool|\?)", text) is None:
        raise Refused("it has an array of a kind that is neither numbers nor text")
    return Dtype(text)


def _set_order(machine: Machine, target: Dtype, state: Any) -> None:
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    if order not in ("<", ">", "|", "=") or (isinstance(state, tuple) and any(part is not None for part in state[2:5])):
        raise Refused("it has an array of a kind that is neither numbers nor text")
    target.text = order + target.text.lstrip("<>|=")


def _real_dtype(dtype: Any) -> np.dtype:
    if isinstance(dtype, str):
        dtype = _dtype(None, dtype)  # type: ignore[arg-type]
    if not isinstance(dtype, Dtype):
        raise Refused("it has an array without a number format")
    return np.dtype(dtype.text)


def _size(shape: Any) -> int:
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(isinstance(n, int) and 0 <= n < 2**40 for n in shape):
        raise Refused("it has an array of an impossible shape")
    return math.prod(shape)


def _new_array(machine: Machine, *_: Any) -> np.ndarray:
    return np.empty(0, np.int8)


def _fill_array(machine: Machine, target: np.ndarray, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) != 5:
        raise Refused("it has an array whose state has another form than NumPy's")
    _, shape, dtype, fortran, raw = state
    real, count = _real_dtype(dtype), _size(shape)
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if real.hasobject:
        # The objects of the array were built by this reader: they are data too.
        if not isinstance(raw, list) or len(raw) != count:
            raise Refused("it has an array that does not fit its shape")
    elif not isinstance(raw, bytes) or len(raw) != count * real.itemsize:
        raise Refused("it has an array that does not fit its shape")
    machine.budget.spend(count * real.itemsize)
    target.__setstate__((1, shape, real, bool(fortran), raw))  # type: ignore[arg-type]


def _scalar(machine: Machine, dtype: Any, raw: Any) -> Any:
    real = _real_dtype(dtype)
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if real.hasobject or not isinstance(raw, bytes) or len(raw) != real.itemsize:
        raise Refused("it has a number that does not fit its number format")
    return np.frombuffer(raw, real)[0].item()


def _array_of_buffer(machine: Machine, raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    real = _real_dtype(dtype)
    if (
        real.hasobject
        or not isinstance(raw, bytes)
        or len(raw) != _size(shape) * real.itemsize
        or order not in ("C", "F")
    ):
        raise Refused("it has an array that does not fit its shape")
    return np.frombuffer(raw, real).reshape(shape, order=order)


NAMES = Names(
    {
        Name("numpy", "dtype"): _dtype,
        Name("numpy.core.multiarray", "_reconstruct"): _new_array,
        Name("numpy.core.multiarray", "scalar"): _scalar,
        Name("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
    },
    frozenset({Name("numpy", "ndarray")}),
    {np.ndarray: _fill_array, Dtype: _set_order},
)
