"""Markov chains that leave N(0, I)·exp(-E) as it is: what the exact kernels share."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..energies import Energy
from ..errors import LaceError
from ..seeds import Noise
from .base import Field, NoiseSource, Record, Run, Sampler

# Slice moves that bring a pilot to where a chain will be.
SETTLING = 10
# Between walls a proposal is in or out, and short ones do not help.
WALLED_ACCEPTANCE = 0.3


@dataclass
class State:
    """Where a chain stands: z (B, D) with E(z) (B,) and, where it is known, ∂E/∂z (B, D)."""

    z: Tensor
    value: Tensor
    gradient: Tensor | None = None

    def moved(self, accepted: Tensor, other: State) -> State:
        """Return `other` for the accepted samples (B,), this state for the rest."""
        gradient = None
        if self.gradient is not None and other.gradient is not None:
            gradient = torch.where(accepted[:, None], other.gradient, self.gradient)
        return State(
            torch.where(accepted[:, None], other.z, self.z), torch.where(accepted, other.value, self.value), gradient
        )


class Draws:
    """Random numbers of one chain, move by move: every sample has its own, however many others there are."""

    def __init__(self, noise: NoiseSource) -> None:
        if not isinstance(noise, Noise):
            raise LaceError(
                "The exact kernels draw normal and uniform numbers: give seeds (one integer per sample) instead of "
                "noise."
            )
        self.noise, self.step = noise, -1

    def normal(self, like: Tensor) -> Tensor:
        """Begin a move: normals (B, D)."""
        self.step += 1
        return self.noise(self.step, like)

    def uniform(self, count: int, like: Tensor) -> Tensor:
        """Uniform values (B, count) of the move."""
        return self.noise.uniform(self.step, count, like.device).to(like.dtype)


class Chain(Sampler):
    """`num_steps` moves of a kernel that leaves N(0, I)·exp(-E) invariant, from z; subclasses give `move`.

    Samples are independent chains. Begun at the prior they approach the target from it; behind a flow, as its
    `corrector`, they take away its bias. Diagnostics: `acceptance`, the mean over moves and samples.
    """

    needs_noise = True
    uses_gradient = False
    # Step sizes that a pilot tries, from the largest; none where the kernel has no step size.
    candidates: tuple[float, ...] = ()
    wanted_acceptance = 0.5
    num_steps: int
    step_size: float | None = None

    def move(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        """Return the state after one move on N(0, I)·exp(-scale·E) and the probability of acceptance (B,)."""
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        return self.step_size is not None or not self.candidates

    def state(self, field: Field, z: Tensor) -> State:
        """Return the state at z, with a gradient if the kernel uses one."""
        return State(z, *field.evaluate(z)) if self.uses_gradient else State(z, field.value(z))

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        draws, state, acceptance = Draws(noise), self.state(field, z), 0.0
        for k in range(self.num_steps):
            field.time = f"move {k + 1} of {self.num_steps}"
            state, accepted = self.move(field, state, 1.0, draws)
            acceptance += float(accepted.mean())
            record(state.z)
        diagnostics: dict[str, Any] = {"acceptance": acceptance / self.num_steps}
        if self.step_size is not None:
            diagnostics["step_size"] = self.step_size
        return state.z, diagnostics

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Chain:
        # Itself a chain, the one that needs no pilot.
        from .slice import EllipticalSlice

        field, draws = Field(energy, self, len(z)), Draws(noise)
        state = EllipticalSlice().state(field, z)
        for scale in [(k / SETTLING) ** 3 for k in range(1, SETTLING + 1)] + [1.0] * SETTLING:
            state, _ = EllipticalSlice().move(field, state, scale, draws)
        return self.tuned(field, self.state(field, state.z), 1.0, draws, self.candidates)[0]

    def tuned(
        self, field: Field, state: State, scale: float, draws: Draws, candidates: tuple[float, ...], trials: int = 3
    ) -> tuple[Chain, State]:
        """Return a copy with the largest step size whose mean acceptance is `wanted_acceptance`, and the state after
        the trials.

        Acceptance and not distance: long trajectories of stiff energies jump far from side to side without getting
        anywhere.
        """
        walled = field.energy.guide is not field.energy
        wanted = min(self.wanted_acceptance, WALLED_ACCEPTANCE) if walled else self.wanted_acceptance
        trial = copy.copy(self)
        for trial.step_size in candidates:
            acceptance = 0.0
            for _ in range(trials):
                state, accepted = trial.move(field, state, scale, draws)
                acceptance += float(accepted.mean()) / trials
            if acceptance >= wanted:
                break
        return trial, state


def probability(log_ratio: Tensor) -> Tensor:
    """Return min(1, exp(log_ratio)), 0 where it is not a number."""
    return log_ratio.nan_to_num(-math.inf, math.inf, -math.inf).clamp(max=0).exp()
