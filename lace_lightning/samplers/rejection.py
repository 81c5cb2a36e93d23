"""Rejection sampling: exact samples from forward passes alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from ..energies import WALL, Energy
from ..errors import LaceError
from ..seeds import Noise
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive
from .importance import log_probability
from .markov import Draws

# Attempts of each sample of a pilot, from which it estimates how often one succeeds.
PILOT_ATTEMPTS = 64
# The most attempts that are evaluated together, of all samples.
ROWS = 4096
# A sample may take so many times `max_attempts` before the run ends with an error.
UNLUCKY = 40


class Rejection(Sampler):
    """Draws z ~ N(0, I) until one is accepted with probability min(1, e^{-E(z)}/floor): exact samples where floor = 1.

    The first attempt is the starting point, the others are drawn from the sample's seed. A sample of N(0, I)·e^{-E}
    costs 1/P forward passes on average. Diagnostics: `attempts` per sample, `acceptance`, `counts` (B,), the logs
    `log_weights` (B,) of the sum of e^{-E} over them and, outside hard regions, `event_log_weights` (B,).

    Target: N(0, I)·exp(-E), exactly where floor = 1. Use: queries of a probability above about 1/100; it costs no
    gradient, and samples are independent.

    Args:
        max_attempts: the most attempts per sample on average, at least 1; one sample may take `UNLUCKY` times as many.
        floor: in (0, 1]. Below 1 everything is accepted that is at least so probable, for use before another check.

    Raises:
        LaceError: for settings out of range, for an energy that is no probability, and where P is estimated to be below
            1/`max_attempts`.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import HalfLine
        >>> sample = Rejection()(HalfLine(slice(0, 1), 0.0, sigma=0.01), torch.ones(4, 2), seeds=torch.arange(4))
        >>> bool((sample.z[:, 0] < 0.05).all()), sample.evaluations
        (True, 0.0)
    """

    needs_noise = True
    uses_gradient = False

    def __init__(self, max_attempts: int = 2000, floor: float = 1.0) -> None:
        require_positive(max_attempts=max_attempts, floor=floor)
        if floor > 1:
            raise LaceError(f"The floor of rejection must lie in (0, 1], received {floor}: 1 is exact.")
        self.max_attempts, self.floor, self._checked = max_attempts, floor, False

    @property
    def is_ready(self) -> bool:
        return self._checked

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        if not energy.is_probability:
            raise LaceError(
                "Rejection needs an energy of at least 0, the -log of a probability, and that of this run is lower: "
                "set query.logic=exact and query.paper_temperature=false, give a reward its largest value (best), or "
                "choose sampler=annealed."
            )
        log_p, error = estimate(energy, z, noise, math.log(self.floor))
        if log_p < -math.log(self.max_attempts):
            # A few thousand draws bound the probability of a rare event, and do not estimate it.
            at_most = math.log(3 / (PILOT_ATTEMPTS * len(z)))
            shown = (
                f"{math.exp(log_p):.2g}"
                if log_p > at_most and error < 1
                else f"below {math.exp(max(at_most, log_p)):.1g}"
            )
            raise LaceError(
                f"Rejection needs a query that holds for at least 1 in {self.max_attempts} prior samples, and P is "
                f"{shown}: choose sampler=annealed, or raise sampler.max_attempts."
            )
        result = copy.copy(self)
        result._checked = True
        return result

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        source, power, floor = Draws(noise).noise, field.energy.power, math.log(self.floor)
        result, active = z.clone(), torch.arange(len(z), device=z.device)
        sums = z.new_full((len(z),), -math.inf, dtype=torch.float64)
        events, counts, first = sums.clone(), torch.zeros_like(sums), 0
        walled = field.energy.guide is not field.energy
        while len(active):
            if first >= UNLUCKY * self.max_attempts:
                shown = math.exp(log_probability(sums, counts)[0])
                raise LaceError(
                    f"Rejection must succeed within {first} attempts a sample and did not for {len(active)} of "
                    f"{len(z)}; P is about {shown:.2g}: choose sampler=annealed, or raise sampler.max_attempts."
                )
            count = max(1, min(ROWS // len(active), 16))
            proposals, u = source.rows(active).attempts(first, count, z[active])
            if first == 0:
                proposals[::count] = z
            rows = active.repeat_interleave(count)
            log_p = -field.value(proposals, rows if count > 1 or len(active) < len(z) else None)
            accepted = (u.clamp(min=1e-30).log() < log_p - floor).view(-1, count)
            # Attempts after the first success do not count.
            tried = accepted.long().cumsum(1).sub(accepted.long()) == 0
            log_p = log_p.double().view(-1, count)
            for total, terms in ((sums, log_p), (events, log_p / power)):
                total[active] = torch.logaddexp(total[active], terms.masked_fill(~tried, -math.inf).logsumexp(1))
            counts[active] += tried.sum(1)
            done = accepted.any(1)
            winner = accepted.long().argmax(1) + torch.arange(len(active), device=z.device) * count
            result[active[done]] = proposals[winner[done]]
            active, first = active[~done], first + count
        record(result)
        diagnostics: dict[str, Any] = {
            "attempts": float(counts.mean()),
            "acceptance": float(len(z) / counts.sum()),
            "log_weights": sums.clamp(min=-WALL),
            "counts": counts,
        }
        if not walled and power > 0:
            diagnostics["event_log_weights"] = events
        return result, diagnostics


def estimate(energy: Energy, z: Tensor, noise: Noise, floor: float = 0.0) -> tuple[float, float]:
    """Return the log of E[min(1, e^{-E}/e^{floor})] over prior samples, and its standard error.

    Args:
        energy: E (B,) of latents (B, D).
        z: a tensor (B, D) with the number of samples of the energy, and their shape, device and type.
        noise: noise of these samples, of which `PILOT_ATTEMPTS` draws each are used.
        floor: the log of the floor, at most 0.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import HalfLine
        >>> log_p, _ = estimate(HalfLine(slice(0, 1), 0.0), torch.zeros(64, 2), Noise(torch.arange(64)))
        >>> abs(log_p + 0.6931) < 0.1
        True
    """
    draws, _ = noise.attempts(0, PILOT_ATTEMPTS, z)
    rows = torch.arange(len(z), device=z.device).repeat_interleave(PILOT_ATTEMPTS)
    return log_probability((-energy.rows(rows)(draws) - floor).clamp(max=0))
