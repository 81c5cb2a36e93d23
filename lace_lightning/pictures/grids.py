"""Labelled grids of pictures."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import LaceError
from .convert import downscale

GAP, MARGIN = 2, 8
# Height of a line below a picture.
CAPTION = 15


def to_picture(image: Tensor) -> Image.Image:
    """Return a picture of Pillow.

    Args:
        image: a picture (C, H, W) uint8 with C = 1 (grey) or 3; with 2 or 4 the last channel is the opacity.

    Example:
        >>> import torch
        >>> to_picture(torch.zeros(1, 4, 6, dtype=torch.uint8)).size
        (6, 4)
    """
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Return a picture (C, H, W) uint8 of a file that this program wrote.

    Args:
        path: a PNG of 1 to 4 channels, with 8 bits.

    Raises:
        LaceError: when it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 4)).save(f"{folder}/a.png")
        ...     read_image(f"{folder}/a.png").shape
        torch.Size([3, 4, 6])
    """
    try:
        with Image.open(path) as image:
            array = np.array(image)
    except OSError as error:
        raise LaceError(f"The picture '{path}' could not be read ({error}): remove the folder of results.") from None
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def labelled_grid(
    rows: Sequence[Tensor],
    labels: Sequence[str],
    title: str = "",
    scale: int | None = None,
    columns: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Return a picture of rows of pictures with labels, a title, heads of columns and captions.

    Small pictures are enlarged by whole pixels to about 64, large ones shrunk to at most 256. The title and the heads
    are broken into lines where they are long, never inside of a comparison such as `smile == 1`. A column is as wide as
    the longest comparison above it and the longest line below its pictures.

    Args:
        rows: at least one row of pictures, each (N_i, C, H, W) uint8 with C from 1 to 4; with 2
            or 4 the last channel is the opacity, above white.
        labels: text on the left of each row, one for each.
        title: text above everything; empty for none.
        scale: pixels of the grid for a pixel of a picture, at least 1; None chooses.
        columns: text above the columns; empty for none.
        captions: text below the pictures, of one or more lines, one for each of each row; empty for none.

    Returns:
        The grid.

    Example:
        >>> import torch
        >>> row = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> labelled_grid([row, row], ["before", "after"], "smile == 1").mode
        'RGB'
    """
    rows = [downscale(row) for row in rows]
    height, width = rows[0].shape[-2:]
    scale = scale or max(1, 64 // height)
    cell_h, cell_w = height * scale + GAP, width * scale + GAP
    font, small = ImageFont.load_default(size=max(13, min(20, cell_h // 3))), ImageFont.load_default(size=12)
    said = [caption.splitlines() for row_captions in captions for caption in row_captions]
    cell_h += CAPTION * max(map(len, said), default=0)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = (
        MARGIN
        + max((int(probe.textlength(label, font=font)) for label in labels), default=0)
        + (MARGIN if any(labels) else 0)
    )
    line_height, grid = int(getattr(font, "size", 13)) + 3, left + max(len(row) for row in rows) * cell_w
    titles = _lines(title, max(grid, 300) - MARGIN, lambda line: probe.textlength(line, font=font))
    top = MARGIN + (len(titles) * line_height + MARGIN - 3 if title else 0)
    # Heads of neighbours would touch where a word is as wide as its column.
    parts = [part for text in columns for part in _parts(text)]
    is_wide = any(probe.textlength(part, font=font) > cell_w - MARGIN for part in parts)
    head_font = small if is_wide else font
    texts = [(part, head_font) for part in parts] + [(line, small) for lines in said for line in lines]
    cell_w = max([cell_w, *(math.ceil(probe.textlength(text, font=of_text)) + MARGIN for text, of_text in texts)])
    grid = left + max(len(row) for row in rows) * cell_w
    heads = [_lines(text, cell_w - MARGIN, lambda line: probe.textlength(line, font=head_font)) for text in columns]
    head_top, top = top, top + max((len(lines) for lines in heads), default=0) * line_height + (GAP if heads else 0)
    width_all = max(grid, *(int(probe.textlength(line, font=font)) + MARGIN for line in titles), 0) + MARGIN
    size = (width_all, top + len(rows) * cell_h + MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(titles):
        draw.text((MARGIN, MARGIN + number * line_height), line, fill="black", font=font)
    for c, lines in enumerate(heads):
        for number, line in enumerate(lines):
            draw.text(
                (left + c * cell_w + cell_w // 2, head_top + number * line_height),
                line,
                fill="black",
                font=head_font,
                anchor="ma",
            )
    # Pictures stand in the middle of a column that is wider than they are.
    begin = left + (cell_w - GAP - width * scale) // 2
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + r * cell_h
        draw.text((MARGIN, y + cell_h // 2), label, fill="black", font=font, anchor="lm")
        for c, picture in enumerate(row):
            image = to_picture(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            is_open = image.mode in ("LA", "RGBA")
            canvas.paste(image, (begin + c * cell_w, y), image.convert("RGBA") if is_open else None)
            if captions:
                for number, line in enumerate(captions[r][c].splitlines()):
                    place = begin + c * cell_w + width * scale // 2, y + height * scale + number * CAPTION
                    draw.text(place, line, fill="black", font=small, anchor="ma")
    return canvas


# A comparison of a query: what stands on both sides of its signs is read together.
_SIDE = r"""(?:"[^"]*"|'[^']*'|\S)\S*"""
_COMPARISON = re.compile(rf"{_SIDE}(?:\s+(?:==|!=|<=|>=|<|>|in|not in)\s+{_SIDE})+|{_SIDE}")


def _parts(text: str) -> list[str]:
    """Return the parts of a text between which a line may end: words and whole comparisons.

    Example:
        >>> _parts("quad == 1 and 0.2 < age <= 0.5, hair in (red, blond)")
        ['quad == 1', 'and', '0.2 < age <= 0.5,', 'hair in (red,', 'blond)']
    """
    return [" ".join(match[0].split()) for match in _COMPARISON.finditer(text)]


def _lines(text: str, width: int, measure: Callable[[str], float]) -> list[str]:
    """Return the lines of a text that is broken between its parts, of at most `width` where no part is longer."""
    lines: list[str] = []
    for word in _parts(text):
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
