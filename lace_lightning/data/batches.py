"""Batches from memory, without worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor


def strided_rows(size: int, count: int) -> Tensor:
    """Return about `count` of `size` row numbers at even distances.

    Archives are sorted by class, and a part of one must have all classes.

    Args:
        size: number of rows to choose from, at least 0.
        count: number of rows wanted, at least 1.

    Returns:
        Row numbers (M,) int64 in ascending order; M is from `count` to 2·`count` - 1, or `size` where that is smaller.

    Example:
        >>> strided_rows(10, 3).tolist()
        [0, 3, 6, 9]
    """
    return torch.arange(size)[:: max(1, size // count)]


# No batch is made smaller than this for the sake of more steps.
FEWEST_ROWS = 16


def batch_size_of_steps(count: int, batch_size: int, epochs: int, min_steps: int) -> int:
    """Return the size of the batches with which a number of epochs has at least `min_steps` steps.

    Args:
        count: number of rows of an epoch, at least 0.
        batch_size: the size that was asked for and that is never exceeded, at least 1.
        epochs: number of epochs, at least 1.
        min_steps: number of steps, at least 0; 0 for any.

    Returns:
        `batch_size` where that gives enough steps. Elsewhere a smaller size, but no batch has fewer than 16 rows: very
        few rows give fewer steps.

    Example:
        >>> batch_size_of_steps(48000, 512, 30, 500), batch_size_of_steps(1600, 512, 30, 500)
        (512, 94)
    """
    if min_steps <= 0 or max(1, count // batch_size) * epochs >= min_steps:
        return batch_size
    return min(batch_size, max(FEWEST_ROWS, count // -(-min_steps // epochs)))


class EpochBatches:
    """Base class of data loaders: one epoch per iteration, shared by the processes of a training.

    With a `seed` the order is shuffled by seed and epoch (Lightning sets the epoch), every batch is full, and every
    process has equally many. Without one the order is that of the rows and the last batch may be short. Process r of n
    takes batches r, r + n, ... of the same order. A training that was killed continues in the middle of an epoch with
    the batches that it would have had (see `within`). Subclasses implement `batches`.

    Args:
        count: number of rows of an epoch, at least 1.
        batch_size: rows of a batch, at least 1.
        seed: seed of the order, at least 0; None keeps the order of the rows.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.

    Example:
        >>> class Numbers(EpochBatches):
        ...     def batches(self, first):
        ...         yield from (rows.tolist() for _, rows in self.rows(first))
        >>> list(Numbers(5, 2))
        [[0, 1], [2, 3], [4]]
        >>> list(Numbers(5, 2, rank=1, world_size=2))
        [[2, 3]]
        >>> len(Numbers(5, 2, seed=0))
        2
    """

    trainer: pl.Trainer | None = None

    def __init__(
        self, count: int, batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.world_size = count, batch_size, seed, rank, world_size
        self.epoch = 0

    # Lightning reads both, and calls `set_epoch` of the one that is not None.
    batch_sampler = None

    @property
    def sampler(self) -> EpochBatches:
        """The object itself, which has the method `set_epoch` that Lightning looks for."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration.

        Args:
            epoch: number of the epoch, at least 0.
        """
        self.epoch = epoch

    def within(self, trainer: pl.Trainer | None) -> Self:
        """Take this process's part of a training, and start at the batch at which the training continues.

        Args:
            trainer: the trainer that iterates; None for all batches from the first.

        Returns:
            This object.
        """
        if trainer is not None:
            self.trainer, self.rank, self.world_size = trainer, trainer.global_rank, trainer.world_size
        return self

    # Lightning refuses to continue in the middle of an epoch with loaders that lack these two. Their content is not
    # used: see `__iter__`.
    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: all that matters is in the state of Lightning's loop."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Ignore a state that `state_dict` returned.

        Args:
            state: an empty mapping.
        """

    def __len__(self) -> int:
        if self.seed is None:
            return len(range(self.rank, -(-self.count // self.batch_size), self.world_size))
        # Training batches are all full (a set smaller than a batch is one), and every process has equally many.
        return max(1, self.count // self.batch_size // self.world_size)

    def rows(self, first: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the numbers and rows of this process's batches of the epoch.

        Args:
            first: number of the first batch among those of this process, at least 0.

        Returns:
            An iterator over (number of the batch among those of all processes, its rows (B,) int64).
        """
        order = torch.arange(self.count)
        if self.seed is not None:
            order = torch.randperm(
                self.count, generator=torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            )
        for number in range(first, len(self)):
            index = number * self.world_size + self.rank
            yield index, order[index * self.batch_size : (index + 1) * self.batch_size]

    def batches(self, first: int) -> Iterator[Any]:
        """Yield this process's batches of the epoch from number `first` on; a batch does not depend on `first`.

        Args:
            first: number of the first batch among those of this process, at least 0.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        # Where the training continues is read from `trainer.fit_loop`, whose class is private to Lightning (2.x). The
        # two public ways do not give exact resumes:
        # - `load_state_dict` above is called in `fit_loop.setup_data`, once, and only if the loop has its state by
        #   then. A schedule that needs the length of the training (training/learning_rates.py, and Lightning's own
        #   `trainer.estimated_stepping_batches`) sets the loaders up while the optimisers are configured, which is
        #   before the loop's state is restored: the loaders' state is then dropped without a word.
        # - A state of the data module would have to count batches by itself. Lightning fetches one batch ahead of the
        #   one that is trained on, so such a count is ahead of the weights in the same checkpoint; only the loop
        #   counts the batches that the weights have seen.
        # This is read with the first batch, not in `within`: `restarting` is set when the checkpoint is restored and
        # cleared after the first epoch.
        continued = self.trainer is not None and self.trainer.fit_loop.restarting
        yield from self.batches(self.trainer.fit_loop.batch_idx + 1 if self.trainer and continued else 0)


class TensorBatches(EpochBatches):
    """Batches of rows of tensors, gathered once an epoch instead of once a batch.

    Args:
        tensors: tensors (N, ...) of equally many rows.
        batch_size: rows of a batch, at least 1.
        seed: seed of the order, at least 0; None keeps the order of the rows.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.

    Example:
        >>> [x.tolist() for x, _ in TensorBatches((torch.arange(5), torch.zeros(5)), 2)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self, tensors: tuple[Tensor, ...], batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(tensors[0]), batch_size, seed, rank, world_size)
        self.tensors = tensors

    def batches(self, first: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield tuples of rows (B, ...) of the tensors; see `EpochBatches.batches`.

        Args:
            first: number of the first batch among those of this process, at least 0.
        """
        rows = [part for _, part in self.rows(first)]
        if not rows:
            return
        everything = torch.cat(rows)
        gathered = (
            self.tensors
            if self.seed is None and self.world_size == 1 and first == 0
            else tuple(t[everything] for t in self.tensors)
        )
        sizes = [len(part) for part in rows]
        yield from zip(*(torch.split(tensor, sizes) for tensor in gathered), strict=True)
