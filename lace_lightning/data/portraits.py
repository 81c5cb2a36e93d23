"""Rendered portraits for training image networks: rendered when batches are read, new people in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LaceError
from ..pictures.convert import from_bytes, to_bytes
from ..portraits import PORTRAITS_SCHEMA, render, sample_attributes, sample_identity
from ..schema import Schema
from ..seeds import SEED_STRIDE, SampleSeeds, Streams, normal, uniform
from .batches import EpochBatches, TensorBatches
from .picture_data import PictureData, Split


def draw_people(seeds: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Draw people by their seeds.

    Args:
        seeds: one seed for each person (B,) int64.
        resolution: side of the pictures in pixels, at least 8.

    Returns:
        Pictures (B, 3, R, R) uint8 and labels (B, 12) of `PORTRAITS_SCHEMA`.

    Example:
        >>> pictures, labels = draw_people(torch.arange(2), 16)
        >>> tuple(pictures.shape), tuple(labels.shape)
        ((2, 3, 16, 16), (2, 12))
    """
    labels = sample_attributes(seeds)
    return to_bytes(render(labels, sample_identity(seeds), resolution)), labels.values


def degrade(pictures: Tensor, seeds: Tensor, share: float) -> Tensor:
    """Blur and speckle a share of the pictures, and hide a part of as many.

    Generators make pictures that are not clean, and whose parts do not always agree. A network that has seen such
    pictures decides neither by single pixels nor by one part alone. Blur is a mix with the mean of 3x3 pixels, by up
    to 1; noise has a standard deviation of up to 0.15 in [-1, 1]; the hidden part is a square of one colour, from a
    fifth to under half of the side.

    Args:
        pictures: pictures (B, 3, R, R) uint8.
        seeds: one seed for each picture (B,) int64, which decides everything.
        share: probability of blur and noise, and of a hidden part, from 0 to 1.

    Returns:
        Pictures (B, 3, R, R) uint8.

    Example:
        >>> pictures, _ = draw_people(torch.arange(4), 16)
        >>> torch.equal(degrade(pictures, torch.arange(4), 0.0), pictures)
        True
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
    """Batches (pictures (B, 3, R, R) uint8, labels (B, 12)) of people that are drawn when they are read.

    Row i of epoch e is the person with seed `first` + e·`count` + i.

    Args:
        count: people of an epoch, at least 1.
        batch_size: people of a batch, at least 1.
        resolution: side of the pictures in pixels, at least 8.
        seed: seed of the order, at least 0; None keeps the order of the rows.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.
        first: seed of the first person.
        degraded: share of the pictures that is degraded (see `degrade`), from 0 to 1.

    Example:
        >>> [len(pictures) for pictures, _ in PortraitBatches(5, 2, 16)]
        [2, 2, 1]
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
        """Yield the batches; see `EpochBatches.batches`.

        Args:
            first: number of the first batch among those of this process, at least 0.
        """
        start = self.first + self.epoch * self.count
        for _, rows in self.rows(first):
            pictures, labels = draw_people(start + rows, self.resolution)
            yield degrade(pictures, start + rows, self.degraded) if self.degraded else pictures, labels


def _at_least_1(**sizes: int) -> None:
    """Raise LaceError for a size below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise LaceError(f"dataset.module.{name} must be at least 1, received {value}.")


class PortraitsDataModule(PictureData):
    """Rendered portraits with twelve attributes: new people in every epoch, the same for every validation and test.

    Args:
        resolution: side of the pictures in pixels, at least 8.
        count: people of an epoch, at least 1.
        test_count: people of validation and test, at least 1.
        batch_size: people of a train batch, at least 1.
        test_batch_size: people of a validation or test batch, at least 1.
        seed: separates the people of one training from those of another, and decides their order, at least 0.
        degraded: share of the train pictures that is blurred, speckled or partly hidden (see `degrade`), from 0 to 1.
        limit: upper bound of `count` and `test_count`, at least 1; null for none.

    Raises:
        LaceError: when a size or a share is out of range.

    Example:
        >>> data = PortraitsDataModule(resolution=16, count=4, test_count=2, batch_size=2)
        >>> [tuple(part.shape) for part in next(iter(data.train_dataloader()))]
        [(2, 3, 16, 16), (2, 12)]
    """

    schema: Schema = PORTRAITS_SCHEMA

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
        super().__init__(batch_size, test_batch_size, seed, limit=limit)
        if not 0 <= degraded <= 1:
            raise LaceError(f"dataset.module.degraded is a share of the pictures, from 0 to 1, received {degraded}.")
        _at_least_1(resolution=resolution, count=count, test_count=test_count)
        self.resolution, self.degraded = resolution, degraded
        self.count, self.test_count = (min(count, limit), min(test_count, limit)) if limit else (count, test_count)

    @property
    def first(self) -> int:
        """Seed of the first person that is trained on."""
        return self.seed * SEED_STRIDE

    def load(self) -> dict[str, Split]:
        """Return `train`, the people of the first epoch, and `test`, people that are never trained on."""
        people = torch.arange(self.first, self.first + self.count)
        return {"train": draw_people(people, self.resolution), "test": self._test}

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        first = SampleSeeds.TEST_PEOPLE
        return draw_people(torch.arange(first, first + self.test_count), self.resolution)

    def setup(self, stage: str | None = None) -> None:
        """Do nothing: people are drawn when batches are read.

        Args:
            stage: Lightning's name of the stage, which changes nothing.
        """

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the train pictures depend on, and their "shape"."""
        return {"first": self.first, "count": self.count, "shape": [3, self.resolution, self.resolution]}

    def some_pictures(self, count: int) -> Tensor:
        """Return `count` pictures (uint8) of people that are trained on, or all of them where there are fewer."""
        return draw_people(torch.arange(self.first, self.first + min(count, self.count)), self.resolution)[0]

    def train_dataloader(self) -> PortraitBatches:
        """Return shuffled batches of new people in every epoch."""
        return PortraitBatches(
            self.count, self.batch_size, self.resolution, self.seed, first=self.first, degraded=self.degraded
        ).within(self.trainer)

    def val_dataloader(self) -> TensorBatches:
        """Return batches of people that are never trained on, in order."""
        return TensorBatches(self._test, self.test_batch_size)

    test_dataloader = val_dataloader


