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


class Affine(Energy):
    """The energy v ↦ E(centre + v·Fᵀ) with a centre for each sample; F is a number or a matrix.

    `point(v)` is the argument of E.

    Args:
        inner: the energy E of latents (B, D).
        centre: points (B, D), one for each sample.
        factor: F, a number, or a matrix (D, K) that maps v (B, K).

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> Affine(Prior(), torch.ones(1, 2), torch.tensor([[1.0], [0.0]]))(torch.ones(1, 1))
        tensor([2.5000])
    """

    inner: Energy
    centre: Tensor
    matrix: Tensor | None

    def __init__(self, inner: Energy, centre: Tensor, factor: float | Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.number = None if isinstance(factor, Tensor) else float(factor)
        with torch.inference_mode(False):
            matrix = factor.detach().clone() if isinstance(factor, Tensor) else None
            self.register_buffer("centre", centre.detach().clone(), persistent=False)
            self.register_buffer("matrix", matrix, persistent=False)

    @property
    def factor(self) -> float | Tensor:
        """F, a number or a matrix (D, K)."""
        return self.number if self.matrix is None else self.matrix  # type: ignore[return-value]

    def point(self, v: Tensor) -> Tensor:
        """Return centre + v·Fᵀ (B, D)."""
        return self.centre.to(v) + (self.factor * v if self.matrix is None else v @ self.matrix.to(v).T)

    def _pulled(self, gradient: Tensor) -> Tensor:
        """Return gradients (..., K) of v from those (..., D) of the argument of E."""
        return self.factor * gradient if self.matrix is None else gradient @ self.matrix.to(gradient)

    def forward(self, u: Tensor) -> Tensor:
        value: Tensor = self.inner(self.point(u))
        return value

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.pair(self.point(u))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.inner.value_and_grad(self.point(u))
        return value, self._pulled(gradient)

    def rows(self, index: Tensor | slice) -> Energy:
        return self._with(self.inner.rows(index), self.centre[index])

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        inner = change(self.inner)
        return self if inner is self.inner else self._with(inner, self.centre)

    def _with(self, inner: Energy, centre: Tensor) -> Energy:
        result = type(self).__new__(type(self))
        Affine.__init__(result, inner, centre, self.factor)
        return result

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, rows = self.inner.curvature(self.point(u))
        return value, self._pulled(gradient), self._pulled(rows)

    @property
    def is_probability(self) -> bool:
        return self.inner.is_probability

    @property
    def power(self) -> float:
        return self.inner.power

    def extra_repr(self) -> str:
        return f"factor={self.number:g}" if self.matrix is None else f"{'x'.join(map(str, self.matrix.shape))} factors"


class Near(Affine):
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

    def __init__(self, inner: Energy, centre: Tensor, rho: float) -> None:
        super().__init__(inner, rho * centre, max(0.0, 1 - rho**2) ** 0.5)
