"""Pictures in a folder, read as they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..artifacts import digest
from ..errors import LaceError
from .batches import EpochBatches

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_files(root: str | os.PathLike[str]) -> list[Path]:
    """Return the pictures below `root`, sorted by their path; hidden ones are left out. Raises LaceError when there are
    none.
    """
    folder = Path(root).expanduser()
    files = (
        sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        if folder.is_dir()
        else []
    )
    if not files:
        raise LaceError(
            f"The folder '{folder}' must hold pictures ({', '.join(SUFFIXES)}) and "
            f"{'holds none' if folder.is_dir() else 'does not exist'}: set dataset.module.root to a folder of pictures."
        )
    return files


def read_picture(path: Path, resolution: int | None) -> Tensor:
    """Return a picture (3, H, W) uint8; with `resolution` the square in its middle, shrunk by Lanczos' filter.

    Raises LaceError for a file that cannot be read and for one that would have to be enlarged.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
            if resolution is not None and min(image.size) >= resolution:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                image = image.crop((left, top, left + side, top + side)).resize(
                    (resolution, resolution), Image.Resampling.LANCZOS
                )
            array = np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LaceError(f"The picture '{path}' could not be read ({error}): get it again, or take it away.") from error
    if resolution is not None and array.shape[:2] != (resolution, resolution):
        raise LaceError(
            f"Pictures must have at least {resolution} pixels a side, and '{path}' is "
            f"{array.shape[1]}x{array.shape[0]}: set "
            "dataset.module.resolution to at most that."
        )
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


class PictureFiles:
    """Rows of files -> pictures (B, 3, H, W) uint8, decoded in threads; all must have one size."""

    def __init__(self, files: Sequence[Path], resolution: int | None = None) -> None:
        self.files, self.resolution = files, resolution

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return the pictures of these rows."""
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            pictures = list(pool.map(lambda row: read_picture(self.files[row], self.resolution), rows))
        for row, picture in zip(rows, pictures, strict=True):
            if picture.shape != self.shape:
                raise LaceError(
                    f"The pictures must have one size, and '{self.files[0]}' is {self.shape[2]}x{self.shape[1]}, "
                    f"'{self.files[row]}' {picture.shape[2]}x{picture.shape[1]}: set dataset.module.resolution."
                )
        return torch.stack(pictures)

    @cached_property
    def shape(self) -> torch.Size:
        """Shape (3, H, W) of the first picture, which all must have."""
        return read_picture(self.files[0], self.resolution).shape

    def __len__(self) -> int:
        return len(self.files)


class PictureBatches(Sequence[Tensor]):
    """All pictures in order, as batches of `batch_size` that are read when they are asked for."""

    def __init__(self, pictures: PictureFiles, batch_size: int) -> None:
        self.pictures, self.batch_size = pictures, batch_size

    def __len__(self) -> int:
        return -(-len(self.pictures) // self.batch_size)

    def __getitem__(self, index: Any) -> Any:
        rows = range(len(self.pictures))[index * self.batch_size : (index + 1) * self.batch_size]
        if not rows or index < 0:
            raise IndexError(index)
        return self.pictures.read(rows)


class ShuffledPictures(EpochBatches):
    """Train batches (B, 3, H, W) uint8 in the order of seed and epoch; with `flip` half of them mirrored."""

    def __init__(
        self, pictures: PictureFiles, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, flip: bool = False
    ) -> None:
        super().__init__(len(pictures), batch_size, seed, rank, world_size)
        self.pictures, self.flip = pictures, flip

    def batches(self, first: int) -> Iterator[Tensor]:
        for index, rows in self.rows(first):
            images = self.pictures.read(rows.tolist())
            if self.flip:
                random = torch.Generator().manual_seed(((self.seed or 0) * 100_003 + self.epoch) * 1_000_003 + index)
                mirrored = torch.randint(0, 2, (len(images), 1, 1, 1), generator=random) == 1
                images = torch.where(mirrored, images.flip(-1), images)
            yield images


class FolderDataModule(pl.LightningDataModule):
    """Pictures below `root`, without labels: one batch at a time in memory.

    `resolution` is the side of the square that is cut out of their middle and shrunk to; None takes them as they are,
    all of one size. Raises LaceError for sizes below 1, and when pictures are asked for and there are none.
    """

    def __init__(
        self,
        root: str | None = None,
        resolution: int | None = None,
        batch_size: int = 64,
        flip: bool = False,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"resolution": resolution, "batch_size": batch_size, "limit": limit}.items():
            if value is not None and value < 1:
                raise LaceError(f"dataset.module.{name} must be at least 1, received {value}.")
        self.root, self.resolution, self.batch_size, self.flip, self.seed, self.limit = (
            root,
            resolution,
            batch_size,
            flip,
            seed,
            limit,
        )

    @property
    def at_hand(self) -> bool:
        """Whether a folder has been given."""
        return self.root is not None

    @cached_property
    def pictures(self) -> PictureFiles:
        if self.root is None:
            raise LaceError("A folder of pictures is needed and none is given: set dataset.module.root to it.")
        return PictureFiles(picture_files(self.root)[: self.limit], self.resolution)

    @property
    def source(self) -> dict[str, Any]:
        """What the pictures depend on: names, sizes and dates of the files, and what is done to them.

        And their shape.
        """
        files = self.pictures.files
        folder = Path(self.root or "").expanduser()
        known = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        resize = (
            "none"
            if self.resolution is None
            else f"square in the middle, Lanczos to {self.resolution}x{self.resolution}"
        )
        return {"count": len(files), "files": digest(known), "shape": list(self.pictures.shape), "resize": resize}

    def train_pictures(self) -> PictureBatches:
        """Return all pictures, as batches that are read one at a time."""
        return PictureBatches(self.pictures, self.batch_size)

    def train_dataloader(self) -> ShuffledPictures:
        return ShuffledPictures(self.pictures, self.batch_size, self.seed, flip=self.flip).within(self.trainer)
