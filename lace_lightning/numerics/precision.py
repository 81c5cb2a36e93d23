"""The number format that a device computes fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..errors import LaceError, suggest

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_precision(precision: str) -> str:
    """Return `precision` (auto, float32, bfloat16, float16). Raises LaceError for any other."""
    names = ("auto", *PRECISIONS)
    if precision not in names:
        raise LaceError(
            f"precision must be one of {', '.join(names)}, received '{precision}'.{suggest(precision, names)}"
        )
    return precision


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype; "auto" is bfloat16 where it is native (AMX or AVX-512 BF16, Ampere or later), else float32."""
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = (
        device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.bfloat16 if native else torch.float32


_FIELD_DTYPE: ContextVar[torch.dtype] = ContextVar("field_dtype", default=torch.float32)


@contextmanager
def fields_in(dtype: torch.dtype) -> Iterator[None]:
    """Compute the hidden layers of closed-form gradients in `dtype` inside this context."""
    token = _FIELD_DTYPE.set(dtype)
    try:
        yield
    finally:
        _FIELD_DTYPE.reset(token)


def lowered(dtype: torch.dtype) -> torch.dtype:
    """Return in what the hidden layers of networks of `dtype` are computed: only float32 is lowered."""
    return _FIELD_DTYPE.get() if dtype == torch.float32 else dtype
