"""The sampler that chooses the sampler."""

from __future__ import annotations

import copy
import math

from torch import Tensor

from ..energies import Energy
from ..seeds import Noise
from .annealed import Annealed
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive
from .gauss_newton import GaussNewton
from .importance import log_probability
from .rejection import Rejection, estimate
from .slice import EllipticalSlice

# Below this acceptance in its last stage an annealed chain does not move.
STUCK = 0.2


class Auto(Sampler):
    """Estimate the probability P of the target on a pilot, and become the cheapest sampler that is right for it.

    Rejection where an attempt succeeds at least once in `max_attempts`; else annealed chains, of few stages above P =
    `rare` and of many below; else, where the chains would not move, the flow with a corrector. `reason` of the result
    says why.
    """

    needs_noise = True

    def __init__(
        self, max_attempts: float = 30, rare: float = 1e-2, few_stages: int = 10, many_stages: int = 40
    ) -> None:
        require_positive(max_attempts=max_attempts, rare=rare, few_stages=few_stages, many_stages=many_stages)
        self.max_attempts, self.rare, self.few_stages, self.many_stages = max_attempts, rare, few_stages, many_stages

    @property
    def is_ready(self) -> bool:
        return False

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        if not energy.is_probability:
            return _with(
                self._flow(energy, z, noise),
                "the query has no probability (the paper's logic or temperature): the flow with a corrector",
            )
        log_p, error = estimate(energy, z, noise)
        if log_p > -math.log(self.max_attempts) and error < 0.5:
            return _with(
                Rejection(int(self.max_attempts)).prepare(energy, z, noise),
                f"P is {math.exp(log_p):.2g}, about {math.exp(-log_p):.0f} forward passes a sample: rejection, which "
                f"is exact",
            )
        rare = log_p < math.log(self.rare) or error > 0.5
        annealed = Annealed(self.many_stages if rare else self.few_stages).prepare(energy, z, noise)
        # The pilot is annealed once more with its steps frozen: its weights tell P, its last moves whether chains
        # arrive.
        _, told = annealed.run(Field(energy, annealed, len(z)), z, noise.shifted(2**30), lambda state: None)
        log_p = log_probability(told["event_log_weights" if "event_log_weights" in told else "log_weights"])[0]
        if told["acceptance_end"] < STUCK:
            return _with(
                self._flow(energy, z, noise),
                f"P is about {math.exp(log_p):.1g}, and chains accept only "
                f"{told['acceptance_end']:.0%} of their moves at the target: the flow with a corrector",
            )
        return _with(
            annealed,
            f"P is about {math.exp(log_p):.1g}, too rare for rejection: annealed chains of "
            f"{annealed.num_stages} stages, {told['acceptance_end']:.0%} accepted",  # type: ignore[attr-defined]
        )

    def _flow(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        return GaussNewton(corrector=EllipticalSlice(20))

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        raise AssertionError("Auto becomes another sampler before it runs.")


def _with(sampler: Sampler, reason: str) -> Sampler:
    result = copy.copy(sampler)
    result.reason = reason
    return result
