"""Number formats of networks: those that a device computes natively, and those of closed-form gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..errors import LaceError, suggest
from .recording import is_exporting

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_precision(precision: str) -> str:
    """Return the name of a number format after a check that it is known.

    Args:
        precision: "auto", "float32", "bfloat16" or "float16".

    Returns:
        The same name.

    Raises:
        LaceError: for another name.

    Example:
        >>> check_precision("auto")
        'auto'
    """
    names = ("auto", *PRECISIONS)
    if precision not in names:
        raise LaceError(
            f"precision must be one of {', '.join(names)}, received '{precision}'.{suggest(precision, names)}"
        )
    return precision


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the number format of a name on a device.

    Args:
        precision: "float32", "bfloat16", "float16", or "auto": bfloat16 where the device has it natively (AMX or
            AVX-512 BF16, Ampere or later), else float32, also in files for other devices (`exporting`).
        device: where networks compute.

    Returns:
        The number format.

    Example:
        >>> compute_dtype("float16", torch.device("cpu"))
        torch.float16
    """
    if precision != "auto":
        return PRECISIONS[precision]
    if is_exporting():
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = (
        device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.bfloat16 if native else torch.float32


_FIELD_DTYPE: ContextVar[torch.dtype] = ContextVar("field_dtype", default=torch.float32)


@contextmanager
def fields_in(dtype: torch.dtype) -> Iterator[None]:
    """Compute the hidden layers of closed-form gradients in another number format inside this context.

    Args:
        dtype: the number format; float32 outside of every context.

    Example:
        >>> with fields_in(torch.bfloat16):
        ...     lowered(torch.float32)
        torch.bfloat16
    """
    token = _FIELD_DTYPE.set(dtype)
    try:
        yield
    finally:
        _FIELD_DTYPE.reset(token)


def lowered(dtype: torch.dtype) -> torch.dtype:
    """Return the number format in which the hidden layers of a network are computed.

    Args:
        dtype: number format of the network's weights.

    Returns:
        The number format of the surrounding `fields_in` for float32, else the same.

    Example:
        >>> lowered(torch.float64)
        torch.float64
    """
    return _FIELD_DTYPE.get() if dtype == torch.float32 else dtype
