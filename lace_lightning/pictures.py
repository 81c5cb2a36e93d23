"""Pictures as numbers: [-1, 1] in networks, bytes on disk and in front of judges."""

from __future__ import annotations

import torch
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """Turn pictures in [-1, 1] into uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def from_bytes(images: Tensor) -> Tensor:
    """Turn uint8 pictures into [-1, 1]; what is not uint8 is returned as it is."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
