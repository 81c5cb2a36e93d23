"""CIFAR-10: decoding, caching, batches with augmentation."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ..artifacts import Cache, atomic_path
from ..errors import LaceError
from ..schema import Attribute, Schema
from .batches import EpochBatches

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SCHEMA = Schema("cifar10", (Attribute("label", "discrete", 10, CLASSES),))
SIZES = {"train": 50_000, "test": 10_000}


def load_cifar10(
    root: str | os.PathLike[str] | None, split: str, cache: str | os.PathLike[str], download: bool = False
) -> tuple[Tensor, Tensor]:
    """Return pictures (N, 3, 32, 32) uint8 and classes (N,) int64 of a split, train or test.

    `root` holds `cifar10-train.zip` and `cifar10-test.zip` (folders named by class with JPEG or PNG pictures); without
    it `download` lets torchvision fetch the original. Decoded once, then memory-mapped from `cache`. Raises LaceError
    when there is no data or an archive is not CIFAR-10.
    """
    if split not in SIZES:
        raise LaceError(f"CIFAR-10 has the splits train and test, received '{split}'.")
    source, key = _archive(root, split)
    if source is None and not download:
        raise LaceError(
            "The pictures of CIFAR-10 are needed and are not shipped: set dataset.module.root to the folder with "
            "cifar10-train.zip and cifar10-test.zip, or dataset.module.download=true to fetch them."
        )
    folder = Cache(cache).folder("cifar10", f"{split}-{key}")
    if not (folder / "classes.npy").is_file():
        pictures, classes = _from_torchvision(folder, split) if source is None else _from_zip(source, split)
        for name, array in (("pictures", pictures), ("classes", classes)):
            with atomic_path(folder / f"{name}.npy") as temporary, open(temporary, "wb") as stream:
                np.save(stream, array)
    pictures = np.load(folder / "pictures.npy", mmap_mode="c")
    return torch.from_numpy(pictures), torch.from_numpy(np.load(folder / "classes.npy"))


def _archive(root: str | os.PathLike[str] | None, split: str) -> tuple[Path | None, str]:
    """Return the archive of a split, None where torchvision has it, and what tells it from others."""
    if root is None:
        return None, "torchvision"
    source = Path(root).expanduser() / f"cifar10-{split}.zip"
    if not source.is_file():
        raise LaceError(
            f"The pictures '{source}' were required and do not exist: set dataset.module.root to the folder with "
            "cifar10-train.zip and cifar10-test.zip, or dataset.module.root=null dataset.module.download=true to fetch "
            "them."
        )
    return source, f"{source.stat().st_size}-{source.stat().st_mtime_ns}"


def _from_zip(source: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise LaceError(f"'{source}' must be a zip archive and is not ({error}): get the file again.") from error
    names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png")))
    folders = {name.split("/")[-2] if "/" in name else "" for name in names}
    if len(names) != SIZES[split] or folders != set(CLASSES):
        raise LaceError(
            f"'{source}' must hold the {SIZES[split]} pictures of CIFAR-10 ({split}) in folders airplane ... truck, "
            f"and holds {len(names)} pictures in {', '.join(sorted(folders)[:3]) or 'no folder'} ...: give the "
            "right archive."
        )
    pictures = np.empty((len(names), 3, 32, 32), np.uint8)
    for index, name in enumerate(tqdm(names, desc=f"decoding CIFAR-10 ({split})", leave=False, mininterval=1)):
        try:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                array = np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, zipfile.BadZipFile) as error:
            raise LaceError(
                f"The picture '{name}' in '{source}' could not be read ({error}): get the archive again."
            ) from error
        if array.shape != (32, 32, 3):
            raise LaceError(
                f"Pictures of CIFAR-10 are 32x32, and '{name}' in '{source}' is {array.shape[1]}x{array.shape[0]}: "
                "give the right archive."
            )
        pictures[index] = array.transpose(2, 0, 1)
    return pictures, np.array([CLASSES.index(name.split("/")[-2]) for name in names], np.int64)


def _from_torchvision(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(str(folder), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise LaceError(
            f"CIFAR-10 could not be downloaded ({error}): set dataset.module.root to a folder with cifar10-train.zip "
            f"and "
            "cifar10-test.zip."
        ) from error
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.array(data.targets, np.int64)


class AugmentedBatches(EpochBatches):
    """Batches (pictures uint8 (B, 3, 32, 32), labels (B, K)), shifted by up to `pad`, mirrored, with a grey square of
    `cutout`.
    """

    def __init__(
        self,
        pictures: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        pad: int = 0,
        flip: bool = False,
        cutout: int = 0,
    ) -> None:
        super().__init__(len(pictures), batch_size, seed, rank, world_size)
        self.pictures, self.labels, self.pad, self.flip, self.cutout = pictures, labels, pad, flip, cutout

    def batches(self, first: int) -> Iterator[tuple[Tensor, ...]]:
        for index, rows in self.rows(first):
            yield self.augmented(index, rows)[0], self.labels[rows]

    def augmented(self, index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pictures of batch `index`, and which of them are mirrored (B,) bool."""
        random = torch.Generator().manual_seed(((self.seed or 0) * 100_003 + self.epoch) * 1_000_003 + index)
        x, flipped = self.pictures[rows], torch.zeros(len(rows), dtype=torch.bool)
        count, size = len(x), x.shape[-1]

        def integers(high: int, *shape: int) -> Tensor:
            return torch.randint(0, high, shape, generator=random)

        if self.flip:
            flipped = integers(2, count) == 1
            x = torch.where(flipped[:, None, None, None], x.flip(-1), x)
        if self.pad:
            # Which pixel stands where: what comes in at the edge is the reflection.
            places = size - 1 - (torch.arange(-self.pad, size + self.pad).abs() - (size - 1)).abs()
            down = places[integers(2 * self.pad + 1, count, 1) + torch.arange(size)]
            right = places[integers(2 * self.pad + 1, count, 1) + torch.arange(size)]
            x = x.gather(2, down[:, None, :, None].expand_as(x))
            x = x.gather(3, right[:, None, None].expand_as(x))
        if self.cutout:
            corner, grid = integers(size - self.cutout + 1, 2, count, 1), torch.arange(size)
            inside = (grid >= corner) & (grid < corner + self.cutout)
            x = x.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 127)
        return x, flipped


