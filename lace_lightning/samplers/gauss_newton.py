"""The flow of LACE-ODE for stiff energies."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..schedules import VP
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive


class GaussNewton(Sampler):
    """Exponential Gauss-Newton: z ← z - h·φ₁(h·GᵀG)·∇E with φ₁(x) = (1 - e^{-x})/x, on the grid s = Λu³ in `num_steps`
    steps.

    G (K, D) are the rows of ∂²E/∂z² ≈ GᵀG; for one continuous attribute of error σ, G = ∇f/σ and the step is z ← z -
    Gᵀφ(GGᵀ)(f - c)/σ with φ(A) = A⁻¹(1 - e^{-hA}). Exact for linear attributes, however small σ is; where G is unknown
    (or, not) a step is one of Euler. A step costs 1 + K gradients.
    """

    order = 1

    def __init__(
        self, num_steps: int = 10, beta_min: float = 0.1, beta_max: float = 20.0, corrector: Sampler | None = None
    ) -> None:
        require_positive(num_steps=num_steps)
        self.num_steps, self.beta_min, self.beta_max, self.corrector = num_steps, beta_min, beta_max, corrector

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        length = VP(self.beta_min, self.beta_max).length()
        grid = [length * (k / self.num_steps) ** 3 for k in range(self.num_steps + 1)]
        for s, end in itertools.pairwise(grid):
            field.time = f"length {s:.4g} of {length:.4g}"
            gradient, rows = field.curvature(z)
            z = z - step(gradient, rows, end - s)
            record(z)
        return z, {"steps": self.num_steps}


def step(gradient: Tensor, rows: Tensor, h: float) -> Tensor:
    """Return h·φ₁(h·GᵀG)·g for g (B, D) and G (B, K, D): h·g + Gᵀ·Q·diag(h(φ₁(hλ) - 1)/λ)·Qᵀ·G·g with GGᵀ = QΛQᵀ."""
    if rows.shape[1] == 0:
        return h * gradient
    g = rows.double()
    values, vectors = torch.linalg.eigh(g @ g.mT)
    x = h * values.clamp(min=0)
    # (φ₁(x) - 1)/x → -1/2 as x → 0, where the quotient itself is rounding.
    quotient = torch.where(x < 1e-4, -0.5 + x / 6, (-torch.expm1(-x) / x.clamp(min=1e-30) - 1) / x.clamp(min=1e-30))
    inner = vectors.mT @ (g @ gradient.double()[:, :, None])
    change = g.mT @ (vectors @ (h * h * quotient[:, :, None] * inner))
    return h * gradient + change[:, :, 0].to(gradient.dtype)
