"""Energies of sequential editing, which keep a sample near a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .base import Energy


class Anchor(Energy):
    """The energy E(u) = weight·‖u - target‖² of the distance to a target of each sample.

    Args:
        target: points (B, D), one for each sample.
        weight: factor of the squared distance, 0 or more.
        columns: the coordinates that count, numbers from 0 to D - 1; None for all.

    References:
        The distance terms of sequential editing in LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> Anchor(torch.zeros(2, 3), weight=0.5)(torch.ones(2, 3))
        tensor([1.5000, 1.5000])
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
    """The energy v ↦ E(ρ·z₀ + √(1-ρ²)·v): with v ~ N(0, I) the argument of E has the prior N(ρz₀, (1-ρ²)I).

    `point(v)` is the argument of E.

    Args:
        inner: the energy E of latents (B, D).
        centre: z₀ (B, D), one latent for each sample.
        rho: ρ in [0, 1]; 0 ignores z₀ and 1 stays at z₀.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> Near(Prior(), torch.ones(1, 2), rho=1.0)(torch.randn(1, 2))
        tensor([1.])
    """

    inner: Energy
    centre: Tensor

    def __init__(self, inner: Energy, centre: Tensor, rho: float) -> None:
        super().__init__()
        self.inner, self.rho = inner, float(rho)
        with torch.inference_mode(False):
            self.register_buffer("centre", centre.detach().clone(), persistent=False)

    @property
    def _scale(self) -> float:
        return float(max(0.0, 1 - self.rho**2) ** 0.5)

    def point(self, v: Tensor) -> Tensor:
        """Return ρ·z₀ + √(1-ρ²)·v (B, D)."""
        return self.rho * self.centre.to(v) + self._scale * v

    def forward(self, u: Tensor) -> Tensor:
        value: Tensor = self.inner(self.point(u))
        return value

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.pair(self.point(u))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.inner.value_and_grad(self.point(u))
        return value, self._scale * gradient

    def rows(self, index: Tensor | slice) -> Energy:
        return Near(self.inner.rows(index), self.centre[index], self.rho)

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        inner = change(self.inner)
        return self if inner is self.inner else Near(inner, self.centre, self.rho)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, rows = self.inner.curvature(self.point(u))
        return value, self._scale * gradient, self._scale * rows

    @property
    def is_probability(self) -> bool:
        return self.inner.is_probability

    @property
    def power(self) -> float:
        return self.inner.power

    def extra_repr(self) -> str:
        return f"rho={self.rho:g}"
