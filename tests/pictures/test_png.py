"""PNG files, read back by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lace_lightning.errors import LaceError
from lace_lightning.pictures import png_files


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("sides", [(1, 1), (5, 1), (32, 32), (7, 65)])
def test_pictures_are_read_back(channels: int, mode: str, sides: tuple[int, int]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, *sides, channels), dtype=np.uint8)
    for picture, content in zip(pictures, png_files(pictures), strict=True):
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
        with Image.open(io.BytesIO(content)) as image:
            assert image.mode == mode
            assert (np.array(image).reshape(picture.shape) == picture).all()


def test_a_smooth_picture_is_compressed() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None], (1, 64, 64, 3))
    assert len(next(png_files(ramp))) < ramp.size / 20


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(LaceError, match="has 1 to 4 channels, received 5: choose the channels to show"):
        next(png_files(np.zeros((1, 2, 2, 5), np.uint8)))
