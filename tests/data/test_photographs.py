"""Photographs of every kind and size, against pictures that are drawn by hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning.data import photographs
from lace_lightning.data.photographs import photograph_files, read_photograph
from lace_lightning.errors import LaceError

# Left half red, right half blue; in the middle of a wide picture.
PIXELS = np.zeros((20, 40, 3), np.uint8)
PIXELS[:, 10:20, 0] = 255
PIXELS[:, 20:30, 2] = 255
RED, BLUE = [255, 0, 0], [0, 0, 255]


def corners(image: torch.Tensor) -> tuple[list[int], list[int]]:
    return image[:, 0, 0].tolist(), image[:, 0, -1].tolist()


def test_the_square_in_the_middle_is_taken(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    read = read_photograph(tmp_path / "a.png", (3, 4, 4))
    assert corners(read.image) == (RED, BLUE)
    assert read.cut == "40x20, the 20x20 in the middle, to 4x4"
    part = read_photograph(tmp_path / "a.png", (3, 4, 4), (10, 0, 10, 20))
    assert part.cut == "40x20, the 10x10 at 10,5, to 4x4"
    assert corners(part.image) == (RED, RED)
    # A generator of wide and of grey pictures; a small picture is enlarged.
    assert read_photograph(tmp_path / "a.png", (3, 4, 8)).cut == "40x20, to 8x4"
    assert read_photograph(tmp_path / "a.png", (1, 4, 4)).image.shape == (1, 4, 4)
    assert read_photograph(tmp_path / "a.png", (3, 64, 64)).cut == "40x20, the 20x20 in the middle, enlarged to 64x64"


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "LA", "L", "1", "I;16", "RGB"])
def test_every_mode_becomes_eight_bits_in_rgb(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 20), 65535 // 2, np.uint16))
    else:
        image = Image.new("RGB", (20, 20), (128, 128, 128)).convert(mode)
    ending = "tif" if mode in ("CMYK", "I;16") else "png"
    image.save(tmp_path / f"a.{ending}")
    shown = read_photograph(tmp_path / f"a.{ending}", (3, 5, 5)).image
    assert (shown.shape, shown.dtype) == ((3, 5, 5), torch.uint8)
    if mode != "1":
        assert int((shown.int() - 128).abs().max()) <= 2


def test_transparent_is_on_white_and_the_camera_is_turned(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_photograph(tmp_path / "clear.png", (3, 4, 4)).image.unique().tolist() == [255]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the right
    Image.fromarray(PIXELS[:, 10:30].repeat(4, 0).repeat(4, 1)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image = read_photograph(tmp_path / "turned.jpg", (3, 4, 4)).image.int()
    assert (image[:, 0, 0] - torch.tensor(RED)).abs().max() < 10
    assert (image[:, 3, 0] - torch.tensor(BLUE)).abs().max() < 10
    wide = Image.fromarray(PIXELS.repeat(4, 0).repeat(4, 1))
    wide.save(tmp_path / "wide.jpg", exif=exif)
    # Parts are counted in the picture as it is seen.
    assert read_photograph(tmp_path / "wide.jpg", (3, 4, 4)).cut == "80x160, the 80x80 in the middle, to 4x4"
    with pytest.raises(LaceError, match="must lie inside of its 80x160 pixels, received 0,0,160,80"):
        read_photograph(tmp_path / "wide.jpg", (3, 4, 4), (0, 0, 160, 80))


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for ending in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], lossless=True)
        read = read_photograph(tmp_path / f"a.{ending}", (3, 4, 4))
        assert read.cut == "8x8, the first of 3 frames, to 4x4"
        assert corners(read.image) == (RED, RED)


def test_huge_pictures_take_little_memory_or_are_refused(tmp_path: Path, monkeypatch) -> None:
    decoded: list[tuple[int, int]] = []
    load = Image.Image.crop

    def crop(self, box=None):
        decoded.append(self.size)
        return load(self, box)

    monkeypatch.setattr(Image.Image, "crop", crop)
    Image.fromarray(PIXELS.repeat(50, 0).repeat(50, 1)).save(tmp_path / "large.jpg")
    monkeypatch.setattr(photographs, "MAX_PIXELS", 100_000)
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_photograph(tmp_path / "large.jpg", (3, 8, 8))
    assert decoded == [(250, 125)]
    assert read.cut == "2000x1000, the 1000x1000 in the middle, to 8x8"
    assert (read.image[:, 0, 0].int() - torch.tensor(RED)).abs().max() < 10
    # A part that is small is decoded at its full resolution.
    with pytest.raises(LaceError, match=r"must have at most 0 million pixels .* and has 2000x1000: shrink it first"):
        read_photograph(tmp_path / "large.jpg", (3, 8, 8), (0, 0, 10, 10))
    for name, options in (("large.png", {}), ("progressive.jpg", {"progressive": True})):
        Image.fromarray(PIXELS.repeat(50, 0).repeat(50, 1)).save(tmp_path / name, **options)
        with pytest.raises(LaceError, match="and has 2000x1000: shrink it first"):
            read_photograph(tmp_path / name, (3, 8, 8))
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    # 20,000 pixels wide, and not high.
    monkeypatch.setattr(photographs, "MAX_PIXELS", 100_000_000)
    Image.new("L", (20_000, 50), 128).save(tmp_path / "wide.png")
    assert read_photograph(tmp_path / "wide.png", (3, 8, 8)).cut == "20000x50, the 50x50 in the middle, to 8x8"


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    Image.fromarray(PIXELS).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:80])
    for name in ("a.png", "c.png", "none.png"):
        with pytest.raises(LaceError, match=rf"'.*{name}' must be a picture and could not be read"):
            read_photograph(tmp_path / name, (3, 4, 4))
    with pytest.raises(LaceError, match=r"received -1,0,10,10 \(left, top, width, height\): correct it"):
        read_photograph(tmp_path / "b.png", (3, 4, 4), (-1, 0, 10, 10))
    with pytest.raises(LaceError, match="have 1 or 3 channels, and the pictures of the generator have 4"):
        read_photograph(tmp_path / "b.png", (4, 4, 4))


def test_files_and_folders_have_names(tmp_path: Path) -> None:
    for name in ("me.jpg", "in/b.png", "in/a.gif", "in/deep/a.png", "in/.hidden.png", "other/me.jpg", "in/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "in" / "text.txt").write_text("")
    files = photograph_files([tmp_path / "me.jpg", tmp_path / "in"])
    assert list(files) == ["me", "a", "b.jpg", "b.png", "deep/a"]
    assert files["deep/a"] == tmp_path / "in/deep/a.png"
    with pytest.raises(LaceError, match=r"must have different names, and two are called 'me\.jpg': rename one"):
        photograph_files([tmp_path / "me.jpg", tmp_path / "other" / "me.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LaceError, match=r"'.*empty' holds no picture \(\.png"):
        photograph_files([tmp_path / "empty"])
    with pytest.raises(LaceError, match=r"'.*none' does not exist: check the path"):
        photograph_files([tmp_path / "none"])


def test_an_astronaut_is_a_photograph() -> None:
    path = Path(pytest.importorskip("skimage").__file__).parent / "data" / "astronaut.png"
    read = read_photograph(path, (3, 32, 32), (150, 0, 200, 200))
    assert read.cut == "512x512, the 200x200 at 150,0, to 32x32"
    assert float(read.image.float().std()) > 20
