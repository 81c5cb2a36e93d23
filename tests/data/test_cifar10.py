from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning.data import cifar10
from lace_lightning.data.augmentation import AugmentedBatches
from lace_lightning.data.cifar10 import CLASSES, load_cifar10
from lace_lightning.errors import LaceError


def _picture(shade: int, size: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), shade, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _archive(path: Path, names: list[str], size: int = 32) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for index, name in enumerate(names):
            archive.writestr(name, _picture(index * 5, size))


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(cifar10, "SIZES", {"train": 20, "test": 20})


def test_pictures_and_classes(tmp_path: Path) -> None:
    _archive(tmp_path / "cifar10-test.zip", [f"{name}/{number}.png" for name in CLASSES for number in (0, 1)])
    for _ in range(2):
        pictures, classes = load_cifar10(tmp_path, "test", tmp_path / "cache")
        assert pictures.shape == (20, 3, 32, 32)
        assert pictures.dtype == torch.uint8
        assert classes.tolist() == [index for index in range(10) for _ in (0, 1)]
        assert pictures[:, 0, 0, 0].tolist() == [index * 5 for index in range(20)]
        (tmp_path / "cifar10-test.zip").touch()  # a changed archive is decoded again


@pytest.mark.parametrize(
    ("names", "size", "words"),
    [
        ([f"{name}/0.png" for name in CLASSES], 32, "holds 10 pictures"),
        ([f"folder/{n}.png" for n in range(20)], 32, "folders airplane"),
        ([f"{name}/{n}.png" for name in CLASSES for n in (0, 1)], 16, "is 16x16"),
    ],
)
def test_what_is_not_cifar10_is_refused(tmp_path: Path, names: list[str], size: int, words: str) -> None:
    _archive(tmp_path / "cifar10-train.zip", names, size)
    with pytest.raises(LaceError, match=words):
        load_cifar10(tmp_path, "train", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_missing_and_broken_archives(tmp_path: Path) -> None:
    with pytest.raises(LaceError, match="do not exist"):
        load_cifar10(tmp_path, "train", tmp_path)
    with pytest.raises(LaceError, match="are not shipped"):
        load_cifar10(None, "train", tmp_path)
    (tmp_path / "cifar10-train.zip").write_bytes(b"not a zip")
    with pytest.raises(LaceError, match="must be a zip archive"):
        load_cifar10(tmp_path, "train", tmp_path)


def test_augmentation_keeps_classes_and_repeats_itself() -> None:
    pictures = (torch.arange(12)[:, None, None, None] * 20).expand(12, 3, 32, 32).to(torch.uint8).contiguous()
    batches = AugmentedBatches(pictures, torch.arange(12), 5, seed=3, pad=4, flip=True, cutout=8)
    assert len(batches) == 2
    first = list(batches)
    for x, y in first:
        # Constant pictures: only the grey square changes them.
        grey = (x == 127).all(1)
        assert ((x == (y * 20)[:, None, None, None]).all(1) | grey).all()
        assert (grey.sum((1, 2)) == 64).all()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, batches, strict=True))
    batches.set_epoch(1)
    assert not torch.equal(next(iter(batches))[1], first[0][1])


def test_shifts_and_mirror_images_are_those_of_the_picture() -> None:
    picture = torch.arange(32 * 32).remainder(251).to(torch.uint8).reshape(1, 1, 32, 32).expand(1, 3, 32, 32)
    padded = torch.nn.functional.pad(picture.float(), (4,) * 4, mode="reflect").byte()[0]
    allowed = {
        tuple(side[:, r : r + 32, c : c + 32].flatten().tolist())
        for side in (padded, padded.flip(-1))
        for r in range(9)
        for c in range(9)
    }
    batches = AugmentedBatches(picture.repeat(50, 1, 1, 1), torch.zeros(50), 50, seed=0, pad=4, flip=True)
    shown = {tuple(x.flatten().tolist()) for x in next(iter(batches))[0]}
    assert shown <= allowed
    assert len(shown) > 25


def test_the_real_archive(shared_dir: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cifar10, "SIZES", {"train": 50_000, "test": 10_000})
    pictures, classes = load_cifar10(shared_dir / "data", "test", tmp_path)
    assert torch.bincount(classes).tolist() == [1000] * 10
    assert 100 < float(pictures.float().mean()) < 140
