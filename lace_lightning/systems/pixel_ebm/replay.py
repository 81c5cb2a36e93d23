"""Where the chains of energy-based training go on from: points that earlier chains reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...errors import LaceError, suggest

REPLACEMENTS = ("uniform", "ring", "reservoir")
# change(points (B, ...), random) -> points (B, ...)
Change = Callable[[Tensor, torch.Generator], Tensor]


class ReplayBuffer(nn.Module):
    """`size` points (*shape) within `low` to `high` that chains begin at and end in; registered buffers, so that
    checkpoints hold them.

    `replacement` says whom new points replace: `uniform` those that their chains began at, in a buffer that is full of
    uniform points from the start; `ring` the oldest; `reservoir` anyone, so that after n points each is there with
    probability size/n. Each drawn point is, with probability `restart`, a uniform one instead. `blocks` divides a
    uniform buffer by label. With `as_bytes` points are kept in 256 levels and drawn uniformly within theirs. `change`
    is what happens to drawn points before restarts. All randomness comes from the generators of the calls, which must
    be on the buffer's device. Raises LaceError for a buffer that cannot be.
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
                "A buffer needs restart from 0 to 1, low below high, and at least one point for each block, of which "
                "only "
                f"uniform replacement has several; received {restart}, {low} to {high}, {size} points and {blocks} "
                f"blocks "
                f"({replacement})."
            )
        self.replacement, self.restart, self.blocks, self.as_bytes = replacement, restart, blocks, as_bytes
        self.low, self.high, self.change = low, high, change
        self.register_buffer("points", torch.zeros(size, *shape, dtype=torch.uint8 if as_bytes else torch.float32))
        self.register_buffer("count", torch.zeros([], dtype=torch.long))
        if replacement == "uniform":
            self.points.copy_(self._stored(self.fresh(size, torch.Generator().manual_seed(seed))))
            self.count.fill_(size)

    def __len__(self) -> int:
        """Return how many points there are."""
        return min(int(self.count), len(self.points))

    def fresh(self, count: int, random: torch.Generator) -> Tensor:
        """Return uniform points (count, *shape)."""
        points = torch.rand(count, *self.points.shape[1:], generator=random, device=random.device)
        return self.low + (self.high - self.low) * points

    def block(self, labels: Tensor) -> tuple[Tensor, int]:
        """Return where the blocks of labels (B,) int64 begin, and how long they are."""
        length = len(self.points) // self.blocks
        return labels * length, length

    def at(self, indices: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Return points (B, *shape) by index (B,): of bytes the middle of the level, or with a generator anywhere in
        it.
        """
        points = self.points[indices]
        if not self.as_bytes:
            return points
        inside = 0.5 if random is None else torch.rand(points.shape, generator=random, device=random.device)
        return self.low + (self.high - self.low) * (points.float() + inside) / 256

    def some(self, count: int, random: torch.Generator) -> Tensor:
        """Return points (count, *shape), any of those that are there, as they are. Raises LaceError where there are
        none.
        """
        if not len(self):
            raise LaceError("A buffer without points can give none: put some first.")
        return self.at(torch.randint(len(self), (count,), generator=random, device=random.device), random)

    def draw(self, count: int, random: torch.Generator, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return points (count, *shape) to begin chains at and their indices (count,), within the blocks of labels
        (count,) where given.

        While a ring or reservoir holds fewer than `count` points, all are uniform.
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
        """Keep points (B, *shape) that chains from `indices` (B,) have reached."""
        size, before = len(self.points), int(self.count)
        if self.replacement == "uniform":
            places = indices
        else:
            places = before + torch.arange(len(points), device=points.device)
            if self.replacement == "ring":
                places = places % size
            else:
                # The n-th point of all takes one of n places, of which only the first `size` exist.
                chosen = (
                    torch.rand(len(points), generator=random, device=random.device, dtype=torch.float64) * (places + 1)
                ).long()
                places = torch.where(places < size, places, chosen)
            self.count += len(points)
        # Where several points go to one place, the last stays.
        last = {place: index for index, place in enumerate(places.tolist()) if place < size}
        if last:
            rows, kept = (torch.tensor(list(part), device=points.device) for part in (last, last.values()))
            self.points[rows] = self._stored(points[kept])

    def _stored(self, points: Tensor) -> Tensor:
        if not self.as_bytes:
            return points.float()
        return ((points - self.low) / (self.high - self.low) * 256).floor().clamp(0, 255).byte()
