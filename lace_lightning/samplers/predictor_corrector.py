"""LACE-PC: reverse diffusion with Langevin corrections."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import LaceError
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive


class PredictorCorrector(Sampler):
    """LACE-PC: the reverse diffusion in N steps, each followed by M Langevin corrections; the score is s = -∇E - z.

    With β_k from β_max/N down to β_min/N and α = 1 - β_k: predictor z ← (2 - √α)z + β_k·s + √β_k·n; corrector
    ε = 2α(r·‖n‖/‖s‖)², z ← z + ε·s + √(2ε)·n. As in the paper's code the norms are means over the batch, so that
    samples depend on each other, and all corrections of a step reuse the score of its predictor.

    Target: N(0, I)·exp(-E) up to the error of its steps. Use: to compare with the paper; `HamiltonianMC` and `Annealed`
    are exact at a lower cost.

    Args:
        num_steps: N, more than `beta_max`.
        num_corrector_steps: M, 0 or more.
        snr: the ratio r of signal and noise in a correction, above 0.
        per_sample: take the norms of each sample, so that it does not depend on its batch.
        refresh_score: evaluate the score before every correction.
        beta_min: β at t = 0 of the schedule, 0 or more.
        beta_max: β at t = 1 of the schedule, at least `beta_min`.

    Raises:
        LaceError: when N is at most `beta_max`, and for settings that are not above 0.

    References:
        Eq. 6 of LACE (arXiv 2110.10873); Song et al., Score-based generative modeling through stochastic differential
        equations, ICLR 2021.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = PredictorCorrector(25)(Prior(), torch.ones(2, 3), seeds=torch.arange(2))
        >>> sample.z.shape, sample.evaluations
        (torch.Size([2, 3]), 25.0)
    """

    needs_noise = True

    def __init__(
        self,
        num_steps: int = 100,
        num_corrector_steps: int = 2,
        snr: float = 0.16,
        per_sample: bool = False,
        refresh_score: bool = False,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
    ) -> None:
        require_positive(num_steps=num_steps, snr=snr)
        if beta_max >= num_steps:
            raise LaceError(
                f"PredictorCorrector needs more than beta_max = {beta_max:g} steps, received {num_steps}: the "
                "paper has 100 and 200."
            )
        self.num_steps, self.num_corrector_steps, self.snr = num_steps, num_corrector_steps, snr
        self.per_sample, self.refresh_score = per_sample, refresh_score
        self.beta_min, self.beta_max = beta_min, beta_max

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        betas = torch.linspace(self.beta_min / self.num_steps, self.beta_max / self.num_steps, self.num_steps).tolist()
        draws = 0
        for k, beta in enumerate(reversed(betas)):
            field.time = f"step {k + 1} of {self.num_steps}"
            alpha = 1 - beta
            score = -field(z) - z
            z = (2 - math.sqrt(alpha)) * z + beta * score + math.sqrt(beta) * noise(draws, z)
            draws += 1
            for _ in range(self.num_corrector_steps):
                if self.refresh_score:
                    score = -field(z) - z
                n = noise(draws, z)
                draws += 1
                epsilon = 2 * alpha * (self.snr * self._norm(n) / self._norm(score)) ** 2
                z = z + epsilon * score + torch.sqrt(2 * epsilon) * n
            record(z)
        return z, {}

    def _norm(self, x: Tensor) -> Tensor:
        norms: Tensor = x.norm(dim=1, keepdim=True)
        return norms if self.per_sample else norms.mean()
