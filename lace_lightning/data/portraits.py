"""Rendered portraits for training image networks: drawn as they are needed, never twice the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LaceError
from ..pictures.convert import from_bytes, to_bytes
from ..portraits import PORTRAITS_SCHEMA, render, sample_attributes, sample_identity
from ..seeds import SEED_STRIDE, SampleSeeds, Streams, normal, uniform
from .batches import EpochBatches, TensorBatches


def draw_people(seeds: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Return pictures (B, 3, R, R) uint8 and labels (B, 12) of the people with these seeds (B,) int64."""
    labels = sample_attributes(seeds)
    return to_bytes(render(labels, sample_identity(seeds), resolution)), labels.values


def degrade(pictures: Tensor, seeds: Tensor, share: float) -> Tensor:
    """Blur and speckle a `share` of the pictures (B, 3, R, R) uint8 and hide a part of as many, each as its seed (B,)
    says.

    Generators make pictures that are not clean, and whose parts do not always agree: a network that has seen this
    decides neither by single pixels nor by one part alone. Blur is a mix with the mean of 3x3 pixels, up to all of it;
    noise has a standard deviation of up to 0.15 in [-1, 1]; what is hidden is a square of one colour, a fifth to under
    half of the side.
    """
    size, u = pictures.shape[-1], uniform(seeds, (10,), Streams.DEGRADE)[:, :, None, None]
    which, blur, noise, hidden, side, top, left, colour = *u[:, :7, None].unbind(1), u[:, 7:]
    images = from_bytes(pictures)
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    speckle = normal(seeds, images.shape[1:], Streams.DEGRADE + 1) * 0.15 * noise.square()
    images = torch.where(which < share, torch.lerp(images, smooth, blur) + speckle, images)
    side = size * (0.2 + 0.25 * side)
    rows, columns = torch.arange(size)[:, None] + 0.5, torch.arange(size) + 0.5
    inside = ((rows - top * (size - side) - side / 2).abs() < side / 2) & (
        (columns - left * (size - side) - side / 2).abs() < side / 2
    )
    return to_bytes(torch.where(inside & (hidden < share), colour * 2 - 1, images))


class PortraitBatches(EpochBatches):
    """Batches of `draw_people`; row i of epoch e is the person with seed `first` + e·count + i. A share `degraded` is
    degraded.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        resolution: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        first: int = 0,
        degraded: float = 0.0,
    ) -> None:
        super().__init__(count, batch_size, seed, rank, world_size)
        self.resolution, self.first, self.degraded = resolution, first, degraded

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        start = self.first + self.epoch * self.count
        for _, rows in self.rows(first):
            pictures, labels = draw_people(start + rows, self.resolution)
            yield degrade(pictures, start + rows, self.degraded) if self.degraded else pictures, labels


class PortraitsDataModule(pl.LightningDataModule):
    """Portraits of `resolution` pixels a side: `count` new people an epoch, and always the same `test_count` for
    validation and test.

    `seed` separates the people of one training from those of another; a share `degraded` of the train pictures is
    blurred and speckled (see `degrade`). Raises LaceError for counts or sizes below 1.
    """

    schema = PORTRAITS_SCHEMA

    def __init__(
        self,
        resolution: int = 32,
        count: int = 50_000,
        test_count: int = 5000,
        batch_size: int = 256,
        test_batch_size: int = 500,
        seed: int = 0,
        degraded: float = 0.0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= degraded <= 1:
            raise LaceError(f"dataset.module.degraded is a share of the pictures, from 0 to 1, received {degraded}.")
        for name, value in {
            "resolution": resolution,
            "count": count,
            "test_count": test_count,
            "batch_size": batch_size,
        }.items():
            if value < 1:
                raise LaceError(f"dataset.module.{name} must be at least 1, received {value}.")
        self.resolution, self.seed, self.degraded = resolution, seed, degraded
        self.count, self.test_count = (min(count, limit), min(test_count, limit)) if limit else (count, test_count)
        self.batch_size, self.test_batch_size = batch_size, test_batch_size

    @property
    def first(self) -> int:
        """Seed of the first person that is trained on."""
        return self.seed * SEED_STRIDE

    @cached_property
    def splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Pictures and labels: `train` is what the first epoch shows, `test` is what is never trained on."""
        return {
            "train": draw_people(torch.arange(self.first, self.first + self.count), self.resolution),
            "test": self._test,
        }

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        first = SampleSeeds.TEST_PEOPLE
        return draw_people(torch.arange(first, first + self.test_count), self.resolution)

    @property
    def at_hand(self) -> bool:
        """Whether pictures can be had: always."""
        return True

    @property
    def source(self) -> dict[str, Any]:
        """What the train pictures depend on, and their shape."""
        return {"first": self.first, "count": self.count, "shape": [3, self.resolution, self.resolution]}

    def train_pictures(self) -> Tensor:
        """Return the pictures (count, 3, R, R) uint8 of the first epoch."""
        return self.splits["train"][0]

    def some_pictures(self, count: int) -> Tensor:
        """Return `count` pictures (uint8) of people that are trained on."""
        return draw_people(torch.arange(self.first, self.first + count), self.resolution)[0]

    def train_dataloader(self) -> PortraitBatches:
        return PortraitBatches(
            self.count, self.batch_size, self.resolution, self.seed, first=self.first, degraded=self.degraded
        ).within(self.trainer)

    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(self._test, self.test_batch_size)

    test_dataloader = val_dataloader


class PeopleBatches(EpochBatches):
    """Batches (pictures uint8 (B, 3, R, R), numbers of people (B,)): `per_person` pictures of each of `people`, an
    epoch.

    Person p has the identity of seed `first` + p and other attributes in every picture.
    """

    def __init__(
        self,
        people: int,
        per_person: int,
        batch_size: int,
        resolution: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        first: int = 0,
    ) -> None:
        super().__init__(people * per_person, batch_size, seed, rank, world_size)
        self.people, self.per_person, self.resolution, self.first = people, per_person, resolution, first

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        start = self.first + self.epoch * self.count
        for _, rows in self.rows(first):
            person = rows // self.per_person
            pictures = render(sample_attributes(start + rows), sample_identity(self.first + person), self.resolution)
            yield to_bytes(pictures), person


class PeopleDataModule(pl.LightningDataModule):
    """The same people under changing attributes, for training identity embeddings; other people for validation and
    test.
    """

    def __init__(
        self,
        resolution: int = 32,
        people: int = 1000,
        per_person: int = 40,
        test_people: int = 500,
        batch_size: int = 256,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.per_person, self.batch_size, self.seed = resolution, per_person, batch_size, seed
        self.people, self.test_people = (
            (min(people, limit), min(test_people, limit)) if limit else (people, test_people)
        )

    def train_dataloader(self) -> PeopleBatches:
        return PeopleBatches(
            self.people, self.per_person, self.batch_size, self.resolution, self.seed, first=self.seed * SEED_STRIDE
        ).within(self.trainer)

    def val_dataloader(self) -> PeopleBatches:
        return PeopleBatches(self.test_people, 2, 250, self.resolution, first=SampleSeeds.TEST_PEOPLE)

    test_dataloader = val_dataloader
