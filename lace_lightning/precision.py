"""The number format that a device computes fast."""

from __future__ import annotations

import torch

from .errors import LaceError, suggest

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_precision(precision: str) -> str:
    """Return `precision` (auto, float32, bfloat16, float16). Raises LaceError for any other."""
    names = ("auto", *PRECISIONS)
    if precision not in names:
        raise LaceError(f"precision must be one of {', '.join(names)}, received '{precision}'.{suggest(precision, names)}")
    return precision


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype; "auto" is bfloat16 where it is native (AMX or AVX-512 BF16, Ampere or later), else float32."""
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32
