"""Rejection: exact samples from forward passes alone."""

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

# Prior samples from which a pilot estimates how often an attempt succeeds.
PILOT_ATTEMPTS = 64
ROWS = 4096
UNLUCKY = 40


class Rejection(Sampler):
    """Draw z ~ N(0, I) until one is accepted with probability min(1, e^{-E(z)}/`floor`): exact for N(0, I)·e^{-E} where
    floor = 1.

    The first attempt is the starting point, the others come from the sample's seed. A sample costs 1/P forward passes
    on average; raises LaceError with the estimate of P where that is more than `max_attempts` (or, for a sample of bad
    luck, `UNLUCKY` times as many), and for energies below 0, which are no probabilities. A floor below 1 accepts
    everything that is at least so probable: a sieve in front of a check that decides. Diagnostics: `attempts` per
    sample, `acceptance`, `log_weights` and `event_log_weights` (B,) of `counts` (B,) attempts.
    """

    needs_noise = True

    def __init__(self, max_attempts: int = 2000, floor: float = 1.0) -> None:
        require_positive(max_attempts=max_attempts, floor=floor)
        if floor > 1:
            raise LaceError(f"The floor of rejection must lie in (0, 1], received {floor}.")
        self.max_attempts, self.floor, self._checked = max_attempts, floor, False

    @property
    def is_ready(self) -> bool:
        return self._checked

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        if not energy.is_probability:
            raise LaceError(
                "Rejection needs an energy of at least 0, the -log of a probability, and this query's is none: set "
                "query.logic=exact and query.paper_temperature=false, or choose sampler=annealed."
            )
        log_p, error = estimate(energy, z, noise, math.log(self.floor))
        if log_p < -math.log(self.max_attempts):
            # A few thousand draws say little about a rare event, but that it is rare.
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
            # What comes after the first success was not asked for, and does not count.
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
    """Return log E[min(1, e^{-E}/e^{floor})] and its standard error over `PILOT_ATTEMPTS` prior samples for each row of
    z (B, D).
    """
    draws, _ = noise.attempts(0, PILOT_ATTEMPTS, z)
    rows = torch.arange(len(z), device=z.device).repeat_interleave(PILOT_ATTEMPTS)
    return log_probability((-energy.rows(rows)(draws) - floor).clamp(max=0))
