"""Mean and covariance of w of a generator, and coordinates in which w has unit variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LaceError
from ..seeds import RunSeeds
from .base import Generator

# Samples of the prior that the covariance is measured on, at least so many and so many times Dw.
SAMPLES, SAMPLES_PER_DIMENSION = 10_000, 20
# Smallest variance, as a share of the largest, of a direction of w that counts.
SMALLEST_VARIANCE = 1e-7


@dataclass(frozen=True)
class Whitening:
    """Whitened coordinates u of w, in which w = w̄ + A·u has mean 0 and unit variance under the prior; AAᵀ = Cov(w).

    A is the symmetric square root, so that u has the axes of w. Directions in which w does not vary are left out: A
    maps them to 0.

    Args:
        mean: w̄ (Dw,).
        root: A (Dw, Dw).
        inverse: pseudo-inverse of A (Dw, Dw).

    References:
        Whitened latents as a prior of w: Wulff and Torralba, "Improving Inversion and Generation Diversity in StyleGAN
        using a Gaussianized Latent Space", 2020 (arXiv 2009.06529).

    Example:
        >>> root, inverse = (torch.diag(torch.tensor([scale, 0.0])) for scale in (2.0, 0.5))
        >>> whitening = Whitening(torch.ones(2), root, inverse)
        >>> whitening.w(torch.ones(1, 2)), whitening.u(torch.tensor([[5.0, 7.0]]))
        (tensor([[3., 1.]]), tensor([[2., 0.]]))
    """

    mean: Tensor
    root: Tensor
    inverse: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, generator: Generator, count: int | None = None, seed: int = 0) -> Whitening:
        """Measure the whitening of a generator on samples of its prior.

        Args:
            generator: a generator with a space w.
            count: number of samples, at least 2; None for 10,000 or 20·Dw.
            seed: seed of the samples, at least 0.

        Raises:
            LaceError: for a generator without a space w, and for w that are not finite.
        """
        if not generator.has_w:
            raise LaceError(
                f"Whitened styles need a generator with a space w, and {type(generator).__name__} has z alone: use z."
            )
        count = count or max(SAMPLES, SAMPLES_PER_DIMENSION * generator.w_dim)
        total = torch.zeros(generator.w_dim, dtype=torch.float64)
        products = torch.zeros(generator.w_dim, generator.w_dim, dtype=torch.float64)
        for first in range(0, count, SAMPLES):
            size = min(SAMPLES, count - first)
            z = generator.prior(size, RunSeeds.REFERENCE + seed, first, generator.device)
            w = generator.mapping(z).double().cpu()
            total += w.sum(0)
            products += w.T @ w
        mean = total / count
        covariance = (products - count * mean[:, None] * mean) / max(count - 1, 1)
        if not bool(covariance.isfinite().all()):
            raise LaceError(
                f"The w of {type(generator).__name__} must be finite and are not: check its weights, or compute it in "
                "float32."
            )
        values, vectors = torch.linalg.eigh(covariance)
        scales = torch.where(values > SMALLEST_VARIANCE * values.max().clamp(min=0), values.clamp(min=0).sqrt(), 0.0)
        inverse = torch.where(scales > 0, 1 / scales.clamp(min=1e-30), 0.0)
        root, back = ((vectors * column) @ vectors.T for column in (scales, inverse))
        return cls(*(part.float().to(generator.device) for part in (mean, root, back)))

    def w(self, u: Tensor) -> Tensor:
        """Return w = w̄ + A·u of coordinates u (..., Dw)."""
        return self.mean.to(u) + u @ self.root.to(u)

    def u(self, w: Tensor) -> Tensor:
        """Return the coordinates u = A⁺·(w - w̄) of w (..., Dw)."""
        return (w - self.mean.to(w)) @ self.inverse.to(w)
