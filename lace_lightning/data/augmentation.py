"""Random changes of training pictures: mirror images, shifts, cutout; and the batches that apply them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .batches import EpochBatches


def mirror(pictures: Tensor, flipped: Tensor) -> Tensor:
    """Return the pictures with some of them mirrored from left to right.

    Args:
        pictures: pictures (B, C, H, W).
        flipped: which of them are mirrored (B,) bool.

    Returns:
        Pictures (B, C, H, W).

    Example:
        >>> mirror(torch.tensor([[[[1, 2]]], [[[1, 2]]]]), torch.tensor([True, False])).flatten(1).tolist()
        [[2, 1], [1, 2]]
    """
    return torch.where(flipped[:, None, None, None], pictures.flip(-1), pictures)


def shift(pictures: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Return the pictures moved by whole pixels; the reflection of a picture fills its edge.

    Args:
        pictures: square pictures (B, C, R, R).
        down: pixels (B,) int64 by which the window moves down, from -(R - 1) to R - 1.
        right: pixels (B,) int64 by which the window moves to the right, from -(R - 1) to R - 1.

    Returns:
        Pictures (B, C, R, R).

    Example:
        >>> shift(torch.arange(9).reshape(1, 1, 3, 3), torch.tensor([0]), torch.tensor([1]))[0, 0, 0].tolist()
        [1, 2, 1]
    """
    size = pictures.shape[-1]

    def source(offset: Tensor) -> Tensor:
        return size - 1 - ((offset[:, None] + torch.arange(size)).abs() - (size - 1)).abs()

    moved = pictures.gather(2, source(down)[:, None, :, None].expand_as(pictures))
    return moved.gather(3, source(right)[:, None, None].expand_as(pictures))


def cutout(pictures: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return the pictures with a grey square in each.

    Args:
        pictures: square pictures (B, C, R, R) uint8.
        corners: row and column of the upper left corner of each square (2, B) int64, from 0 to R - `side`.
        side: side of the square in pixels, from 1 to R.

    Returns:
        Pictures (B, C, R, R) uint8, 127 inside the square.

    References:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.

    Example:
        >>> cutout(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([[0], [1]]), 1)[0, 0].tolist()
        [[0, 127], [0, 0]]
    """
    grid = torch.arange(pictures.shape[-1])
    inside = (grid >= corners[..., None]) & (grid < corners[..., None] + side)
    return pictures.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 127)


class AugmentedBatches(EpochBatches):
    """Batches of pictures and labels, with random mirror images, shifts and cutout.

    A batch is (pictures (B, C, R, R) uint8, labels (B, K)), with `known` (B, K) as third where it is given; without
    labels it is the pictures alone. The changes of a batch depend on `seed`, the epoch and its number alone.

    Args:
        pictures: pictures (N, C, R, R) uint8.
        labels: labels (N, K), class numbers or values in [0, 1]; None for unlabelled pictures.
        batch_size: rows of a batch, at least 1.
        seed: seed of the order and of the changes, at least 0; None keeps the order of the rows.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.
        pad: largest shift in pixels, from 0 to R - 1.
        flip: whether every picture is mirrored with probability 1/2.
        cutout: side of the grey square in pixels, from 0 (none) to R.
        known: which labels are known (N, K) bool; None where all of them are.

    Example:
        >>> pictures = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
        >>> shown, labels = next(iter(AugmentedBatches(pictures, torch.zeros(6, 1), 4, seed=0, pad=2, flip=True)))
        >>> tuple(shown.shape), tuple(labels.shape)
        ((4, 3, 8, 8), (4, 1))
    """

    def __init__(
        self,
        pictures: Tensor,
        labels: Tensor | None,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        pad: int = 0,
        flip: bool = False,
        cutout: int = 0,
        known: Tensor | None = None,
    ) -> None:
        super().__init__(len(pictures), batch_size, seed, rank, world_size)
        self.pictures, self.labels, self.known = pictures, labels, known
        self.pad, self.flip, self.cutout = pad, flip, cutout

    def batches(self, first: int) -> Iterator[Any]:
        """Yield the batches; see `EpochBatches.batches`.

        Args:
            first: number of the first batch among those of this process, at least 0.
        """
        for index, rows in self.rows(first):
            pictures, flipped = self.augmented(index, rows)
            if self.labels is None:
                yield pictures
            else:
                labels = self.labels_of(self.labels[rows], flipped)
                yield (pictures, labels) if self.known is None else (pictures, labels, self.known[rows])

    def labels_of(self, labels: Tensor, flipped: Tensor) -> Tensor:
        """Return the labels of pictures after the changes; here they stay as they are.

        Args:
            labels: labels (B, K) before the changes.
            flipped: which pictures are mirrored (B,) bool.

        Returns:
            Labels (B, K).
        """
        return labels

    def augmented(self, index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the changed pictures of a batch.

        Args:
            index: number of the batch among those of all processes, at least 0.
            rows: its rows (B,) int64.

        Returns:
            Pictures (B, C, R, R) uint8, and which of them are mirrored (B,) bool.
        """
        random = torch.Generator().manual_seed(((self.seed or 0) * 100_003 + self.epoch) * 1_000_003 + index)
        pictures, flipped = self.pictures[rows], torch.zeros(len(rows), dtype=torch.bool)
        count, size = len(pictures), pictures.shape[-1]

        def integers(high: int, *shape: int) -> Tensor:
            return torch.randint(0, high, shape, generator=random)

        if self.flip:
            flipped = integers(2, count) == 1
            pictures = mirror(pictures, flipped)
        if self.pad:
            down, right = integers(2 * self.pad + 1, count), integers(2 * self.pad + 1, count)
            pictures = shift(pictures, down - self.pad, right - self.pad)
        if self.cutout:
            pictures = cutout(pictures, integers(size - self.cutout + 1, 2, count), self.cutout)
        return pictures, flipped
