"""A generator's own pictures as a data set: what Fréchet distances are measured to where no photographs are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..generators import Generator
from ..seeds import RunSeeds


class GeneratedBatches(Sequence[Tensor]):
    """Pictures (B, C, H, W) uint8 of samples of the prior in order, drawn when they are asked for."""

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


class GeneratedPicturesDataModule(pl.LightningDataModule):
    """`count` pictures of a generator, without labels: one batch at a time in memory; picture i depends on `seed` and i
    alone.

    The paper measures FID on faces so: against pictures of the generator without a condition.
    """

    at_hand = True

    def __init__(self, generator: Generator, count: int = 1000, seed: int = 0, batch_size: int = 50) -> None:
        super().__init__()
        self.generator, self.total, self.seed, self.batch_size = generator, count, seed + RunSeeds.REFERENCE, batch_size

    @property
    def source(self) -> dict[str, Any]:
        """What the pictures depend on, and their shape."""
        return {
            "generator": self.generator.digest,
            "count": self.total,
            "seed": self.seed,
            "shape": list(self.generator.image_shape),
        }

    def train_pictures(self) -> GeneratedBatches:
        """Return all pictures, as batches that are drawn one at a time."""
        if torch.cuda.is_available():
            self.generator.to("cuda")
        return GeneratedBatches(self.generator, self.total, self.seed, self.batch_size)
