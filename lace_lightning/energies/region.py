"""The hard region of a query: where every decision is right."""

from __future__ import annotations

import torch
from torch import Tensor

from ..query import Query
from ..schema import Labels
from .base import Energy

# Beyond the wall the energy is at least this: exp(-WALL) is nothing, and differences of the guide survive in float32.
WALL = 1e4


class Region(Energy):
    """E = 0 where the decisions from logits (B, num_logits) make the query true, WALL + guide(u) elsewhere: N(z)·1[all
    decisions right].

    The gradient is that of `guide`, inside as well: flows and proposals follow it, and a chain that begins outside
    comes in as a chain on the guide would. `free` (B rows) holds the values of free attributes; a continuous `==` holds
    within `tolerance`.
    """

    inner: Energy

    def __init__(self, guide: Energy, query: Query, free: Labels | None = None, tolerance: float = 0.1) -> None:
        super().__init__()
        self.inner, self.query, self.free, self.tolerance = guide, query, free, tolerance

    def _walled(self, u: Tensor, guide: Tensor) -> Tensor:
        free = None if self.free is None else self.free.to(u.device)
        inside = self.query.holds(self.query.schema.decode(u), free, self.tolerance)
        return torch.where(inside, torch.zeros_like(guide), WALL + guide)

    def forward(self, u: Tensor) -> Tensor:
        return self._walled(u, self.inner(u))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.inner.value_and_grad(u)
        return self._walled(u.detach(), value), gradient

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, rows = self.inner.curvature(u)
        return self._walled(u.detach(), value), gradient, rows

    @property
    def guide(self) -> Energy:
        return self.inner

    @property
    def power(self) -> float:
        return self.inner.power

    def rows(self, index: Tensor | slice) -> Energy:
        return Region(
            self.inner.rows(index), self.query, None if self.free is None else self.free[index], self.tolerance
        )

    def tempered(self, temperature: float) -> Energy:
        return Region(self.inner.tempered(temperature), self.query, self.free, self.tolerance)

    def extra_repr(self) -> str:
        return f"query='{self.query}'"
