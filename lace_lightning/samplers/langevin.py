"""LACE-LD, and Langevin chains of densities without a prior."""

from __future__ import annotations

from torch import Tensor

from .base import Field, NoiseSource, Record, Run, Sampler, require_positive


class Langevin(Sampler):
    """LACE-LD: z ← z - η·∇[E(c|g(z)) + ½‖z‖²] + σ·n, n ~ N(0, I), `num_steps` times.

    The paper's settings η = σ = 0.01 are a noisy descent: a chain that samples the posterior has σ² = 2η.

    Target: N(0, I)·exp(-E) for σ² = 2η and small η, from which the start is forgotten slowly; the end of a noisy
    descent for less noise. Use: to compare with the paper; its defaults have nearly the control of the flow.

    Args:
        num_steps: steps, at least 1.
        step_size: η, above 0.
        noise_std: σ, 0 or more.

    Raises:
        LaceError: when the number of steps or the step size is not above 0.

    References:
        Eq. 2 and 5 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = Langevin(20)(Prior(), torch.zeros(2, 3), seeds=torch.arange(2))
        >>> sample.z.shape, sample.evaluations
        (torch.Size([2, 3]), 20.0)
    """

    needs_noise = True
    # The factor of the prior's energy ½‖z‖².
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
    """Langevin steps w ← w - η·∇E(w) + σ·n of a density exp(-E(w)) without a prior, `num_steps` times.

    Target: exp(-E(w)) for σ² = 2η and small η, without a prior. Use: energies of points other than z, such as w or
    pictures, as in models that LACE is compared with.

    Args:
        num_steps: steps, at least 1.
        step_size: η, above 0.
        noise_std: σ, 0 or more; σ² = 2η samples the density.

    Raises:
        LaceError: when the number of steps or the step size is not above 0.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> FlatLangevin(1, step_size=0.5, noise_std=0.0)(Prior(), torch.ones(1, 2), seeds=torch.arange(1)).z
        tensor([[0.5000, 0.5000]])
    """

    prior = 0.0
