"""Conversion of pictures between [-1, 1], the range of networks, and uint8, the format of files."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LaceError


def to_bytes(images: Tensor) -> Tensor:
    """Return pictures in [-1, 1] as uint8, rounded to the nearest of 256 levels; other values are clamped.

    Args:
        images: pictures (..., H, W) in [-1, 1].

    Returns:
        Pictures of the same shape, uint8.

    Example:
        >>> to_bytes(torch.tensor([-1.0, 0.0, 1.0])).tolist()
        [0, 128, 255]
    """
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def from_bytes(images: Tensor) -> Tensor:
    """Return uint8 pictures in [-1, 1]; others are returned as they are.

    Args:
        images: pictures of any shape, uint8 or floating.

    Returns:
        Pictures of the same shape, float32 where they were uint8.

    Example:
        >>> from_bytes(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [-1.0, 1.0]
    """
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images


def with_channels(images: Tensor, channels: int | None, name: str) -> Tensor:
    """Return pictures with the channels that a network takes: grey is repeated.

    Args:
        images: pictures (N, C, H, W).
        channels: channels that the network takes; None for any.
        name: name of the network, for messages.

    Returns:
        Pictures (N, channels, H, W).

    Raises:
        LaceError: for another number of channels than 1 and `channels`.

    Example:
        >>> with_channels(torch.zeros(2, 1, 4, 4), 3, "labeler").shape
        torch.Size([2, 3, 4, 4])
    """
    if channels is None or images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    raise LaceError(
        f"The network '{name}' takes pictures of {channels} channel{'s' if channels > 1 else ''}, and received "
        f"{images.shape[1]}: choose a labeler and a judge for the channels of the generator."
    )


def at_a_time(images: Tensor, count: int = 100) -> int:
    """Return the number of pictures of a batch for which memory does not grow with the size of a picture.

    Args:
        images: pictures (N, C, H, W).
        count: number of pictures of up to 64x64 pixels, at least 1; a batch of larger pictures has as many pixels.

    Returns:
        A number from 1 to `count`.

    Example:
        >>> at_a_time(torch.zeros(1, 3, 32, 32)), at_a_time(torch.zeros(1, 3, 128, 128))
        (100, 25)
    """
    return max(1, min(count, count * 64**2 // max(1, images.shape[-2] * images.shape[-1])))


def float_batches(images: Tensor) -> Iterator[Tensor]:
    """Yield uint8 pictures as float32 in [-1, 1], in batches, because float32 takes four times the memory.

    Args:
        images: pictures (N, C, H, W) uint8.

    Returns:
        An iterator over pictures (B, C, H, W) float32; B is `at_a_time(images)`, or less in the last.

    Example:
        >>> [len(part) for part in float_batches(torch.zeros(150, 3, 8, 8, dtype=torch.uint8))]
        [100, 50]
    """
    yield from map(from_bytes, torch.split(images, at_a_time(images)))


def downscale(images: Tensor, side: int = 256) -> Tensor:
    """Return uint8 pictures shrunk by a whole number to at most a side; a pixel is the mean of those it covers.

    Args:
        images: pictures (N, C, H, W) uint8.
        side: largest side of the result in pixels, at least 1.

    Returns:
        Pictures (N, C, H', W') uint8; the same object where they are small enough.

    Example:
        >>> downscale(torch.zeros(1, 3, 600, 600, dtype=torch.uint8)).shape[-1]
        200
    """
    factor = -(-max(images.shape[-2:]) // side)
    if factor <= 1:
        return images
    small = images.new_empty(*images.shape[:2], *(side // factor for side in images.shape[2:]))
    # One picture at a time, so that only one is in float32.
    for place, image in zip(small, images, strict=True):
        place.copy_(F.avg_pool2d(image.float(), factor).round())
    return small
