"""Batches that come straight from memory, without worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor


class EpochBatches:
    """One epoch per iteration; with several processes each takes every n-th batch of the same order.

    With a `seed` the order is shuffled by seed and epoch; Lightning sets the epoch. Without one the order is kept and
    the last batch may be short. A training that was killed goes on in the middle of an epoch with the batches that it
    would have had (see `within`). Subclasses give `batches`.
    """

    trainer: pl.Trainer | None = None

    def __init__(
        self, count: int, batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.world_size = count, batch_size, seed, rank, world_size
        self.epoch = 0

    # Lightning looks for both, and tells the epoch to the one that is there.
    batch_sampler = None

    @property
    def sampler(self) -> EpochBatches:
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def within(self, trainer: pl.Trainer | None) -> Self:
        """Take this process's part of a training, and begin where it goes on; without a trainer all of it, from the
        beginning.
        """
        if trainer is not None:
            self.trainer, self.rank, self.world_size = trainer, trainer.global_rank, trainer.world_size
        return self

    # Lightning takes what has both for able to go on. It loads no state where an optimiser's schedule has asked for the
    # length of the training, and counts the batches of an epoch itself.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def __len__(self) -> int:
        if self.seed is None:
            return len(range(self.rank, -(-self.count // self.batch_size), self.world_size))
        # Training batches are all full (a set smaller than a batch is one), and every process has equally many.
        return max(1, self.count // self.batch_size // self.world_size)

    def rows(self, first: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of the batch among those of all processes, its rows), from batch `first` of this process on."""
        order = torch.arange(self.count)
        if self.seed is not None:
            order = torch.randperm(
                self.count, generator=torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            )
        for number in range(first, len(self)):
            index = number * self.world_size + self.rank
            yield index, order[index * self.batch_size : (index + 1) * self.batch_size]

    def batches(self, first: int) -> Iterator[Any]:
        """Yield the batches of the epoch from number `first` on, as they are whatever came before."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        # Only with the first batch, when Lightning has set the epoch and its loop still says whether it goes on from a
        # checkpoint.
        going_on = self.trainer is not None and self.trainer.fit_loop.restarting
        yield from self.batches(self.trainer.fit_loop.batch_idx + 1 if self.trainer and going_on else 0)


class TensorBatches(EpochBatches):
    """Tuples of rows of tensors; one gather an epoch instead of one a batch."""

    def __init__(
        self, tensors: tuple[Tensor, ...], batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(tensors[0]), batch_size, seed, rank, world_size)
        self.tensors = tensors

    def batches(self, first: int) -> Iterator[tuple[Tensor, ...]]:
        rows = [part for _, part in self.rows(first)]
        if not rows:
            return
        everything = torch.cat(rows)
        gathered = (
            self.tensors
            if self.seed is None and self.world_size == 1 and first == 0
            else tuple(t[everything] for t in self.tensors)
        )
        yield from zip(*(tensor.split([len(part) for part in rows]) for tensor in gathered), strict=True)
