"""Pictures as numbers: [-1, 1] in networks, bytes on disk and in front of judges."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """Turn pictures in [-1, 1] into uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def from_bytes(images: Tensor) -> Tensor:
    """Turn uint8 pictures into [-1, 1]; what is not uint8 is returned as it is."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images


def at_a_time(images: Tensor, count: int = 100) -> int:
    """Return how many pictures (N, C, H, W) a network looks at together: `count` of up to 64x64, of larger ones as many
    pixels.
    """
    return max(1, min(count, count * 64**2 // max(1, images.shape[-2] * images.shape[-1])))


def float_batches(images: Tensor) -> Iterator[Tensor]:
    """Yield uint8 pictures in [-1, 1], a few at a time: as numbers they take four times the memory."""
    yield from map(from_bytes, images.split(at_a_time(images)))


def downscale(images: Tensor, side: int = 256) -> Tensor:
    """Shrink uint8 pictures (N, C, H, W) to at most `side` pixels, by a whole number: each pixel is the mean of those
    it covers.
    """
    factor = -(-max(images.shape[-2:]) // side)
    if factor <= 1:
        return images
    small = images.new_empty(*images.shape[:2], *(side // factor for side in images.shape[2:]))
    # One by one, so that no more than one is held as numbers.
    for place, image in zip(small, images, strict=True):
        place.copy_(F.avg_pool2d(image.float(), factor).round())
    return small
