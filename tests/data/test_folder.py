"""Pictures in folders: which, in what order, cut how, and never all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning.data import FolderDataModule
from lace_lightning.errors import LaceError
from lace_lightning.metrics.feature_space import reference_statistics


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def fill(folder: Path, count: int = 7, size: int = 8) -> torch.Tensor:
    """Write pictures of noise; return them (N, 3, size, size) in the order of their names."""
    pictures = np.random.default_rng(0).integers(0, 256, (count, size, size, 3))
    for index, picture in enumerate(pictures):
        save(folder / ("a" if index < 3 else "b") / f"{index}.png", picture)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).to(torch.uint8)


def test_pictures_come_in_batches_in_the_order_of_their_paths(tmp_path: Path) -> None:
    expected = fill(tmp_path)
    save(tmp_path / ".hidden" / "x.png", np.zeros((8, 8, 3)))
    (tmp_path / "notes.txt").write_text("no picture")
    batches = FolderDataModule(str(tmp_path), batch_size=3).train_pictures()
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat(list(batches)), expected)
    assert len(FolderDataModule(str(tmp_path), batch_size=3, limit=4).train_pictures()) == 2


def test_the_square_in_the_middle_is_shrunk_without_aliases(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3))
    wide[:, 4:12] = 200
    board = np.indices((64, 64)).sum(0) % 2 * 255
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", board[:, :, None].repeat(3, 2))
    cut, grey = FolderDataModule(str(tmp_path), resolution=4).train_pictures()[0]
    assert (cut == 200).all()
    assert ((grey.float() - 127.5).abs() < 12).all()


def test_grey_transparent_and_turned_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4, 4), 9, np.uint8)).save(tmp_path / "b.PNG")
    turned, exif = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16).convert("RGB"), Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    turned.save(tmp_path / "c.png", exif=exif)
    grey, transparent, picture = FolderDataModule(str(tmp_path)).train_pictures()[0]
    assert (grey == 7).all()
    assert (transparent == 246).all()  # 9 of 255 opaque, on white
    assert torch.equal(picture[0], torch.rot90(torch.arange(16, dtype=torch.uint8).reshape(4, 4) * 16, -1))


@pytest.mark.parametrize("resolution", [None, 4])
def test_grey_pictures_of_16_bits_are_scaled_by_their_range(tmp_path: Path, resolution: int | None) -> None:
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    save(tmp_path / "8" / "a.png", levels)
    (tmp_path / "16").mkdir()
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16" / "a.png")
    with Image.open(tmp_path / "16" / "a.png") as image:
        assert image.mode.startswith("I")
    narrow, wide = (FolderDataModule(str(tmp_path / bits), resolution).train_pictures()[0] for bits in ("8", "16"))
    assert torch.equal(narrow, wide)


def test_colours_under_full_transparency_are_not_seen(tmp_path: Path) -> None:
    hidden = np.random.default_rng(0).integers(0, 256, (4, 4, 4))
    hidden[..., 3] = 0
    hidden[0, 0] = (10, 20, 30, 255)
    save(tmp_path / "a.png", hidden)
    palette = Image.fromarray(np.eye(4, dtype=np.uint8)).convert("P")
    palette.putpalette([200, 0, 0, 0, 0, 90])
    palette.save(tmp_path / "b.png", transparency=0)
    colour, indexed = FolderDataModule(str(tmp_path)).train_pictures()[0]
    assert colour[:, 0, 0].tolist() == [10, 20, 30]
    assert (colour.flatten(1)[:, 1:] == 255).all()
    assert indexed[:, 0, 1].tolist() == [255] * 3
    assert indexed[:, 1, 1].tolist() == [0, 0, 90]


def test_statistics_need_one_batch_at_a_time_and_go_on_where_they_were_killed(tmp_path: Path, monkeypatch) -> None:
    pictures = fill(tmp_path / "p", count=20)
    monkeypatch.setattr("lace_lightning.metrics.feature_space.SAVE_SECONDS", 0.0)
    seen: list[int] = []

    def features(images: torch.Tensor) -> torch.Tensor:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(images))
        return images.double().mean((2, 3))

    batches = FolderDataModule(str(tmp_path / "p"), batch_size=6).train_pictures()
    with pytest.raises(KeyboardInterrupt):
        reference_statistics(features, 3, batches, partial=tmp_path / "partial")
    seen.clear()
    statistics = reference_statistics(features, 3, batches, partial=tmp_path / "partial")
    assert seen == [2]
    assert not (tmp_path / "partial").exists()
    values = pictures.double().mean((2, 3))
    assert statistics["count"] == 20
    torch.testing.assert_close(statistics["mean"], values.mean(0))
    torch.testing.assert_close(statistics["covariance"], torch.cov(values.T))
    # Other batches begin again.
    with pytest.raises(KeyboardInterrupt):
        reference_statistics(features, 3, batches, partial=tmp_path / "partial")
    seen.clear()
    again = reference_statistics(
        lambda x: x.double().mean((2, 3)),
        3,
        FolderDataModule(str(tmp_path / "p"), batch_size=5).train_pictures(),
        partial=tmp_path / "partial",
    )
    torch.testing.assert_close(again, statistics)


def test_what_statistics_depend_on(tmp_path: Path) -> None:
    fill(tmp_path)
    source = FolderDataModule(str(tmp_path), seed=1, batch_size=2).source
    assert source == FolderDataModule(str(tmp_path), seed=2, batch_size=4).source
    assert (source["count"], source["shape"]) == (7, [3, 8, 8])
    assert source != FolderDataModule(str(tmp_path), limit=6).source
    assert source != FolderDataModule(str(tmp_path), resolution=4).source
    save(tmp_path / "a" / "1.png", np.zeros((8, 8, 3)))
    assert source != FolderDataModule(str(tmp_path)).source


def test_training_shuffles_and_mirrors(tmp_path: Path) -> None:
    pictures = fill(tmp_path, count=40)
    data = FolderDataModule(str(tmp_path), batch_size=8, flip=True, seed=3)
    loader = data.train_dataloader()
    assert len(loader) == 5
    shown = torch.cat(list(loader))
    assert torch.equal(shown, torch.cat(list(loader)))
    same, mirrored = ((shown[:, None] == others).flatten(2).all(2) for others in (pictures, pictures.flip(-1)))
    assert ((same | mirrored).sum(0) == 1).all()
    assert 8 < int(mirrored.any(1).sum()) < 32
    loader.set_epoch(1)
    assert not torch.equal(shown, torch.cat(list(loader)))


def test_bad_folders(tmp_path: Path) -> None:
    assert not FolderDataModule().at_hand
    assert FolderDataModule(str(tmp_path)).at_hand
    with pytest.raises(LaceError, match="none is given"):
        FolderDataModule().train_pictures()
    with pytest.raises(LaceError, match="holds none"):
        FolderDataModule(str(tmp_path)).train_pictures()
    with pytest.raises(LaceError, match="does not exist"):
        FolderDataModule(str(tmp_path / "nowhere")).train_pictures()
    with pytest.raises(LaceError, match="batch_size must be at least 1"):
        FolderDataModule(batch_size=0)
    save(tmp_path / "a.png", np.zeros((8, 8, 3)))
    save(tmp_path / "b.png", np.zeros((8, 9, 3)))
    with pytest.raises(LaceError, match=r"one size, and '.*a.png' is 8x8, '.*b.png' 9x8"):
        FolderDataModule(str(tmp_path)).train_pictures()[0]
    with pytest.raises(LaceError, match=r"at least 16 pixels a side, and '.*' is 8x8"):
        FolderDataModule(str(tmp_path), resolution=16).train_pictures()[0]
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(LaceError, match=r"'.*b.png' could not be read"):
        FolderDataModule(str(tmp_path)).train_pictures()[0]
