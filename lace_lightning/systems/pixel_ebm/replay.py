"""Replay buffer of energy-based training: points that earlier chains reached and later chains begin at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...errors import LaceError, suggest

REPLACEMENTS = ("uniform", "ring", "reservoir")
# change(points (B, ...), random) -> points (B, ...)
Change = Callable[[Tensor, torch.Generator], Tensor]


class ReplayBuffer(nn.Module):
    """Points (size, *shape) in [low, high] at which the chains of a training begin and end.

    The points are registered buffers and so part of checkpoints. All randomness comes from the generators that the
    calls receive, which must be on the buffer's device.

    Args:
        size: number of points, at least `blocks`.
        shape: shape of a point, for example (3, 32, 32).
        replacement: which points new ones replace. "uniform": those that their chains began at, in a buffer that is
            filled with uniform points at first. "ring": the oldest. "reservoir": a random one, so that after n points
            each is in the buffer with probability size/n.
        restart: probability, from 0 to 1, that a drawn point is replaced by a uniform one.
        blocks: number of equal parts of the buffer, one for each combination of labels, at least 1; more than 1
            requires "uniform".
        as_bytes: keep points in 256 levels and draw them uniformly within their level.
        low: lower bound of points.
        high: upper bound of points, above `low`.
        change: function that changes drawn points before restarts, None for none.
        seed: seed of the first points of a "uniform" buffer.

    Raises:
        LaceError: for settings outside these ranges.

    References:
        Algorithm 1 of JEM (arXiv 1912.03263); reservoir sampling of improved contrastive divergence (arXiv 2012.01316).

    Example:
        >>> buffer, random = ReplayBuffer(4, (2,), "ring"), torch.Generator().manual_seed(0)
        >>> len(buffer), buffer.draw(3, random)[0].shape
        (0, torch.Size([3, 2]))
        >>> buffer.put(torch.ones(3, 2), torch.arange(3), random)
        >>> len(buffer), buffer.some(1, random).tolist()
        (3, [[1.0, 1.0]])
    """

    points: Tensor
    count: Tensor

    def __init__(
        self,
        size: int,
        shape: Sequence[int],
        replacement: str = "uniform",
        restart: float = 0.05,
        blocks: int = 1,
        as_bytes: bool = False,
        low: float = -1.0,
        high: float = 1.0,
        change: Change | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if replacement not in REPLACEMENTS:
            raise LaceError(
                f"The replacement of a buffer must be one of {', '.join(REPLACEMENTS)}, received '{replacement}'."
                f"{suggest(replacement, REPLACEMENTS)}"
            )
        if not (0 <= restart <= 1 and low < high and 1 <= blocks <= size) or (blocks > 1 and replacement != "uniform"):
            raise LaceError(
                "A buffer requires restart from 0 to 1, low below high, at least one point for each block, and "
                f"replacement=uniform for several blocks, received restart={restart}, low={low}, high={high}, "
                f"size={size}, blocks={blocks} and replacement={replacement}: change these settings."
            )
        self.replacement, self.restart, self.blocks, self.as_bytes = replacement, restart, blocks, as_bytes
        self.low, self.high, self.change = low, high, change
        self.register_buffer("points", torch.zeros(size, *shape, dtype=torch.uint8 if as_bytes else torch.float32))
        self.register_buffer("count", torch.zeros([], dtype=torch.long))
        if replacement == "uniform":
            self.points.copy_(self._stored(self.fresh(size, torch.Generator().manual_seed(seed))))
            self.count.fill_(size)

    def __len__(self) -> int:
        """Return the number of points in the buffer."""
        return min(int(self.count), len(self.points))

    def fresh(self, count: int, random: torch.Generator) -> Tensor:
        """Return uniform points (count, *shape) in [low, high]."""
        points = torch.rand(count, *self.points.shape[1:], generator=random, device=random.device)
        return self.low + (self.high - self.low) * points

    def block(self, labels: Tensor) -> tuple[Tensor, int]:
        """Return the first indices (B,) of the blocks of labels (B,) int64, and the length of a block."""
        length = len(self.points) // self.blocks
        return labels * length, length

    def at(self, indices: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Return points (B, *shape) by index (B,).

        Points that are kept as bytes are the middle of their level, and with a generator uniform within it.
        """
        points = self.points[indices]
        if not self.as_bytes:
            return points
        inside = 0.5 if random is None else torch.rand(points.shape, generator=random, device=random.device)
        return self.low + (self.high - self.low) * (points.float() + inside) / 256

    def some(self, count: int, random: torch.Generator) -> Tensor:
        """Return points (count, *shape) that are drawn uniformly from the buffer, without change or restart.

        Raises LaceError for an empty buffer.
        """
        if not len(self):
            raise LaceError(
                "The buffer must hold at least one point to draw from and is empty: put some points into it first."
            )
        return self.at(torch.randint(len(self), (count,), generator=random, device=random.device), random)

    def draw(self, count: int, random: torch.Generator, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return starting points (count, *shape) of chains and their indices (count,).

        With labels (count,) int64 the points come from the blocks of these labels. While a ring or reservoir holds
        fewer than `count` points, all are uniform.
        """
        if len(self) < (1 if self.replacement == "uniform" else count):
            return self.fresh(count, random), torch.zeros(count, dtype=torch.long, device=random.device)
        first, length = (0, len(self)) if labels is None else self.block(labels)
        indices = first + torch.randint(length, (count,), generator=random, device=random.device)
        points = self.at(indices, random)
        if self.change is not None:
            points = self.change(points, random)
        again = torch.rand(count, generator=random, device=random.device) < self.restart
        return torch.where(again.view(-1, *[1] * (points.ndim - 1)), self.fresh(count, random), points), indices

    @torch.no_grad()
    def put(self, points: Tensor, indices: Tensor, random: torch.Generator) -> None:
        """Keep the ends (B, *shape) of chains that began at the points `indices` (B,)."""
        size, before = len(self.points), int(self.count)
        if self.replacement == "uniform":
            places = indices
        else:
            places = before + torch.arange(len(points), device=points.device)
            if self.replacement == "ring":
                places = places % size
            else:
                # The n-th point draws one of n places and is kept if the place is one of the first `size`.
                chosen = (
                    torch.rand(len(points), generator=random, device=random.device, dtype=torch.float64) * (places + 1)
                ).long()
                places = torch.where(places < size, places, chosen)
            self.count += len(points)
        # Of several points with one place, the last is kept.
        last = {place: index for index, place in enumerate(places.tolist()) if place < size}
        if last:
            rows, kept = (torch.tensor(list(part), device=points.device) for part in (last, last.values()))
            self.points[rows] = self._stored(points[kept])

    def _stored(self, points: Tensor) -> Tensor:
        if not self.as_bytes:
            return points.float()
        return ((points - self.low) / (self.high - self.low) * 256).floor().clamp(0, 255).byte()
