"""CelebA: strict reading of its tables, decoding once, labels of faces where it has them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..artifacts import digest
from ..cache import Cache
from ..errors import LaceError
from ..portraits import PORTRAITS_SCHEMA
from ..schema import Labels
from .batches import strided_rows
from .faces import FACES_SCHEMA, FacesDataModule
from .picture_data import Split
from .resumable_arrays import IMAGES, fill, open_rows

SPLITS = ("train", "val", "test")
# Pixels of an aligned picture, width and height.
SIZE = (178, 218)
# Left, top and side of the square in the middle.
MIDDLE = (0, 20, 178)
# Pictures that are decoded between two savings.
BATCH = 500
# Where published archives and torchvision put the files.
PLACES = ("", "celeba", "Anno", "Eval", "Img")
# CelebA's attribute Young has two values: a network learns an order of ages from it and no years.
YOUNG, OLD = 0.4, 0.7
# CelebA's columns of the hair colours, by class; red has none.
HAIR = {"black": "Black_Hair", "brown": "Brown_Hair", "blond": "Blond_Hair", "grey": "Gray_Hair"}


def read_table(path: Path, columns: int | None = None) -> tuple[list[str], list[str], Tensor]:
    """Read a table of CelebA.

    Args:
        path: the file.
        columns: number of values of a row; None where the table begins with its number of rows and the names of its
            columns.

    Returns:
        Column names (none where `columns` is given), picture names, and values (N, K) int64.

    Raises:
        LaceError: with the line, when the number of rows or values is another, a value is no integer, or a name comes
            twice.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LaceError(
            f"The table '{path}' of CelebA was required and could not be read ({error}): get the file again."
        ) from error

    def refuse(required: str, received: str) -> LaceError:
        return LaceError(f"The table '{path}' of CelebA must have {required}, received {received}: get the file again.")

    names: list[str] = []
    start = 0 if columns is not None else 2
    if columns is None:
        if len(lines) < 2 or not lines[0].strip().isdigit():
            raise refuse(
                "its number of pictures in the first line and its attributes in the second",
                f"'{''.join(lines[:1])[:40]}'",
            )
        names = lines[1].split()
        if int(lines[0]) != len(lines) - 2:
            raise refuse(f"the {int(lines[0])} rows that it announces", f"{len(lines) - 2}")
    width = len(names) if columns is None else columns
    pictures: list[str] = []
    values: list[int] = []
    for number, line in enumerate(lines[start:], start + 1):
        name, *texts = line.split() or [""]
        try:
            values += map(int, texts)
        except ValueError:
            texts = []
        if len(texts) != width:
            raise refuse(f"a picture and {width} integers in every line", f"'{line[:60]}' in line {number}")
        pictures.append(name)
    if len(set(pictures)) != len(pictures):
        raise refuse("every picture once", f"{len(pictures) - len(set(pictures))} that come again")
    return names, pictures, torch.tensor(values, dtype=torch.int64).reshape(len(pictures), width)


def face_labels(names: Sequence[str], values: Tensor) -> Labels:
    """Return labels of `FACES_SCHEMA` from CelebA's attributes.

    Smile, glasses, gender and beard are CelebA's (the last inverted). A hair colour is known where exactly one is
    ticked. Bald is 1 or 0, from which the squared error learns a probability; age is `YOUNG` or `OLD`. Attributes that
    CelebA lacks, such as yaw and light, are not known.

    Args:
        names: CelebA's names of the K columns.
        values: -1 or 1, (N, K) int64.

    Returns:
        Labels of N pictures.

    Raises:
        LaceError: when an attribute is missing or a value is another.

    Example:
        >>> names = ["Smiling", "Eyeglasses", "Male", "No_Beard", "Young", "Bald", *HAIR.values()]
        >>> face_labels(names, torch.ones(1, len(names), dtype=torch.int64)).column("beard").tolist()
        [0.0]
    """
    missing = [
        name
        for name in ("Smiling", "Eyeglasses", "Male", "No_Beard", "Young", "Bald", *HAIR.values())
        if name not in names
    ]
    if missing:
        raise LaceError(
            f"Labels of faces need CelebA's attribute {missing[0]}, and the table has {', '.join(names)}: get the file "
            "again."
        )
    if not ((values == 1) | (values == -1)).all():
        other = values[(values != 1) & (values != -1)][0]
        raise LaceError(f"CelebA's attributes are -1 or 1, received {int(other)}: get the file again.")
    column = {name: values[:, index] == 1 for index, name in enumerate(names)}
    hair = torch.stack([column[name] for name in HAIR.values()], dim=1)
    classes = torch.tensor([PORTRAITS_SCHEMA["haircolor"].class_index(name) for name in HAIR])
    result = Labels.constant(
        FACES_SCHEMA,
        len(values),
        smile=column["Smiling"],
        glasses=column["Eyeglasses"],
        gender=column["Male"],
        beard=~column["No_Beard"],
        haircolor=classes[hair.long().argmax(1)],
        age=torch.where(column["Young"], YOUNG, OLD),
        bald=column["Bald"],
    )
    result.known[:, FACES_SCHEMA.index("haircolor")] = hair.sum(1) == 1
    return result


