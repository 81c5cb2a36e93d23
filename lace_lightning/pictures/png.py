"""PNG files of many small pictures: a writer that takes half of the time of Pillow's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LaceError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Type of colour by number of channels: grey, grey and alpha, RGB, RGB and alpha.
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
# Every pixel is stored as its difference to the pixel on the left.
SUB = 1


def png_files(pictures: NDArray[Any]) -> Iterator[bytes]:
    """Yield the content of a PNG file for each picture, compressed fast.

    Args:
        pictures: pictures (N, H, W, C) uint8 with 1 to 4 channels.

    Returns:
        An iterator over N contents.

    Raises:
        LaceError: for another number of channels.

    References:
        PNG specification, third edition (W3C, 2023), sections 5, 9 and 11.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> (content,) = png_files(np.full((1, 2, 3, 3), 7, np.uint8))
        >>> Image.open(io.BytesIO(content)).getpixel((2, 1))
        (7, 7, 7)
    """
    count, height, width, channels = pictures.shape
    check_channels(channels)
    rows = pictures.reshape(count, height, width * channels)
    filtered = np.empty((count, height, 1 + width * channels), np.uint8)
    filtered[:, :, 0], filtered[:, :, 1:] = SUB, rows
    filtered[:, :, 1 + channels :] -= rows[:, :, :-channels]
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0))
    for picture in filtered:
        # Runs alone, a strategy that is meant for PNG, are found faster than all matches.
        packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
        data = packer.compress(picture.data) + packer.flush()
        yield SIGNATURE + head + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def check_channels(channels: int) -> None:
    """Refuse a number of channels that a PNG picture cannot have.

    Args:
        channels: the number.

    Raises:
        LaceError: for another number than 1 to 4.
    """
    if channels not in COLOURS:
        raise LaceError(f"A PNG picture has 1 to 4 channels, received {channels}: choose the channels to show.")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