def strided_rows(size: int, count: int) -> Tensor:
    """Return about `count` of `size` rows at even distances: archives are sorted by class, and a part must have all of
    them.
    """
    return torch.arange(size)[:: max(1, size // count)]


class CIFAR10DataModule(pl.LightningDataModule):
    """CIFAR-10 for training image networks: train batches with augmentation, the test split for validation and test."""

    schema = SCHEMA

    def __init__(
        self,
        root: str | None = None,
        cache: str = "~/.cache/lace_lightning",
        download: bool = False,
        batch_size: int = 256,
        test_batch_size: int = 500,
        seed: int = 0,
        pad: int = 4,
        flip: bool = True,
        cutout: int = 8,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.root, self.cache, self.download, self.seed, self.limit = root, cache, download, seed, limit
        self.batch_size, self.test_batch_size = batch_size, test_batch_size
        self.pad, self.flip, self.cutout = pad, flip, cutout
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    def setup(self, stage: str | None = None) -> None:
        for split in SIZES:
            if split not in self.splits:
                pictures, classes = load_cifar10(self.root, split, self.cache, self.download)
                keep = strided_rows(len(pictures), self.limit) if self.limit else slice(None)
                self.splits[split] = pictures[keep], classes[keep, None].float()

    @property
    def at_hand(self) -> bool:
        """Whether the pictures have been given or may be fetched."""
        return self.root is not None or self.download

    @property
    def source(self) -> dict[str, Any]:
        """What the train pictures depend on, and their shape."""
        return {"split": "train", "archive": _archive(self.root, "train")[1], "shape": [3, 32, 32]}

    def train_pictures(self) -> Tensor:
        """Return the pictures (50000, 3, 32, 32) uint8 of the train split."""
        return load_cifar10(self.root, "train", self.cache, self.download)[0]

    def some_pictures(self, count: int) -> Tensor:
        """Return about `count` pictures (uint8) of the train split, spread over its classes."""
        pictures = self.splits["train"][0]
        return pictures[strided_rows(len(pictures), count)]

    def train_dataloader(self) -> AugmentedBatches:
        return AugmentedBatches(
            *self.splits["train"], self.batch_size, self.seed, pad=self.pad, flip=self.flip, cutout=self.cutout
        ).within(self.trainer)

    def val_dataloader(self) -> AugmentedBatches:
        return AugmentedBatches(*self.splits["test"], self.test_batch_size)

    test_dataloader = val_dataloader
