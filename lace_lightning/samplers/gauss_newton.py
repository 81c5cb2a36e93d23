"""The flow of LACE-ODE for stiff energies."""

from __future__ import annotations

import torch
from torch import Tensor

from ..schedules import VP
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive
from .flow import Flow, Step, cubic_grid


class GaussNewton(Flow):
    """Exponential Gauss-Newton steps z ← z - h·φ₁(h·GᵀG)·∇E of the flow of LACE-ODE, φ₁(x) = (1 - e^{-x})/x.

    G (K, D) are the rows of ∂²E/∂z² ≈ GᵀG. For one continuous attribute of error σ, G = ∇f/σ and the step is
    z ← z - Gᵀφ(GGᵀ)(f - c)/σ with φ(A) = A⁻¹(1 - e^{-hA}). Steps are exact for linear attributes, however small σ is;
    where G is unknown (or, not) a step is one of Euler. The grid is s = Λu³, u = 1/N .. 1. A step costs 1 + K
    gradients. Diagnostics: `steps`.

    Target: the end of the flow from z. It has more of what was asked for than a sample of N(z)·p(c|z), and less spread;
    with a `corrector` the samples are exact. Use: continuous attributes, whose flow is stiff where σ is small.

    Args:
        num_steps: N, at least 1.
        beta_min: β at t = 0 of the schedule, 0 or more.
        beta_max: β at t = 1 of the schedule, at least `beta_min`.
        corrector: a chain that goes on where the flow ends.

    Raises:
        LaceError: when the number of steps is not above 0.

    References:
        Eq. 7 of LACE (arXiv 2110.10873) is the flow; Hochbruck and Ostermann, Exponential integrators, Acta Numerica
        2010, are its steps.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Continuous
        >>> energy = Continuous(slice(0, 1), 0.5, sigma=0.01)
        >>> sample = GaussNewton(3)(energy, torch.zeros(1, 2))
        >>> sample.z.round(decimals=4), sample.evaluations
        (tensor([[0.5000, 0.0000]]), 6.0)
    """

    order = 1

    def __init__(
        self, num_steps: int = 10, beta_min: float = 0.1, beta_max: float = 20.0, corrector: Sampler | None = None
    ) -> None:
        require_positive(num_steps=num_steps)
        self.num_steps, self.beta_min, self.beta_max, self.corrector = num_steps, beta_min, beta_max, corrector

    def steps(self) -> list[Step]:
        length = VP(self.beta_min, self.beta_max).length()
        return [
            (f"length {start:.4g} of {length:.4g}", start, end) for start, end in cubic_grid(length, self.num_steps)
        ]

    def step(self, field: Field, z: Tensor, length: float) -> Tensor:
        gradient, rows = field.curvature(z)
        return z - exponential_step(gradient, rows, length)

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        z, diagnostics = super().run(field, z, noise, record)
        return z, {**diagnostics, "steps": self.num_steps}


def exponential_step(gradient: Tensor, rows: Tensor, h: float) -> Tensor:
    """Return h·φ₁(h·GᵀG)·g (B, D), which is h·g + Gᵀ·Q·diag(h(φ₁(hλ) - 1)/λ)·Qᵀ·G·g with GGᵀ = QΛQᵀ.

    Args:
        gradient: g (B, D).
        rows: G (B, K, D); with K = 0 the step is h·g.
        h: the length of the step.

    Example:
        >>> import torch
        >>> exponential_step(torch.ones(1, 2), torch.zeros(1, 0, 2), 0.5)
        tensor([[0.5000, 0.5000]])
    """
    if rows.shape[1] == 0:
        return h * gradient
    g = rows.double()
    values, vectors = torch.linalg.eigh(g @ g.mT)
    x = h * values.clamp(min=0)
    # (φ₁(x) - 1)/x → -1/2 as x → 0, where the quotient itself is rounding.
    quotient = torch.where(x < 1e-4, -0.5 + x / 6, (-torch.expm1(-x) / x.clamp(min=1e-30) - 1) / x.clamp(min=1e-30))
    inner = vectors.mT @ (g @ gradient.double()[:, :, None])
    change = g.mT @ (vectors @ (h * h * quotient[:, :, None] * inner))
    moved: Tensor = h * gradient + change[:, :, 0].to(gradient.dtype)
    return moved
