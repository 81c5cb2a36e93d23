"""Pictures in a folder, read as they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
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
from .augmentation import mirror
from .batches import EpochBatches, strided_rows
from .picture_data import PictureData, Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_files(root: str | os.PathLike[str]) -> list[Path]:
    """Return the pictures in a folder and in its folders, sorted by their path, without hidden ones.

    Args:
        root: the folder.

    Returns:
        Paths of at least one PNG, JPEG or WebP file.

    Raises:
        LaceError: when there is no folder or no picture in it.
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
    """Return a picture in RGB, cut and shrunk to a resolution where one is given.

    Grey pictures of 16 bits are scaled by their range: 65535 becomes 255. Transparent pictures are composited on white:
    a colour c with opacity a becomes a·c + (1 - a)·255, and colours under full transparency are not seen.

    Args:
        path: the file.
        resolution: side in pixels to which the square in the middle is shrunk by Lanczos' filter, at least 1; None for
            the picture as it is.

    Returns:
        A picture (3, H, W) uint8.

    Raises:
        LaceError: when the file cannot be read, or would have to be enlarged.
    """
    try:
        with Image.open(path) as opened:
            image = in_rgb(ImageOps.exif_transpose(opened))
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
            f"{array.shape[1]}x{array.shape[0]}: set dataset.module.resolution to at most that."
        )
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def in_rgb(image: Image.Image) -> Image.Image:
    """Return a picture of 8 bits in RGB, on white where it is transparent.

    Args:
        image: a picture of any mode; one of 16 bits is scaled by its range.

    Example:
        >>> in_rgb(Image.new("CMYK", (2, 2))).getpixel((0, 0))
        (255, 255, 255)
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255.
        levels = (np.asarray(image).astype(np.int64) * 255 + 32767) // 65535
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


class PictureFiles:
    """Pictures in files, decoded in threads when they are read; all must have one size.

    Args:
        files: the files, at least one.
        resolution: side in pixels to which the square in the middle is shrunk, at least 1; None for pictures as they
            are.

    Example:
        >>> len(PictureFiles([Path("a.png"), Path("b.png")]))
        2
    """

    def __init__(self, files: Sequence[Path], resolution: int | None = None) -> None:
        self.files, self.resolution = files, resolution

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return some of the pictures.

        Args:
            rows: numbers of files, at least one.

        Returns:
            Pictures (B, 3, H, W) uint8.

        Raises:
            LaceError: when a file cannot be read, is too small, or has another size than the first.
        """
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
    """All pictures in order, as batches (B, 3, H, W) uint8 that are decoded when they are read.

    Args:
        pictures: the files.
        batch_size: pictures of a batch, at least 1; the last batch may be shorter.

    Example:
        >>> len(PictureBatches(PictureFiles([Path("a.png"), Path("b.png"), Path("c.png")]), 2))
        2
    """

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
    """Train batches (B, 3, H, W) uint8 of pictures in files, shuffled by seed and epoch.

    Args:
        pictures: the files.
        batch_size: pictures of a batch, at least 1.
        seed: seed of the order and of the mirror images, at least 0.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.
        flip: whether every picture is mirrored with probability 1/2.

    Example:
        >>> len(ShuffledPictures(PictureFiles([Path("a.png"), Path("b.png"), Path("c.png")]), 2, seed=0))
        1
    """

    def __init__(
        self, pictures: PictureFiles, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, flip: bool = False
    ) -> None:
        super().__init__(len(pictures), batch_size, seed, rank, world_size)
        self.pictures, self.flip = pictures, flip

    def batches(self, first: int) -> Iterator[Tensor]:
        """Yield the batches; see `EpochBatches.batches`.

        Args:
            first: number of the first batch among those of this process, at least 0.
        """
        for index, rows in self.rows(first):
            images = self.pictures.read(rows.tolist())
            if self.flip:
                random = torch.Generator().manual_seed(((self.seed or 0) * 100_003 + self.epoch) * 1_000_003 + index)
                images = mirror(images, torch.randint(0, 2, (len(images),), generator=random) == 1)
            yield images


class FolderDataModule(PictureData):
    """Pictures in a folder and in its folders (PNG, JPEG, WebP), without labels: one batch at a time in memory.

    Grey pictures become three equal channels, those of 16 bits are scaled to 8, and transparent ones are laid on white
    (see `read_picture`).

    Args:
        root: folder of pictures; null for none.
        resolution: side in pixels to which the square in the middle is shrunk, at least 1; null takes pictures as they
            are, all of one size.
        batch_size: pictures of a batch, at least 1.
        flip: whether train pictures are mirrored with probability 1/2.
        seed: seed of the order and the mirror images of train pictures, at least 0.
        limit: take the first pictures, this many, at least 1; null for all.

    Raises:
        LaceError: when a size is out of range; when pictures are asked for and there are none, or labels are asked for.

    Example:
        >>> data = FolderDataModule()
        >>> data.at_hand, data.schema is None
        (False, True)
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
        super().__init__(batch_size, batch_size, seed, flip, limit=limit)
        if resolution is not None and resolution < 1:
            raise LaceError(
                f"dataset.module.resolution must be at least 1, received {resolution}: set it to null for pictures as "
                "they are."
            )
        self.root, self.resolution = root, resolution

    @property
    def splits(self) -> Mapping[str, Split]:
        """No splits: pictures are read batch by batch."""
        return {}

    @property
    def at_hand(self) -> bool:
        """Whether a folder has been given."""
        return self.root is not None

    @cached_property
    def pictures(self) -> PictureFiles:
        """The files. Raises LaceError when there are none."""
        if self.root is None:
            raise LaceError("A folder of pictures is needed and none is given: set dataset.module.root to it.")
        return PictureFiles(picture_files(self.root)[: self.limit], self.resolution)

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the pictures depend on, and their "shape".

        They are names, sizes and dates of the files, and how pictures are resized.
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

    def some_pictures(self, count: int) -> Tensor:
        """Return about `count` pictures (M, 3, H, W) uint8, at evenly spaced rows."""
        return self.pictures.read(strided_rows(len(self.pictures), count).tolist())

    def train_dataloader(self) -> ShuffledPictures:
        """Return shuffled batches of pictures alone, for training a generator."""
        return ShuffledPictures(self.pictures, self.batch_size, self.seed, flip=self.flip).within(self.trainer)

    # Lightning takes its own methods for absent ones: a generator's training has neither validation nor test.
    val_dataloader = pl.LightningDataModule.val_dataloader
    test_dataloader = pl.LightningDataModule.test_dataloader
