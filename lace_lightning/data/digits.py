"""MNIST: handwritten digits on 32x32 pixels, with slant, thickness and width computed from the pictures."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import LaceError
from ..labelers.digits import DIGITS_SCHEMA
from ..pictures.convert import from_bytes
from ..pictures.strokes import NAMES, strokes_of
from .picture_data import PictureData, Split

# Beginning of the names of both files of a split, number of pictures, and beginning of the SHA-256 of their pixels. The
# unpacked files have the MD5 6bbc9ace898e44ae57da46a324031adb and 2646ac647ad5339dbf082846283269ea, as published.
FILES = {"train": ("train", 60_000, "741c988805d008ac"), "test": ("t10k", 10_000, "6d87418db22cc802")}
# Pictures have 28x28 pixels; networks halve the side several times.
MARGIN = 2
# Pictures at the end of the train split that training leaves out.
VALIDATION = 5000


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return the array of bytes in a file of the IDX format, packed by gzip or not.

    Args:
        path: the file.

    Raises:
        LaceError: when the file cannot be read, or does not hold an array of bytes.

    References:
        http://yann.lecun.com/exdb/mnist

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "two.idx")
        ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 6]))
        ...     read_idx(file).tolist()
        [5, 6]
    """
    try:
        content = Path(path).read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, ValueError) as error:
        raise LaceError(f"'{path}' could not be read ({error}): get the file again.") from error
    dimensions = content[3] if len(content) > 3 else 0
    sizes = np.frombuffer(content[4 : 4 + 4 * dimensions], ">u4").astype(int)
    body = content[4 + 4 * dimensions :]
    if content[:3] != b"\x00\x00\x08" or len(sizes) != dimensions or len(body) != int(np.prod(sizes)):
        raise LaceError(
            f"'{path}' must be an IDX file of bytes, and its head or its length says otherwise: get the file again."
        )
    return np.frombuffer(body, np.uint8).reshape(sizes)


def load_digits(root: str | os.PathLike[str], split: str) -> tuple[Tensor, Tensor]:
    """Return the pictures and classes of a split of MNIST.

    Args:
        root: folder with the four files, packed by gzip or not.
        split: `train` or `test`.

    Returns:
        Pictures (N, 1, 32, 32) uint8, with a dark margin of two pixels, and classes (N,) int64.

    Raises:
        LaceError: when the split is another, a file is missing or cannot be read, or is not that of MNIST.
    """
    if split not in FILES:
        raise LaceError(f"MNIST has the splits train and test, received '{split}': choose one of them.")
    name, count, known = FILES[split]
    pictures = read_idx(_file(root, f"{name}-images-idx3-ubyte"))
    classes = read_idx(_file(root, f"{name}-labels-idx1-ubyte"))
    received = hashlib.sha256(pictures.tobytes()).hexdigest()
    if not received.startswith(known) or classes.shape != (count,):
        raise LaceError(
            f"'{root}' must hold the {count} pictures of MNIST ({split}) as they were published, and holds an array of "
            f"shape {pictures.shape} with the checksum {received[:16]}, and {len(classes)} labels: get the files again."
        )
    padded = F.pad(torch.from_numpy(pictures.copy())[:, None], (MARGIN,) * 4)
    return padded, torch.from_numpy(classes.astype(np.int64))


def _file(root: str | os.PathLike[str], name: str) -> Path:
    """Return a file by its name without `.gz`. Raises LaceError where there is none."""
    folder = Path(root).expanduser()
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise LaceError(
        f"The file '{folder / name}' or the same with .gz was required and does not exist: set dataset.module.root to "
        "a folder with the four files of MNIST, or dataset.module.root=null dataset.module.download=true to fetch them."
    )


class DigitsDataModule(PictureData):
    """MNIST for training image networks, with a margin that makes 32x32 of 28x28.

    Labels are the class, and slant, thickness and width computed from the pictures. The split `val` is the last 5,000
    of the 60,000 train pictures, so that nothing is chosen by the test split.

    Args:
        root: folder with the four files of MNIST, packed by gzip or not; null where `download` fetches them.
        cache: folder of the cache, which a download goes to.
        download: whether torchvision may fetch the pictures where `root` is null.
        attributes: names of the attributes; null for all: label, slant, thickness, width.
        batch_size: pictures of a train batch, at least 1.
        test_batch_size: pictures of a validation or test batch, at least 1.
        seed: seed of the order and the augmentation of train pictures, at least 0.
        pad: largest shift of train pictures in pixels, from 0 to 31.
        limit: take about this many pictures of every split for training, at least 1; null for all.

    Raises:
        LaceError: when a size is out of range or an attribute unknown; when the pictures are asked for and there are
            none, or other ones.

    Example:
        >>> data = DigitsDataModule(attributes=["label"])
        >>> data.at_hand, data.schema.names
        (False, ('label',))
    """

    def __init__(
        self,
        root: str | None = None,
        cache: str = "~/.cache/lace_lightning",
        download: bool = False,
        attributes: Sequence[str] | None = None,
        batch_size: int = 256,
        test_batch_size: int = 500,
        seed: int = 0,
        pad: int = 2,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, test_batch_size, seed, flip=False, pad=pad, limit=limit)
        self.root, self.cache, self.download = root, cache, download
        self.schema = DIGITS_SCHEMA if attributes is None else DIGITS_SCHEMA.part(list(attributes))

    @property
    def at_hand(self) -> bool:
        """Whether the pictures have been given or may be fetched."""
        return self.root is not None or self.download

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the train pictures depend on, and their "shape"."""
        return {"data": "mnist", "pixels": FILES["train"][2], "left_out": VALIDATION, "shape": [1, 32, 32]}

    def load(self) -> dict[str, Split]:
        """Return the splits `train`, `val` and `test`: pictures (N, 1, 32, 32) uint8 and labels (N, K)."""
        pictures, labels = self._labelled("train")
        return {
            "train": (pictures[:-VALIDATION], labels[:-VALIDATION]),
            "val": (pictures[-VALIDATION:], labels[-VALIDATION:]),
            "test": self._labelled("test"),
        }

    def train_pictures(self) -> Tensor:
        """Return the pictures (55000, 1, 32, 32) uint8 of the split `train`, whatever `limit` is."""
        return load_digits(self._folder(), "train")[0][:-VALIDATION]

    def _labelled(self, split: str) -> tuple[Tensor, Tensor]:
        pictures, classes = load_digits(self._folder(), split)
        strokes = torch.cat([strokes_of(from_bytes(part)) for part in pictures.split(5000)])
        columns = {"label": classes.float(), **dict(zip(NAMES, strokes.unbind(1), strict=True))}
        return pictures, torch.stack([columns[name] for name in self.schema.names], 1)  # type: ignore[union-attr]

    def _folder(self) -> Path:
        if self.root is not None:
            return Path(self.root)
        if not self.download:
            raise LaceError(
                "The pictures of MNIST are needed and are not shipped: set dataset.module.root to a folder with its "
                "four files, or dataset.module.download=true to fetch them."
            )
        from torchvision.datasets import MNIST

        folder = Path(self.cache).expanduser() / "mnist"
        try:
            MNIST(str(folder), download=True)
        except (OSError, RuntimeError) as error:
            raise LaceError(
                f"MNIST could not be downloaded ({error}): set dataset.module.root to a folder with its four files."
            ) from error
        return folder / "MNIST" / "raw"
