"""Base class of data sets of pictures: the interface that metrics, classifiers and generators use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..artifacts import digest
from ..errors import LaceError
from ..schema import Schema
from .augmentation import AugmentedBatches
from .batches import EpochBatches, strided_rows

# Pictures (N, C, H, W) uint8, or batches of them that are read one at a time.
Pictures = Tensor | Sequence[Tensor]
# (pictures,), (pictures, labels) or (pictures, labels, known): (N, C, H, W) uint8, (N, K) float, (N, K) bool.
Split = tuple[Tensor, ...]


class PictureData(pl.LightningDataModule):
    """Base class of data sets of pictures: give `schema` and `load()`, and everything else follows.

    `load()` returns the splits `train`, `val` and `test` (the last two are optional, and each stands in for the other)
    as (pictures,), (pictures, labels) or (pictures, labels, known). Pictures are (N, C, H, W) uint8; labels are (N, K),
    class numbers or values in [0, 1], in the order of `schema`; known is (N, K) bool. `schema` is None for unlabelled
    pictures. From these follow

    - `splits`, `split(name)` and `labelled(name)`: the checked content of `load()`, loaded once;
    - `train_pictures()` and `some_pictures(count)`: pictures without labels, for Fréchet distances and previews;
    - `source`: plain values that all train pictures depend on, and their "shape"; a key of measurements on them;
    - `at_hand`: whether the pictures can be had without further settings;
    - `train_dataloader()`, with augmentation, and `val_dataloader()` and `test_dataloader()`, without.

    Override `source` where a digest of all pictures takes long, `at_hand` where a setting can be missing, and the
    methods that return pictures where they are not held in memory.

    Args:
        batch_size: pictures of a train batch, at least 1.
        test_batch_size: pictures of a validation or test batch, at least 1.
        seed: seed of the order and the augmentation of train pictures, at least 0.
        flip: whether train pictures are mirrored with probability 1/2.
        pad: largest shift of train pictures in pixels, at least 0.
        cutout: side of the grey square in train pictures in pixels, at least 0; 0 for none.
        limit: take about this many pictures of every split, at evenly spaced rows, at least 1; null for all.

    Raises:
        LaceError: when a size is out of range; when `load()` is missing or returns something else; when labels or a
            split are asked for that the data set does not have.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> class Shades(PictureData):
        ...     schema = Schema("shades", (Attribute("bright"),))
        ...     def load(self):
        ...         pictures = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 8, 8)
        ...         labels = (torch.arange(200) >= 100).float()[:, None]
        ...         return {"train": (pictures[::2], labels[::2]), "test": (pictures[1::2], labels[1::2])}
        >>> data = Shades(batch_size=10, flip=True)
        >>> [tuple(part.shape) for part in next(iter(data.train_dataloader()))]
        [(10, 3, 8, 8), (10, 1)]
        >>> data.source["shape"], tuple(data.train_pictures().shape)
        ([3, 8, 8], (100, 3, 8, 8))
    """

    schema: Schema | None = None

    def __init__(
        self,
        batch_size: int = 256,
        test_batch_size: int = 500,
        seed: int = 0,
        flip: bool = False,
        pad: int = 0,
        cutout: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "test_batch_size": test_batch_size, "limit": limit}.items():
            if value is not None and value < 1:
                raise LaceError(f"dataset.module.{name} must be at least 1, received {value}.")
        for name, value in {"pad": pad, "cutout": cutout, "seed": seed}.items():
            if value < 0:
                raise LaceError(f"dataset.module.{name} must be at least 0, received {value}.")
        self.batch_size, self.test_batch_size, self.seed = batch_size, test_batch_size, seed
        self.flip, self.pad, self.cutout, self.limit = flip, pad, cutout, limit

    @property
    def title(self) -> str:
        """Name of the data set in messages: its schema's, or its class's."""
        return type(self).__name__ if self.schema is None else self.schema.name

    def load(self) -> Mapping[str, Split]:
        """Return the splits by name; subclasses implement it.

        Returns:
            `train`, and where they exist `val` and `test`, as the class describes.

        Raises:
            LaceError: when a subclass does not implement it.
        """
        raise LaceError(
            f"The data set {self.title} must give its pictures, and {type(self).__name__} has no method load: write "
            "load(self), which returns {'train': (pictures, labels), 'test': (pictures, labels)}."
        )

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """What `load()` returns, checked and cut to `limit`; empty where pictures are only read batch by batch."""
        loaded = self.load()
        if not isinstance(loaded, Mapping) or "train" not in loaded:
            received = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
            raise LaceError(
                f"load() of the data set {self.title} must return a mapping with the split 'train', and returned "
                f"{received or 'an empty one'}: return {{'train': (pictures, labels)}}."
            )
        return {name: self._limited(self._checked(name, split)) for name, split in loaded.items()}

    def _checked(self, name: str, split: Any) -> Split:
        """Return a split with labels in float32, after checking shapes, types and ranges."""

        def refuse(required: str, received: Any) -> LaceError:
            return LaceError(
                f"The split '{name}' of the data set {self.title} must have {required}, received {received}: correct "
                f"load() of {type(self).__name__}."
            )

        parts = tuple(split) if isinstance(split, (tuple, list)) else (split,)
        if not 1 <= len(parts) <= 3 or not all(isinstance(part, Tensor) for part in parts):
            raise refuse("tensors (pictures, labels[, known])", [type(part).__name__ for part in parts])
        pictures, *rest = parts
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or not len(pictures):
            raise refuse("pictures (N, C, H, W) uint8 with N at least 1", f"{tuple(pictures.shape)} {pictures.dtype}")
        if self.schema is None:
            if rest:
                raise refuse("labels only where the data set has a schema", "labels without one")
            return (pictures,)
        shape = (len(pictures), len(self.schema))
        if not rest or tuple(rest[0].shape) != shape:
            raise refuse(f"labels of shape {shape}", tuple(rest[0].shape) if rest else "none")
        if len(rest) == 2 and (tuple(rest[1].shape) != shape or rest[1].dtype != torch.bool):
            raise refuse(f"known of shape {shape} and type bool", f"{tuple(rest[1].shape)} {rest[1].dtype}")
        labels = rest[0].float()
        for column, attribute in enumerate(self.schema):
            values = labels[:, column] if len(rest) == 1 else labels[rest[1][:, column], column]
            high, kind = (1, "values") if attribute.kind == "continuous" else (attribute.num_classes - 1, "classes")
            whole = attribute.kind == "continuous" or bool((values == values.round()).all())
            # A comparison with NaN is false.
            if not (whole and bool(((values >= 0) & (values <= high)).all())):
                raise refuse(f"{kind} of '{attribute.name}' from 0 to {high}", f"{values.min():g} to {values.max():g}")
        return (pictures, labels, *rest[1:])

    def _limited(self, split: Split) -> Split:
        """Return about `limit` rows of a split; one that `load()` has already cut stays as it is."""
        if self.limit is None or len(split[0]) < 2 * self.limit:
            return split
        rows = strided_rows(len(split[0]), self.limit)
        return tuple(part[rows] for part in split)

    def split(self, name: str) -> Split:
        """Return a split by name.

        Args:
            name: `train`, `val` or `test`.

        Returns:
            (pictures,), (pictures, labels) or (pictures, labels, known); see the class.

        Raises:
            LaceError: when the data set has no such split.
        """
        if name not in self.splits:
            raise LaceError(
                f"The data set {self.title} has no split '{name}' (it has {', '.join(self.splits) or 'none'}), and it "
                "is needed here: choose another dataset, or return the split from its load()."
            )
        return self.splits[name]

    def require_schema(self) -> Schema:
        """Return the schema of the labels.

        Raises:
            LaceError: when the pictures have no labels.
        """
        if self.schema is None:
            raise LaceError(
                f"The data set {self.title} has no labels, and a classifier needs them: choose a labelled one "
                "(dataset=cifar10, celeba or portraits), or give the data set a schema and labels."
            )
        return self.schema

    def labelled(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return a split with its labels, whether or not some of them are unknown.

        Args:
            name: `train`, `val` or `test`.

        Returns:
            Pictures (N, C, H, W) uint8, labels (N, K) float32 and known (N, K) bool.

        Raises:
            LaceError: when the pictures have no labels, or there is no such split.
        """
        self.require_schema()
        pictures, labels, *known = self.split(name)
        return pictures, labels, known[0] if known else torch.ones_like(labels, dtype=torch.bool)

    @property
    def at_hand(self) -> bool:
        """Whether the pictures can be had without further settings; here always."""
        return True

    @property
    def source(self) -> Mapping[str, Any]:
        """Plain values that all train pictures depend on, with their "shape" [C, H, W]; here a digest of them."""
        pictures = self.split("train")[0]
        return {"data": self.title, "pictures": digest(pictures), "shape": list(pictures.shape[1:])}

    def train_pictures(self) -> Pictures:
        """Return all train pictures without augmentation, in order.

        Returns:
            Pictures (N, C, H, W) uint8, or a sequence of such batches where they are not held in memory.
        """
        return self.split("train")[0]

    def some_pictures(self, count: int) -> Tensor:
        """Return some train pictures, at evenly spaced rows.

        Args:
            count: about how many, at least 1.

        Returns:
            Pictures (M, C, H, W) uint8; M is less than 2·`count`.
        """
        pictures = self.split("train")[0]
        return pictures[strided_rows(len(pictures), count)]

    def prepare_data(self) -> None:
        """Load the pictures in the first process alone, so that the others find them in the cache."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load the pictures.

        Args:
            stage: Lightning's name of the stage, which changes nothing.
        """
        _ = self.splits

    def batches(self, name: str, batch_size: int, seed: int | None = None, augment: bool = False) -> EpochBatches:
        """Return the batches of a split.

        Args:
            name: `train`, `val` or `test`.
            batch_size: pictures of a batch, at least 1.
            seed: seed of the order; None keeps the order of the rows.
            augment: whether pictures are mirrored, shifted and covered as the data set's settings say.

        Returns:
            A data loader; its batches are as `AugmentedBatches` describes.

        Raises:
            LaceError: when there is no such split.
        """
        pictures, *rest = self.split(name)
        labels, known = [*rest, None, None][:2]
        changes: dict[str, Any] = {"pad": self.pad, "flip": self.flip, "cutout": self.cutout} if augment else {}
        return AugmentedBatches(pictures, labels, batch_size, seed, known=known, **changes)

    def train_dataloader(self) -> EpochBatches:
        """Return shuffled and augmented batches of the train split."""
        return self.batches("train", self.batch_size, self.seed, augment=True).within(self.trainer)

    def val_dataloader(self) -> EpochBatches:
        """Return batches of the split `val`, or of `test` where there is no `val`, in order."""
        return self.batches("val" if "val" in self.splits else "test", self.test_batch_size)

    def test_dataloader(self) -> EpochBatches:
        """Return batches of the split `test`, or of `val` where there is no `test`, in order."""
        return self.batches("test" if "test" in self.splits else "val", self.test_batch_size)
