"""The flow of LACE-ODE with a step size of its own for every sample."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LaceError
from ..schedules import VP
from .base import Field, NoiseSource, Record, Run, Sampler, positive


class Heun(Sampler):
    """dz/ds = -∇E(c|g(z)) for s from 0 to Λ = s(1) by the Heun-Euler pair, order 2(1), error controlled per sample.

    A step is accepted where the root mean square of ½h(k₂ - k₁)/(atol + rtol·|z|) is at most 1. Samples do not see each
    other: a result does not change with the batch. Low order suits leaky-ReLU networks, whose fields have kinks.
    """

    order = 2

    def __init__(self, atol: float = 0.05, rtol: float = 0.05, first_step: float = 0.1, max_growth: float = 8.0,
                 max_steps: int = 10_000, beta_min: float = 0.1, beta_max: float = 20.0, corrector: Sampler | None = None) -> None:
        positive(atol=atol, rtol=rtol, first_step=first_step, max_steps=max_steps, max_growth=max_growth - 1)
        self.atol, self.rtol, self.first_step, self.max_growth, self.max_steps = atol, rtol, first_step, max_growth, max_steps
        self.beta_min, self.beta_max, self.corrector = beta_min, beta_max, corrector

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        length = VP(self.beta_min, self.beta_max).length()
        s = torch.zeros(len(z), 1, device=z.device, dtype=torch.float64)
        slope = -field(z)
        h = self._first_steps(z, slope, length)
        active = torch.arange(len(z), device=z.device)
        steps = rejected = 0
        while len(active):
            steps += 1
            field.time = f"length {float(s[active].min()):.4g} of {length:.4g}"
            step = torch.minimum(h[active], length - s[active])
            if steps > self.max_steps or not bool((step > 1e-9 * length).all()):
                raise LaceError(f"The step must stay above {1e-9 * length:.1g} and the steps below {self.max_steps}, and they "
                                f"did not ({field.where(z)}): loosen atol and rtol, or raise sigma.")
            z0, k1, width = z[active], slope[active], step.to(z.dtype)
            k2 = -field(z0 + width * k1, active)
            z1 = z0 + width / 2 * (k1 + k2)
            scale = self.atol + self.rtol * torch.maximum(z0.abs(), z1.abs())
            error = (width / 2 * (k2 - k1) / scale).square().mean(1, keepdim=True).sqrt()
            # NaN compares false: such a step is rejected and shrinks.
            good = error <= 1
            growth = (0.9 / error.clamp(min=1e-12).sqrt()).clamp(0.2, self.max_growth).nan_to_num(0.2)
            h[active] = step * growth.to(step.dtype)
            z[active] = torch.where(good, z1, z0)
            s[active] = torch.where(good, s[active] + step, s[active])
            rejected += int((~good).sum())
            record(z)
            moved = active[(good & (s[active] < length - 1e-9))[:, 0]]
            active = active[(s[active] < length - 1e-9)[:, 0]]
            if len(moved):
                slope[moved] = -field(z[moved], moved)
        return z, {"steps": steps, "rejected": rejected}

    def _first_steps(self, z: Tensor, slope: Tensor, length: float) -> Tensor:
        """First lengths (B, 1): an Euler step that moves a sample by `first_step` of its size."""
        size = z.square().mean(1, keepdim=True).sqrt() + self.atol
        speed = slope.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
        return (self.first_step * size / speed).clamp(1e-4 * length, length).double()