class CelebADataModule(FacesDataModule):
    """CelebA's aligned pictures with labels of `FACES_SCHEMA`, in the published splits, decoded once into the cache.

    Args:
        root: folder with `img_align_celeba` (a folder or a zip), `list_attr_celeba.txt` and `list_eval_partition.txt`,
            in it or in the folders of the publication (Img, Anno, Eval) or of torchvision (celeba); null for none.
        resolution: side of the pictures in pixels, at least 1.
        cache: folder of the cache, in which the decoded pictures are kept (10 GB at 128 pixels).
        box: left, top and side of the square that is shown, in pixels of 178 x 218.
        limit: take about this many pictures of every split, at least 1; null for all.
        progress: whether a progress bar is shown while pictures are decoded.
        attributes: names of the attributes that are used; null for all.
        batch_size: pictures of a train batch, at least 1.
        test_batch_size: pictures of a validation or test batch, at least 1.
        seed: seed of the order and the augmentation of train pictures, at least 0.
        flip: whether train pictures are mirrored with probability 1/2.
        pad: largest shift of train pictures in pixels, from 0 to `resolution` - 1.
        mirrored: continuous attributes that a mirror turns round (yaw and light3).
        options: the further arguments of `FacesDataModule`, from `attributes` to `mirrored` of this list.

    Raises:
        LaceError: when the box leaves the picture, a size is out of range or an attribute is unknown; when the pictures
            are asked for and files are missing or damaged, or the tables do not agree.

    Example:
        >>> data = CelebADataModule(attributes=["smile", "age"])
        >>> data.at_hand, data.schema.names
        (False, ('smile', 'age'))
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        resolution: int = 128,
        cache: str = "~/.cache/lace_lightning",
        box: Sequence[int] = MIDDLE,
        limit: int | None = None,
        progress: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(FACES_SCHEMA, **options)
        left, top, side = (int(value) for value in box)
        if resolution < 1 or side < 1 or min(left, top) < 0 or left + side > SIZE[0] or top + side > SIZE[1]:
            raise LaceError(
                f"A box must be left, top and side of a square in pictures of {SIZE[0]}x{SIZE[1]} and a resolution at "
                f"least 1, received {[left, top, side]} and {resolution}: take {list(MIDDLE)} and 128."
            )
        self.root = None if root is None else Path(root).expanduser()
        self.resolution, self.box, self.cache = resolution, (left, top, side), cache
        self.limit, self.progress = limit, progress

    @property
    def at_hand(self) -> bool:
        """Whether the pictures have been given."""
        return self.root is not None

    def _find(self, *names: str) -> Path:
        """Return the first of these files or folders that is there."""
        if self.root is None:
            raise LaceError(
                "The pictures of CelebA are needed and are not shipped: set dataset.module.root (or LACE_CELEBA) to "
                "the folder with img_align_celeba, list_attr_celeba.txt and list_eval_partition.txt."
            )
        for name in names:
            for place in PLACES:
                if (self.root / place / name).exists():
                    return self.root / place / name
        raise LaceError(
            f"CelebA needs {' or '.join(names)} in '{self.root}' (or in its {', '.join(PLACES[1:])}), and it is not "
            "there: set dataset.module.root to the folder with img_align_celeba, list_attr_celeba.txt and "
            "list_eval_partition.txt."
        )

    @cached_property
    def table(self) -> tuple[list[str], Labels, Tensor]:
        """Names of the pictures, their labels, and the number of each one's split (N,)."""
        attributes, partition = self._find("list_attr_celeba.txt"), self._find("list_eval_partition.txt")
        names, pictures, values = read_table(attributes)
        _, others, splits = read_table(partition, 1)
        if others != pictures:
            raise LaceError(
                f"The tables '{attributes}' and '{partition}' must list the same pictures in one order, received "
                f"{len(pictures)} and {len(others)} that differ: get the files again."
            )
        if not ((splits >= 0) & (splits < len(SPLITS))).all():
            raise LaceError(
                f"The splits in '{partition}' are 0, 1 and 2, received {int(splits.max())}: get the file again."
            )
        return pictures, face_labels(names, values), splits[:, 0]

    def load(self) -> dict[str, Split]:
        """Return the splits `train`, `val` and `test`; decode the pictures that are not in the cache."""
        names, labels, splits = self.table
        parts = {split: (splits == number).nonzero()[:, 0] for number, split in enumerate(SPLITS)}
        for split, rows in parts.items():
            if not len(rows):
                raise LaceError(
                    f"CelebA's split {split} must have pictures, and in '{self.root}' it has none: get "
                    "list_eval_partition.txt again."
                )
            parts[split] = rows[strided_rows(len(rows), self.limit)] if self.limit else rows
        return {
            split: (self._pictures(split, [names[row] for row in rows.tolist()]), *self.chosen(labels[rows]))
            for split, rows in parts.items()
        }

    def _pictures(self, split: str, names: list[str]) -> Tensor:
        """Return the pictures (N, 3, R, R) uint8, memory-mapped, after decoding what is not in the cache."""
        entry = Cache(self.cache).entry(
            "celeba",
            {
                "split": split,
                "names": digest(names),
                "files": _stamp(self.files),
                "box": self.box,
                "resolution": self.resolution,
            },
        )
        entry.describe()

        def make(count: int, first: int) -> dict[str, Tensor]:
            return {IMAGES: torch.stack([self._decode(name) for name in names[first : first + count]])}

        shapes = {IMAGES: (3, self.resolution, self.resolution)}
        folder = fill(
            entry.folder,
            {"key": entry.key, "count": len(names)},
            shapes,
            make,
            BATCH,
            f"decoding CelebA ({split})",
            self.progress,
        )
        return torch.from_numpy(open_rows(folder, IMAGES))

    def _decode(self, name: str) -> Tensor:
        left, top, side = self.box
        try:
            with Image.open(io.BytesIO(self._read(name))) as picture:
                if picture.size != SIZE:
                    raise LaceError(
                        f"Aligned pictures of CelebA are {SIZE[0]}x{SIZE[1]}, and '{name}' in '{self.files}' is "
                        f"{picture.width}x{picture.height}: give img_align_celeba."
                    )
                # Bilinear is antialiased in Pillow; cut first, or the filter reaches beyond the box.
                square = picture.convert("RGB").crop((left, top, left + side, top + side))
                square = square.resize((self.resolution, self.resolution), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise LaceError(
                f"The picture '{name}' in '{self.files}' could not be read ({error}): get it again."
            ) from error
        return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())

    @cached_property
    def files(self) -> Path:
        """The folder or the zip with the pictures."""
        return self._find("img_align_celeba", "img_align_celeba.zip")

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the train pictures depend on, and their "shape"."""
        return {
            "split": "train",
            "files": _stamp(self.files),
            "partition": _stamp(self._find("list_eval_partition.txt")),
            "limit": self.limit,
            "resize": f"box {list(self.box)}, bilinear to {self.resolution}x{self.resolution}",
            "shape": [3, self.resolution, self.resolution],
        }

    def _read(self, name: str) -> bytes:
        return (
            (self.files / name).read_bytes()
            if self._archive is None
            else self._archive.read(f"img_align_celeba/{name}")
        )

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        if self.files.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.files)
        except (zipfile.BadZipFile, OSError) as error:
            raise LaceError(
                f"'{self.files}' must be a zip archive and is not ({error}): get the file again."
            ) from error


def _stamp(path: Path) -> list[int]:
    """Return size and time of the last change, by which a file or a folder is told from an earlier one."""
    return [path.stat().st_size, path.stat().st_mtime_ns]
