"""The hard region of a query: the set of logits for which every decision is right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..query import Query
from ..schema import Labels
from .base import Energy

# Outside the region the energy is at least this: exp(-WALL) is 0, and differences of the guide survive in float32.
WALL = 1e4


class Region(Energy):
    """The energy of a hard region: E = 0 where decisions from logits make the query true, WALL + guide(u) elsewhere.

    The target is N(z)·1[all decisions are right]. The gradient is that of `guide` everywhere, inside as well: flows and
    proposals follow it, and a chain that begins outside moves as a chain on the guide would.

    Args:
        guide: an energy of the logits (B, num_logits) whose gradient leads into the region.
        query: the condition on decoded logits.
        free: values of the query's free attributes, B rows; None where it has none.
        tolerance: a continuous `==` holds within ± tolerance, in units of the attribute, above 0.

    Raises:
        LaceError: at evaluation, when the query has free attributes and `free` is None.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Discrete
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Schema
        >>> region = Region(Discrete(slice(0, 2), 1), parse("smile == 1", Schema("s", (Attribute("smile"),))))
        >>> (region(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) >= WALL).tolist()
        [False, True]
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

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        inner = change(self.inner)
        return self if inner is self.inner else Region(inner, self.query, self.free, self.tolerance)

    def rows(self, index: Tensor | slice) -> Energy:
        if self.free is None:
            return super().rows(index)
        return Region(self.inner.rows(index), self.query, self.free[index], self.tolerance)

    def extra_repr(self) -> str:
        return f"query='{self.query}'"
