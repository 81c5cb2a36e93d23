"""LACE-LD, and Langevin chains of energies that need no prior."""

from __future__ import annotations

from torch import Tensor

from .base import Field, NoiseSource, Record, Run, Sampler, require_positive


class Langevin(Sampler):
    """z ← z - η·∇[E(c|g(z)) + ½‖z‖²] + σ·n (Eq. 2 and 5), `num_steps` times.

    The paper's settings η = σ = 0.01 are a noisy descent: a chain that samples the posterior has σ² = 2η.
    """

    needs_noise = True
    prior = 1.0

    def __init__(self, num_steps: int = 100, step_size: float = 0.01, noise_std: float = 0.01) -> None:
        require_positive(num_steps=num_steps, step_size=step_size)
        self.num_steps, self.step_size, self.noise_std = num_steps, step_size, noise_std

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        for k in range(self.num_steps):
            field.time = f"step {k + 1} of {self.num_steps}"
            gradient = field(z)
            z = z.mul_(1 - self.prior * self.step_size).add_(gradient, alpha=-self.step_size)
            if self.noise_std:
                z = z.add_(noise(k, z), alpha=self.noise_std)
            record(z)
        return z, {}


class FlatLangevin(Langevin):
    """w ← w - η·∇E(w) + σ·n, `num_steps` times: for densities that are exp(-E) alone, with no prior beside it."""

    prior = 0.0
