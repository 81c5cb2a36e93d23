"""The sampler that chooses a sampler by a pilot."""

from __future__ import annotations

import copy
import math

from torch import Tensor

from ..energies import Energy
from ..errors import LaceError
from ..seeds import Noise, Streams
from .annealed import Annealed
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive
from .gauss_newton import GaussNewton
from .importance import log_probability
from .rejection import Rejection, estimate
from .slice import EllipticalSlice

# Below this acceptance in the last stage annealed chains count as stuck.
STUCK = 0.2


class Auto(Sampler):
    """The cheapest sampler that is right for the target, by the probability P that a pilot estimates.

    It is rejection where P is above 1/`max_attempts`, else annealed chains. Where the pilot's annealed chains do not
    move, or the energy is no probability, it is the flow with a corrector. `reason` of the sampler that `calibrated`
    returns says why. A system samples the controlled target by it, N(z)·p(c|w)¹⁰, unless another one is asked for.

    Target: N(0, I)·exp(-E), exactly, except where the choice is the flow of an energy that is no probability. Use: to
    draw from the target that was named without choosing a sampler.

    Args:
        max_attempts: the most attempts per sample that rejection may take on average, above 0.
        rare: the P below which annealed chains have `many_stages`, above 0.
        few_stages: stages of annealed chains for P above `rare`, at least 1.
        many_stages: stages of annealed chains for P below `rare`, at least 1.

    Raises:
        LaceError: for a setting that is not above 0.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import HalfLine
        >>> chosen = Auto().calibrated(HalfLine(slice(0, 1), 0.0), torch.zeros(2, 3))
        >>> type(chosen).__name__, chosen.reason[:4]
        ('Rejection', 'P is')
    """

    needs_noise = True
    default_target = "controlled"
    # The power with which samples of ten classes have the ACC of .94 (CIFAR-10; γ = 6 has .91).
    default_weight = 10.0

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
                "the target is no probability (a reward, or the paper's logic or temperature): chains of slice moves",
            )
        log_p, error = estimate(energy, z, noise)
        if log_p > -math.log(self.max_attempts) and error < 0.5:
            return _with(
                Rejection(int(self.max_attempts)).prepare(energy, z, noise),
                f"P is {math.exp(log_p):.2g}, about {math.exp(-log_p):.0f} forward passes a sample: rejection, which "
                "is exact",
            )
        if not _has_gradient(energy, z):
            return _with(
                EllipticalSlice().prepare(energy, z, noise),
                f"P is about {math.exp(log_p):.1g}, and the reward has no gradient: chains of slice moves",
            )
        rare = log_p < math.log(self.rare) or error > 0.5
        stages = self.many_stages if rare else self.few_stages
        annealed = Annealed(stages).prepare(energy, z, noise)
        # The pilot is annealed once more with its step sizes fixed: its weights estimate P, and the acceptance of its
        # last moves decides whether chains are stuck.
        _, diagnostics = annealed.run(
            Field(energy, annealed, len(z)), z, noise.shifted(Streams.PILOT_AGAIN), lambda state: None
        )
        weights = diagnostics["event_log_weights" if "event_log_weights" in diagnostics else "log_weights"]
        log_p, acceptance = log_probability(weights)[0], float(diagnostics["acceptance_end"])
        if acceptance < STUCK:
            return _with(
                self._flow(energy, z, noise),
                f"P is about {math.exp(log_p):.1g}, and chains accept only "
                f"{acceptance:.0%} of their moves at the target: the flow with a corrector",
            )
        return _with(
            annealed,
            f"P is about {math.exp(log_p):.1g}, too rare for rejection: annealed chains of {stages} stages, "
            f"{acceptance:.0%} accepted",
        )

    def _flow(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        if not _has_gradient(energy, z):
            return EllipticalSlice().prepare(energy, z, noise)
        return GaussNewton(corrector=EllipticalSlice())

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        raise AssertionError("Auto becomes another sampler before it runs.")


def _has_gradient(energy: Energy, z: Tensor) -> bool:
    """Return whether the energy has a gradient, which a reward may lack."""
    try:
        energy.value_and_grad(z)
    except LaceError:
        return False
    return True


def _with(sampler: Sampler, reason: str) -> Sampler:
    """Return a copy of the sampler with the reason for its choice."""
    result = copy.copy(sampler)
    result.reason = reason
    return result
