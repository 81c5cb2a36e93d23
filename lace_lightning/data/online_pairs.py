"""Pairs that are made while a training reads them, each for one step."""

from __future__ import annotations

from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..pictures.convert import from_bytes
from ..seeds import RunSeeds
from .batches import EpochBatches, TensorBatches
from .pairs import LatentPairsDataModule

# Added to the seed of the pairs: neither they, nor those that are steered, nor samples begin at the same latents.
FRESH_SEEDS = RunSeeds.FRESH


class FreshBatches(EpochBatches):
    """Batches (u, target, known) of fresh pairs, synthesised and labelled when they are read, with some stored pairs.

    An epoch is the next `count` pairs of a stream of latents of the prior; sample i of the stream depends on `seed` and
    i alone. With several processes each makes every n-th batch. Targets are as those of `data`.

    Args:
        generator: the generator.
        labeler: the labeler of its pictures.
        data: stored pairs, which give space, attributes and kind of targets.
        count: fresh pairs of an epoch, at least 1.
        batch_size: fresh pairs of a batch, at least 1.
        seed: seed of the prior.
        num_stored: random train pairs of `data` in every batch, at least 0.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.

    Example:
        >>> issubclass(FreshBatches, EpochBatches)
        True
    """

    def __init__(
        self,
        generator: Generator,
        labeler: Labeler,
        data: LatentPairsDataModule,
        count: int,
        batch_size: int,
        seed: int,
        num_stored: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(count, batch_size, seed, rank, world_size)
        self.generator, self.labeler, self.data, self.num_stored = generator, labeler, data, num_stored

    def batches(self, first: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches; see `EpochBatches.batches`.

        Args:
            first: number of the first batch among those of this process, at least 0.
        """
        batches = len(self) * self.world_size
        stored = self.data.parts["train"]
        order = torch.Generator().manual_seed(self.data.seed * 100_003 + self.epoch)
        rows = torch.randint(len(stored[0]), (batches, self.num_stored), generator=order)
        for number in range(first * self.world_size + self.rank, batches, self.world_size):
            fresh = self.pairs((self.epoch * batches + number) * self.batch_size)
            yield tuple(torch.cat([new, old[rows[number]].to(new)]) for new, old in zip(fresh, stored, strict=True))

    @torch.no_grad()
    def pairs(self, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fresh pairs of one batch.

        Args:
            first: number of its first sample in the stream, at least 0.

        Returns:
            u (B, D), targets (B, K) or (B, L), and known (B, K) bool.
        """
        z = self.generator.prior(self.batch_size, self.seed or 0, first, self.generator.device)
        w = self.generator.mapping(z)
        # The labeler sees pictures of 8 bits, as it does where they are stored.
        logits = torch.cat([self.labeler(from_bytes(part)) for part in self.generator.parts(w)])
        labels = self.labeler.decide(logits)
        target = logits.nan_to_num(0.0) if self.data.soft else labels.values
        known = labels.known[:, [self.labeler.schema.index(name) for name in self.data.schema.names]]
        space = self.data.space
        u = self.generator.features_of(w) if space == "features" else {"z": z, "w": w}[space]
        return u, target[:, self.data.columns], known


class FreshPairsDataModule(pl.LightningDataModule):
    """Train on fresh pairs, in ten epochs; validation and test are the stored pairs.

    Args:
        data: stored pairs of latents, which also fill the rest of every batch.
        generator: the generator.
        labeler: the labeler of its pictures.
        count: number of fresh pairs of the training, at least 1; it is rounded up to equal batches.
        share: share of fresh pairs in every batch, above 0 and at most 1.

    Raises:
        LaceError: when `data` holds pictures (space x), or the share is out of range.

    Example:
        >>> FreshPairsDataModule.epochs
        10
    """

    # A killed training continues at the beginning of an epoch.
    epochs = 10

    def __init__(
        self, data: LatentPairsDataModule, generator: Generator, labeler: Labeler, count: int, share: float = 1.0
    ) -> None:
        super().__init__()
        if data.space == "x":
            raise LaceError(
                "Fresh pairs need a classifier of latents (space w or z), received one of pictures (space x): set "
                "classifier.fresh_pairs=0."
            )
        if not 0 < share <= 1:
            raise LaceError(
                f"The share of fresh pairs in a batch must lie above 0 and be at most 1, received {share}: set "
                "classifier.fresh_share=0.0625."
            )
        self.data, self.generator, self.labeler, self.count, self.share = data, generator, labeler, count, share

    def setup(self, stage: str | None = None) -> None:
        """Read the stored pairs.

        Args:
            stage: Lightning's name of the stage, which changes nothing.
        """
        self.data.setup(stage)

    def train_dataloader(self) -> FreshBatches:
        """Return batches of fresh and stored pairs."""
        world, device = (
            (self.trainer.world_size, self.trainer.strategy.root_device) if self.trainer else (1, self.generator.device)
        )
        wanted = max(1, round(self.share * self.data.batch_size))
        # Equal batches of at most the wanted size, so that nothing is left over.
        each = -(-self.count // self.epochs)
        steps = -(-each // (world * wanted))
        size = -(-each // (world * steps))
        return FreshBatches(
            self.generator.to(device),
            self.labeler.to(device),
            self.data,
            steps * size * world,
            size,
            self.data.pairs.seed + FRESH_SEEDS,
            self.data.batch_size - wanted,
        ).within(self.trainer)

    def val_dataloader(self) -> TensorBatches:
        """Return the stored validation pairs in order."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> TensorBatches:
        """Return the stored test pairs in order."""
        return self.data.test_dataloader()
