"""CIFAR-10: decoding, caching, batches with augmentation."""

from __future__ import annotations

import io
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..cache import Cache
from ..errors import LaceError
from ..progress import steps
from ..schema import Attribute, Schema
from .picture_data import PictureData, Split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SCHEMA = Schema("cifar10", (Attribute("label", "discrete", 10, CLASSES),))
SIZES = {"train": 50_000, "test": 10_000}
Array = np.ndarray[Any, Any]


def load_cifar10(
    root: str | os.PathLike[str] | None, split: str, cache: str | os.PathLike[str], download: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the pictures and classes of a split of CIFAR-10, decoded once and memory-mapped from the cache.

    Args:
        root: folder with `cifar10-train.zip` and `cifar10-test.zip` (folders named by class with JPEG or PNG pictures);
            None for torchvision's copy.
        split: `train` or `test`.
        cache: folder of the cache.
        download: whether torchvision may fetch the pictures where `root` is None.

    Returns:
        Pictures (N, 3, 32, 32) uint8 and classes (N,) int64.

    Raises:
        LaceError: when the split is another, there are no pictures, or an archive is not CIFAR-10.
    """
    if split not in SIZES:
        raise LaceError(f"CIFAR-10 has the splits train and test, received '{split}': choose one of them.")
    source, key = _archive(root, split)
    if source is None and not download:
        raise LaceError(
            "The pictures of CIFAR-10 are needed and are not shipped: set dataset.module.root to the folder with "
            "cifar10-train.zip and cifar10-test.zip, or dataset.module.download=true to fetch them."
        )
    entry = Cache(cache).entry("cifar10", {"split": split, "source": key, "recipe": 2})
    made: dict[str, Array] = {}

    def save(name: str, path: Path) -> None:
        if not made:
            made["pictures"], made["classes"] = (
                _from_torchvision(entry.folder, split) if source is None else _from_zip(source, split)
            )
        with open(path, "wb") as stream:
            np.save(stream, made[name])

    pictures, classes = (
        entry.file(f"{name}.npy", partial(save, name), f"CIFAR-10 ({split})") for name in ("pictures", "classes")
    )
    return torch.from_numpy(np.load(pictures, mmap_mode="c")), torch.from_numpy(np.load(classes))


def _archive(root: str | os.PathLike[str] | None, split: str) -> tuple[Path | None, str]:
    """Return the archive of a split, None where torchvision has it, and a key that tells it from other archives."""
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


def _from_zip(source: Path, split: str) -> tuple[Array, Array]:
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
    for index, name in enumerate(steps(names, f"decoding CIFAR-10 ({split})")):
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


def _from_torchvision(folder: Path, split: str) -> tuple[Array, Array]:
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(str(folder), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise LaceError(
            f"CIFAR-10 could not be downloaded ({error}): set dataset.module.root to a folder with cifar10-train.zip "
            "and cifar10-test.zip."
        ) from error
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.array(data.targets, np.int64)


class CIFAR10DataModule(PictureData):
    """CIFAR-10 for training image networks: augmented train batches, the test split for validation and test.

    Args:
        root: folder with `cifar10-train.zip` and `cifar10-test.zip`; null where `download` fetches them.
        cache: folder of the cache, in which the decoded pictures are kept (180 MB).
        download: whether torchvision may fetch the pictures where `root` is null.
        batch_size: pictures of a train batch, at least 1.
        test_batch_size: pictures of a validation or test batch, at least 1.
        seed: seed of the order and the augmentation of train pictures, at least 0.
        pad: largest shift of train pictures in pixels, from 0 to 31.
        flip: whether train pictures are mirrored with probability 1/2.
        cutout: side of the grey square in train pictures in pixels, from 0 (none) to 32.
        limit: take about this many pictures of every split for training, at least 1; null for all.

    Raises:
        LaceError: when a size is out of range; when the pictures are asked for and there are none, or an archive is
            not CIFAR-10.

    Example:
        >>> data = CIFAR10DataModule()
        >>> data.at_hand, data.schema["label"].num_classes
        (False, 10)
    """

    schema: Schema = SCHEMA

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
        super().__init__(batch_size, test_batch_size, seed, flip, pad, cutout, limit)
        self.root, self.cache, self.download = root, cache, download

    def load(self) -> dict[str, Split]:
        """Return the splits `train` and `test`: pictures (N, 3, 32, 32) uint8 and classes (N, 1)."""
        splits: dict[str, Split] = {}
        for name in SIZES:
            pictures, classes = load_cifar10(self.root, name, self.cache, self.download)
            splits[name] = pictures, classes[:, None].float()
        return splits

    @property
    def at_hand(self) -> bool:
        """Whether the pictures have been given or may be fetched."""
        return self.root is not None or self.download

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the train pictures depend on, and their "shape"."""
        return {"split": "train", "archive": _archive(self.root, "train")[1], "shape": [3, 32, 32]}

    def train_pictures(self) -> Tensor:
        """Return the pictures (50000, 3, 32, 32) uint8 of the train split, all of them whatever `limit` is."""
        return load_cifar10(self.root, "train", self.cache, self.download)[0]
