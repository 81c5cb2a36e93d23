"""LACE-PC."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import LaceError
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive


class PredictorCorrector(Sampler):
    """The reverse diffusion of Eq. 6 in N steps, each followed by M Langevin corrections; the score is s = -∇E - z.

    With β_k from β_max/N down to β_min/N and α = 1 - β_k: predictor z ← (2 - √α)z + β_k·s + √β_k·n; corrector ε =
    2α(r·‖n‖/‖s‖)², z ← z + ε·s + √(2ε)·n with r = `snr`. As in the paper's code the norms are means over the batch, so
    that samples are coupled, and all corrections of a step reuse the score of its predictor; `per_sample` and
    `refresh_score` undo that.
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
        self.per_sample, self.refresh_score, self.beta_min, self.beta_max = (
            per_sample,
            refresh_score,
            beta_min,
            beta_max,
        )

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
        norms = x.norm(dim=1, keepdim=True)
        return norms if self.per_sample else norms.mean()
