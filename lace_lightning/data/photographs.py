"""Photographs of any kind and size, cut and resized to the pictures of a generator."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import LaceError, in_one_line
from .folder import SUFFIXES, in_rgb

# Endings of the files of a folder that are read; a file that is named itself may have any.
ENDINGS = (*SUFFIXES, ".bmp", ".gif", ".tif", ".tiff")
# Pixels that are decoded at most: 300 MB in RGB.
MAX_PIXELS = 100_000_000
# A JPEG is decoded at no less than so many times the side that is needed.
OVERSAMPLING = 2


@dataclass(frozen=True)
class Photograph:
    """A photograph of the size of a generator's pictures.

    Args:
        image: the picture (C, H, W) uint8.
        cut: how it was cut and resized, in words.

    Example:
        >>> Photograph(torch.zeros(3, 8, 8, dtype=torch.uint8), "8x8 as it is").cut
        '8x8 as it is'
    """

    image: Tensor
    cut: str


def photograph_files(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the photographs in files and folders by name.

    The name of a file is its own without the ending; that of a file of a folder is its path in it. Hidden files are
    left out.

    Args:
        paths: files and folders, in their order; the files of a folder are sorted by name.

    Raises:
        LaceError: when a path does not exist, a folder has no picture, or two pictures have one name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 4)).save(f"{folder}/me.png")
        ...     list(photograph_files([folder]))
        ['me']
    """
    found: list[tuple[Path, Path]] = []
    for given in paths:
        root = Path(given).expanduser()
        if root.is_file():
            found.append((root, Path(root.name)))
            continue
        inside = sorted(
            (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()),
            key=lambda path: path.as_posix(),
        )
        inside = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
        if not inside:
            reason = f"holds no picture ({', '.join(ENDINGS)})" if root.is_dir() else "does not exist"
            raise LaceError(f"Photographs must be pictures or folders of them, and '{root}' {reason}: check the path.")
        found += [(root / path, path) for path in inside]
    stems = [path.with_suffix("").as_posix() for _, path in found]
    counts = Counter(stems)
    names = [stem if counts[stem] == 1 else path.as_posix() for stem, (_, path) in zip(stems, found, strict=True)]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise LaceError(f"Photographs must have different names, and two are called '{twice}': rename one of them.")
    return dict(zip(names, (path for path, _ in found), strict=True))


def read_photograph(
    path: str | os.PathLike[str], shape: Sequence[int], crop: Sequence[int] | None = None
) -> Photograph:
    """Return a photograph, cut and resized to a shape.

    The orientation of the camera (EXIF) is applied. CMYK, palettes, grey, 16 bits and transparency become 8 bits in
    RGB, as `read_picture` does it; of an animation the first frame is taken. A JPEG of any size is decoded at the size
    that is needed.

    Args:
        path: the file.
        shape: (C, H, W) of the result, with C = 1 (grey) or 3.
        crop: left, top, width and height in pixels of the part to use, such as a face; None for the whole picture.
            The largest part in its middle with the proportions of the shape is taken.

    Raises:
        LaceError: for a file that is no picture or damaged, that would take too much memory, a part that is not inside
            of the picture, and another number of channels.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/a.png")
        ...     photograph = read_photograph(f"{folder}/a.png", (3, 8, 8))
        >>> photograph.image[:, 0, 0].tolist(), photograph.cut
        ([255, 0, 0], '40x20, the 20x20 in the middle, to 8x8')
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise LaceError(f"Photographs have 1 or 3 channels, and the pictures of the generator have {channels}.")
    try:
        with _of_any_size(), Image.open(path) as opened:
            frames, size = getattr(opened, "n_frames", 1), opened.size
            _draft(opened, crop, (width, height))
            _check_size(path, opened, size)
            image = ImageOps.exif_transpose(opened)
            # exif_transpose turns sides; a draft shrinks both.
            turned = (image.width > image.height) != (opened.width > opened.height)
            whole = (size[1], size[0]) if turned else size
            scale = image.width / whole[0]
            left, top, right, bottom = _part(path, whole, crop, (width, height))
            x, y, x_end, y_end = (round(edge * scale) for edge in (left, top, right, bottom))
            box = (x, y, max(x_end, x + 1), max(y_end, y + 1))
            part = in_rgb(image.crop(box)).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
            array = np.array(part.convert("L") if channels == 1 else part)
    except LaceError:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError, ZeroDivisionError, EOFError) as error:
        raise LaceError(
            f"The photograph '{path}' must be a picture and could not be read ({in_one_line(error)}): get it again, or "
            "take it away."
        ) from error
    words = [f"{whole[0]}x{whole[1]}"]
    if (left, top, right, bottom) != (0, 0, *whole):
        where = f"at {left},{top}" if crop is not None else "in the middle"
        words.append(f"the {right - left}x{bottom - top} {where}")
    if frames > 1:
        words.append(f"the first of {frames} frames")
    words.append(f"{'enlarged ' if right - left < width else ''}to {width}x{height}")
    return Photograph(
        torch.from_numpy(array.reshape(height, width, channels)).permute(2, 0, 1).clone(), ", ".join(words)
    )


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Let Pillow open pictures of any size: what is decoded is limited by `MAX_PIXELS`."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None
        with warnings.catch_warnings():
            # Damaged EXIF data, and palettes with transparency.
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _draft(image: Image.Image, crop: Sequence[int] | None, target: tuple[int, int]) -> None:
    """Let a JPEG be decoded at a half, quarter or eighth, where the part that is used stays large enough."""
    part = min(image.size) if crop is None else max(1, min(crop[2:]))
    shrink = part / (OVERSAMPLING * max(target))
    if shrink > 1:
        image.draft(None, (max(1, int(image.width / shrink)), max(1, int(image.height / shrink))))


def _check_size(path: str | os.PathLike[str], image: Image.Image, whole: tuple[int, int]) -> None:
    # A progressive JPEG is held as a whole while it is decoded.
    width, height = whole if image.info.get("progressive") or image.info.get("progression") else image.size
    if width * height > MAX_PIXELS:
        raise LaceError(
            f"The photograph '{path}' must have at most {MAX_PIXELS // 10**6} million pixels (a JPEG that is not "
            f"progressive any number) and has {whole[0]}x{whole[1]}: shrink it first."
        )


def _part(
    path: str | os.PathLike[str], whole: tuple[int, int], crop: Sequence[int] | None, target: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part that is used, in pixels of the whole picture."""
    left, top, width, height = (0, 0, *whole) if crop is None else crop
    if not (
        left >= 0 and top >= 0 and width > 0 and height > 0 and left + width <= whole[0] and top + height <= whole[1]
    ):
        raise LaceError(
            f"The part of '{path}' must lie inside of its {whole[0]}x{whole[1]} pixels, received "
            f"{left},{top},{width},{height} (left, top, width, height): correct it."
        )
    # Largest part of the target's proportions.
    used_width = min(width, max(1, height * target[0] // target[1]))
    used_height = min(height, max(1, width * target[1] // target[0]))
    left, top = left + (width - used_width) // 2, top + (height - used_height) // 2
    return left, top, left + used_width, top + used_height
