"""Batches that come straight from memory, without worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class EpochBatches:
    """One epoch per iteration; with several processes each takes every n-th batch of the same order.

    With a `seed` the order is shuffled by seed and epoch, so that a resumed run goes on as it would have; Lightning sets the
    epoch. Without one the order is kept and the last batch may be short.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1) -> None:
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

    def __len__(self) -> int:
        if self.seed is None:
            return len(range(self.rank, -(-self.count // self.batch_size), self.world_size))
        # Training batches are all full (a set smaller than a batch is one), and every process has equally many.
        return max(1, self.count // self.batch_size // self.world_size)

    def rows(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of the batch, its rows)."""
        order = torch.arange(self.count)
        if self.seed is not None:
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed * 100_003 + self.epoch))
        for number in range(len(self)):
            index = number * self.world_size + self.rank
            yield index, order[index * self.batch_size : (index + 1) * self.batch_size]

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError


class TensorBatches(EpochBatches):
    """Tuples of rows of tensors; one gather an epoch instead of one a batch."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int, seed: int | None = None, rank: int = 0,
                 world_size: int = 1) -> None:
        super().__init__(len(tensors[0]), batch_size, seed, rank, world_size)
        self.tensors = tensors

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rows = [part for _, part in self.rows()]
        if not rows:
            return
        everything = torch.cat(rows)
        gathered = self.tensors if self.seed is None and self.world_size == 1 else tuple(t[everything] for t in self.tensors)
        yield from zip(*(tensor.split([len(part) for part in rows]) for tensor in gathered), strict=True)