class PeopleBatches(EpochBatches):
    """Batches (pictures (B, 3, R, R) uint8, numbers of people (B,) int64): several pictures of every person an epoch.

    Person p has the identity of seed `first` + p and other attributes in every picture.

    Args:
        people: number of people, at least 1.
        per_person: pictures of a person in an epoch, at least 1.
        batch_size: pictures of a batch, at least 1.
        resolution: side of the pictures in pixels, at least 8.
        seed: seed of the order, at least 0; None keeps the order of the rows.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.
        first: seed of the first person.

    Example:
        >>> [people.tolist() for _, people in PeopleBatches(2, 2, 2, 16)]
        [[0, 0], [1, 1]]
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
        """Yield the batches; see `EpochBatches.batches`.

        Args:
            first: number of the first batch among those of this process, at least 0.
        """
        start = self.first + self.epoch * self.count
        for _, rows in self.rows(first):
            person = rows // self.per_person
            pictures = render(sample_attributes(start + rows), sample_identity(self.first + person), self.resolution)
            yield to_bytes(pictures), person


class PeopleDataModule(PictureData):
    """The same people under changing attributes, for training identity embeddings; others for validation and test.

    The batches are those of `PeopleBatches`; the pictures have no labels of attributes.

    Args:
        resolution: side of the pictures in pixels, at least 8.
        people: people that are trained on, at least 1.
        per_person: pictures of a person in an epoch, at least 1.
        test_people: people of validation and test, two pictures each, at least 1.
        batch_size: pictures of a train batch, at least 1.
        seed: separates the people of one training from those of another, and decides the order, at least 0.
        limit: upper bound of `people` and `test_people`, at least 1; null for none.

    Raises:
        LaceError: when a size is out of range; when labels are asked for.

    Example:
        >>> data = PeopleDataModule(resolution=16, people=2, per_person=3)
        >>> tuple(data.train_pictures().shape), data.source["shape"]
        ((6, 3, 16, 16), [3, 16, 16])
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
        super().__init__(batch_size, 250, seed, limit=limit)
        _at_least_1(resolution=resolution, people=people, per_person=per_person, test_people=test_people)
        self.resolution, self.per_person = resolution, per_person
        self.people, self.test_people = (
            (min(people, limit), min(test_people, limit)) if limit else (people, test_people)
        )

    @property
    def first(self) -> int:
        """Seed of the first person that is trained on."""
        return self.seed * 2**32

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """The pictures of the first epoch as `train`, and those of other people as `test`, without labels."""
        train = PeopleBatches(self.people, self.per_person, self.batch_size, self.resolution, first=self.first)
        loaders = {"train": train, "test": self.test_dataloader()}
        return {name: (torch.cat([pictures for pictures, _ in loader]),) for name, loader in loaders.items()}

    def setup(self, stage: str | None = None) -> None:
        """Do nothing: people are drawn when batches are read.

        Args:
            stage: Lightning's name of the stage, which changes nothing.
        """

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the train pictures depend on, and their "shape"."""
        return {
            "first": self.first,
            "people": self.people,
            "per_person": self.per_person,
            "shape": [3, self.resolution, self.resolution],
        }

    def train_dataloader(self) -> PeopleBatches:
        """Return shuffled batches of the people that are trained on, with new attributes in every epoch."""
        return PeopleBatches(
            self.people, self.per_person, self.batch_size, self.resolution, self.seed, first=self.first
        ).within(self.trainer)

    def val_dataloader(self) -> PeopleBatches:
        """Return two pictures of every person of validation and test, in order."""
        return PeopleBatches(self.test_people, 2, self.test_batch_size, self.resolution, first=SampleSeeds.TEST_PEOPLE)

    test_dataloader = val_dataloader
