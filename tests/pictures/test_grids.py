"""Pictures of pictures."""

from __future__ import annotations

import numpy as np
import torch

from lace_lightning.pictures.convert import at_a_time, downscale, float_batches
from lace_lightning.pictures.grids import CAPTION, GAP, MARGIN, _lines, labelled_grid


def test_large_pictures_become_tiles_of_their_means() -> None:
    images = torch.randint(256, (2, 3, 1024, 1024), dtype=torch.uint8)
    tiles = downscale(images)
    assert tiles.shape == (2, 3, 256, 256)
    assert tiles[1, 2, 3, 4] == images[1, 2, 12:16, 16:20].double().mean().round()
    assert downscale(tiles) is tiles
    assert downscale(images[..., :300, :300]).shape == (2, 3, 150, 150)
    grid = labelled_grid([images, images], ["", ""])
    assert grid.size == (2 * (256 + GAP) + 2 * MARGIN, 2 * (256 + GAP) + 2 * MARGIN)


def test_large_pictures_are_looked_at_one_by_one() -> None:
    assert [at_a_time(torch.empty(500, 3, side, side, device="meta")) for side in (32, 64, 128, 1024)] == [
        100,
        100,
        25,
        1,
    ]
    images = torch.randint(256, (5, 3, 448, 448), dtype=torch.uint8)
    parts = list(float_batches(images))
    assert [len(part) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(parts), images / 127.5 - 1)


def test_the_last_of_four_channels_is_the_opacity_above_white() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)
    pictures = [torch.cat([red, torch.tensor([opacity], dtype=torch.uint8)]) for opacity in (0, 255)]
    row = torch.stack(pictures)[:, :, None, None].expand(-1, -1, 8, 8)
    grid = labelled_grid([row], [""])
    seen = np.asarray(grid)
    assert grid.mode == "RGB"
    assert (seen == [255, 0, 0]).all(2).sum() == 64 * 64
    assert set(map(tuple, seen.reshape(-1, 3).tolist())) == {(255, 255, 255), (255, 0, 0)}


def test_a_line_of_a_heading_never_ends_inside_of_a_comparison() -> None:
    text = "quad == 1 and 'long beard' == yes or 0.2 < age <= 0.5, hair in (red, blond)"
    whole = ["quad == 1", "'long beard' == yes", "0.2 < age <= 0.5"]
    for width in range(1, 90):
        lines = _lines(text, width, len)
        assert " ".join(lines) == text
        assert all(any(part in line for line in lines) for part in whole)
        assert all(len(line) <= max(width, len(whole[1])) for line in lines)


def test_columns_are_as_wide_as_their_comparisons_and_pictures_stand_below() -> None:
    row = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    narrow = labelled_grid([row], [""], scale=3, columns=["a", "b"])
    wide = labelled_grid([row], [""], scale=3, columns=["a", "'facial hair' == 'a long beard'"])
    assert narrow.width == 2 * (84 + GAP) + 2 * MARGIN
    assert wide.width > narrow.width
    black = (np.asarray(wide)[-40] == 0).all(1).nonzero()[0]
    # Both pictures are in the middle of their columns.
    left, right = black[:84], black[84:]
    column = (wide.width - 2 * MARGIN) // 2
    assert abs((left[0] + left[-1]) / 2 - (MARGIN + column / 2)) <= GAP
    assert abs((right[0] + right[-1]) / 2 - (MARGIN + 1.5 * column)) <= GAP


def test_captions_have_lines_and_do_not_touch_their_neighbours() -> None:
    row = torch.full((3, 1, 32, 32), 255, dtype=torch.uint8)
    plain = labelled_grid([row], [""])
    captions = [["slant 0.00\nthickness 0.58", "slant 0.11\nthickness 0.14", "slant 0.20"]]
    said = labelled_grid([row], [""], captions=captions)
    assert said.height == plain.height + 2 * CAPTION
    below = (np.asarray(said.convert("L"))[-(2 * CAPTION + MARGIN) :] < 255).any(0)
    cell = (said.width - 2 * MARGIN) // 3
    # Between two columns there is no ink.
    for column in (1, 2):
        place = MARGIN + column * cell
        assert not below[place - 3 : place + 2].any()
    assert below.any()
