"""Faces with the paper's twelve attributes, of which a data set may know a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..errors import LaceError
from ..portraits import PORTRAITS_SCHEMA
from ..schema import Labels, Schema
from .cifar10 import AugmentedBatches, strided_rows

# Real faces have the attributes of the rendered ones. Colours of hair are numbers: StyleFlow's pairs do not say which
# is which (CelebA's are numbered as those of portraits).
FACES_SCHEMA = Schema(
    "faces", tuple(replace(a, class_names=()) if a.name == "haircolor" else a for a in PORTRAITS_SCHEMA)
)
# A mirror turns the head and the light from the side; light0 is how bright it is from everywhere (of spherical
# harmonics the first is constant and the fourth goes from left to right).
MIRRORED = ("yaw", "light3")

# Pictures (N, 3, R, R) uint8, labels (N, K), known (N, K) bool.
Faces = tuple[Tensor, Tensor, Tensor]


class FaceBatches(AugmentedBatches):
    """Batches (pictures uint8 (B, 3, R, R), labels (B, K), known (B, K)).

    `mirrored` gives the attributes that a mirror turns round, each with its value for straight ahead, c: where a
    picture is mirrored their labels v are 2c - v.
    """

    def __init__(
        self,
        pictures: Tensor,
        labels: Labels,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        pad: int = 0,
        flip: bool = False,
        mirrored: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(pictures, labels.values, batch_size, seed, rank, world_size, pad, flip)
        self.known, mirrored = labels.known, mirrored or {}
        self.turned = torch.tensor([name in mirrored for name in labels.schema.names])
        self.twice = torch.tensor([2 * mirrored.get(name, 0.0) for name in labels.schema.names])

    def batches(self, first: int) -> Iterator[Faces]:
        for index, rows in self.rows(first):
            pictures, flipped = self.augmented(index, rows)
            labels = self.labels[rows]
            yield (
                pictures,
                torch.where(flipped[:, None] & self.turned, (self.twice - labels).clamp(0, 1), labels),
                self.known[rows],
            )


class FacesDataModule(pl.LightningDataModule):
    """Faces for training image networks: the splits train, val and test that a subclass loads, train batches with
    augmentation.

    `attributes` chooses a part of the schema (None: all of it). Train pictures are mirrored at random with `flip`, with
    the labels of the attributes `mirrored` as far on the other side of their mean (faces look to both sides alike), and
    shifted by up to `pad`; `seed` decides their order. Raises LaceError for an unknown attribute, and for a mirrored
    one that is discrete.
    """

    def __init__(
        self,
        schema: Schema,
        attributes: Sequence[str] | None = None,
        batch_size: int = 256,
        test_batch_size: int = 500,
        seed: int = 0,
        flip: bool = True,
        pad: int = 0,
        mirrored: Sequence[str] = MIRRORED,
    ) -> None:
        super().__init__()
        self.schema = schema if attributes is None else schema.part(attributes)
        self.batch_size, self.test_batch_size, self.seed = batch_size, test_batch_size, seed
        self.flip, self.pad, self.mirrored = flip, pad, tuple(mirrored)
        for name in self.mirrored:
            if name in self.schema.names and self.schema[name].kind == "discrete":
                raise LaceError(
                    f"A mirrored attribute must be continuous (it changes sides), and '{name}' is discrete: leave it "
                    f"out of "
                    "dataset.module.mirrored."
                )
        self.splits: dict[str, Faces] = {}

    def load(self) -> dict[str, Faces]:
        """Return the splits, after making what is not there yet."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        # In the first process alone; the others find what it made.
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        self.splits = self.splits or self.load()

    def chosen(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """Return values and known (N, K) of the attributes of this schema."""
        columns = [labels.schema.index(name) for name in self.schema.names]
        return labels.values[:, columns], labels.known[:, columns]

    @property
    def at_hand(self) -> bool:
        """Whether the pictures can be had."""
        return True

    def train_pictures(self) -> Tensor:
        """Return the pictures (N, 3, R, R) uint8 of the train split."""
        self.setup()
        return self.splits["train"][0]

    def some_pictures(self, count: int) -> Tensor:
        """Return about `count` pictures (uint8) of the train split."""
        pictures = self.train_pictures()
        return pictures[strided_rows(len(pictures), count)]

    def _batches(
        self, split: str, batch_size: int, seed: int | None = None, flip: bool = False, pad: int = 0
    ) -> FaceBatches:
        pictures, values, known = self.splits[split]
        return FaceBatches(
            pictures, Labels(self.schema, values, known), batch_size, seed, pad=pad, flip=flip, mirrored=self._middles
        )

    @property
    def _middles(self) -> dict[str, float]:
        """The mean of each mirrored attribute that the train split knows."""
        _, values, known = self.splits["train"]
        columns = {name: self.schema.index(name) for name in self.mirrored if name in self.schema.names}
        return {name: float(values[known[:, k], k].mean()) for name, k in columns.items() if known[:, k].any()}

    def train_dataloader(self) -> FaceBatches:
        return self._batches("train", self.batch_size, self.seed, self.flip, self.pad).within(self.trainer)

    def val_dataloader(self) -> FaceBatches:
        return self._batches("val", self.test_batch_size)

    def test_dataloader(self) -> FaceBatches:
        return self._batches("test", self.test_batch_size)
