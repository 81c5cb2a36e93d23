"""A generator's own pictures as a data set: the reference of Fréchet distances without photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..errors import LaceError
from ..generators import Generator
from ..seeds import RunSeeds
from .batches import EpochBatches
from .picture_data import PictureData, Split


class GeneratedBatches(Sequence[Tensor]):
    """Batches of a generator's pictures (B, C, H, W) uint8 of samples of the prior, synthesised when they are read.

    Args:
        generator: the generator.
        count: number of pictures, at least 1.
        seed: seed of the prior; picture i depends on it and on i alone.
        batch_size: pictures of a batch, at least 1; the last batch may be shorter.

    Example:
        >>> from lace_lightning.generators import ModuleGenerator
        >>> module = torch.nn.Module()
        >>> module.mapping, module.synthesis = torch.nn.Linear(4, 6), torch.nn.Sequential(
        ...     torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 2, 2)))
        >>> generator = ModuleGenerator(module, 4, (3, 2, 2), 6, "mapping", "synthesis")
        >>> [len(batch) for batch in GeneratedBatches(generator, 5, seed=0, batch_size=2)]
        [2, 2, 1]
    """

    def __init__(self, generator: Generator, count: int, seed: int, batch_size: int) -> None:
        self.generator, self.total, self.seed, self.batch_size = generator, count, seed, batch_size

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    @torch.no_grad()
    def __getitem__(self, index: Any) -> Any:
        first = index * self.batch_size
        rows = min(self.batch_size, self.total - first)
        if rows <= 0 or index < 0:
            raise IndexError(index)
        return self.generator.pictures(
            self.generator.mapping(self.generator.prior(rows, self.seed, first, self.generator.device))
        ).cpu()


class GeneratedPicturesDataModule(PictureData):
    """Pictures of a generator without labels, one batch at a time in memory.

    Picture i depends on `seed` and i alone. The paper measures FID on faces so: against pictures of the generator
    without a condition.

    Args:
        generator: the generator.
        count: number of pictures, at least 1.
        seed: seed of the prior, at least 0; other than the samples and pairs of the same seed.
        batch_size: pictures that are synthesised together, at least 1.

    Raises:
        LaceError: when a size is out of range; when batches for training or labels are asked for.

    Example:
        >>> from lace_lightning.generators import ModuleGenerator
        >>> module = torch.nn.Module()
        >>> module.mapping, module.synthesis = torch.nn.Linear(4, 6), torch.nn.Sequential(
        ...     torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 2, 2)))
        >>> data = GeneratedPicturesDataModule(ModuleGenerator(module, 4, (3, 2, 2), 6, "mapping", "synthesis"), 5)
        >>> data.source["shape"], tuple(data.some_pictures(2).shape)
        ([3, 2, 2], (2, 3, 2, 2))
    """

    def __init__(self, generator: Generator, count: int = 1000, seed: int = 0, batch_size: int = 50) -> None:
        super().__init__(batch_size, batch_size, seed)
        if count < 1:
            raise LaceError(f"dataset.module.count must be at least 1, received {count}.")
        self.generator, self.total, self.seed = generator, count, seed + RunSeeds.REFERENCE

    @property
    def splits(self) -> Mapping[str, Split]:
        """No splits: pictures are read batch by batch."""
        return {}

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the pictures depend on, and their "shape"."""
        return {
            "generator": self.generator.digest,
            "count": self.total,
            "seed": self.seed,
            "shape": list(self.generator.image_shape),
        }

    def train_pictures(self) -> GeneratedBatches:
        """Return all pictures, as batches that are synthesised one at a time."""
        if torch.cuda.is_available():
            self.generator.to("cuda")
        return GeneratedBatches(self.generator, self.total, self.seed, self.batch_size)

    def some_pictures(self, count: int) -> Tensor:
        """Return the first `count` pictures (uint8), at most all."""
        return torch.cat(list(GeneratedBatches(self.generator, min(count, self.total), self.seed, self.batch_size)))

    def train_dataloader(self) -> EpochBatches:
        """Raise LaceError: a generator's own pictures are a reference of distances, not training data."""
        raise LaceError(
            "The data set generated has no batches to train on (it is the reference of Fréchet distances): choose "
            "another dataset."
        )

    val_dataloader = pl.LightningDataModule.val_dataloader
    test_dataloader = pl.LightningDataModule.test_dataloader
