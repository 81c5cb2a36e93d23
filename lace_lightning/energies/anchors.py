"""Staying near something: the terms of sequential editing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Energy


class Anchor(Energy):
    """E(u) = weight·‖u - target‖² with a target (B, D) for every sample; `columns` (a list of numbers) restricts the
    norm.
    """

    target: Tensor

    def __init__(self, target: Tensor, weight: float = 1.0, columns: Sequence[int] | None = None) -> None:
        super().__init__()
        with torch.inference_mode(False):
            self.register_buffer("target", target.detach().clone(), persistent=False)
        self.weight, self.columns = float(weight), None if columns is None else list(columns)

    def _difference(self, u: Tensor) -> Tensor:
        difference = u - self.target.to(u)
        if self.columns is None:
            return difference
        chosen = torch.zeros(u.shape[1], dtype=u.dtype, device=u.device)
        chosen[self.columns] = 1
        return difference * chosen

    def forward(self, u: Tensor) -> Tensor:
        return self.weight * self._difference(u).square().sum(1)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        difference = self._difference(u.detach())
        return self.weight * difference.square().sum(1), 2 * self.weight * difference

    def rows(self, index: Tensor | slice) -> Energy:
        return Anchor(self.target[index], self.weight, self.columns)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}" + ("" if self.columns is None else f", {len(self.columns)} columns")


class Near(Energy):
    """v ↦ E(ρ·z₀ + √(1-ρ²)·v): with v ~ N(0, I) the prior of the argument is N(ρz₀, (1-ρ²)I).

    `point(v)` is the argument itself; z₀ is (B, D), ρ from 0 (forget z₀) to 1 (stay there).
    """

    centre: Tensor

    def __init__(self, inner: Energy, centre: Tensor, rho: float) -> None:
        super().__init__()
        self.inner, self.rho = inner, float(rho)
        with torch.inference_mode(False):
            self.register_buffer("centre", centre.detach().clone(), persistent=False)

    @property
    def _scale(self) -> float:
        return max(0.0, 1 - self.rho**2) ** 0.5

    def point(self, v: Tensor) -> Tensor:
        return self.rho * self.centre.to(v) + self._scale * v

    def forward(self, u: Tensor) -> Tensor:
        return self.inner(self.point(u))

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.pair(self.point(u))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.inner.value_and_grad(self.point(u))
        return value, self._scale * gradient

    def rows(self, index: Tensor | slice) -> Energy:
        return Near(self.inner.rows(index), self.centre[index], self.rho)

    def tempered(self, temperature: float) -> Energy:
        return Near(self.inner.tempered(temperature), self.centre, self.rho)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, rows = self.inner.curvature(self.point(u))
        return value, self._scale * gradient, self._scale * rows

    @property
    def is_probability(self) -> bool:
        return self.inner.is_probability

    @property
    def guide(self) -> Energy:
        guide = self.inner.guide
        return self if guide is self.inner else Near(guide, self.centre, self.rho)

    @property
    def power(self) -> float:
        return self.inner.power

    def extra_repr(self) -> str:
        return f"rho={self.rho:g}"
