"""Chains whose step size a pilot measures."""

from __future__ import annotations

import copy

from torch import Tensor

from ..energies import Energy
from ..seeds import Noise
from .base import Field, Sampler
from .markov import Chain, Draws, State
from .slice import EllipticalSlice

SLICE = EllipticalSlice(1)
# Slice moves that bring a pilot to the target, and as many on the way to it.
SETTLING = 10
# Between walls a proposal is accepted or not whatever its length, and shorter ones do not help.
WALLED_ACCEPTANCE = 0.3


class TunedChain(Chain):
    """Base class of chains with a `step_size`, which a pilot chooses from `candidates` where it is None.

    A step of a run is one elliptical slice move and one of the kernel. Each leaves the target invariant. Moves of one
    step size alone stay for very long in narrow or separate regions of the target, which slice moves leave: their
    lengths adapt to every state.

    The pilot takes the largest candidate whose mean acceptance is at least `wanted_acceptance`. Acceptance decides and
    not distance: long trajectories of stiff energies jump far from side to side without getting anywhere.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> from lace_lightning.samplers import HamiltonianMC
        >>> chain = HamiltonianMC(3)
        >>> tuned = chain.calibrated(Prior(), torch.zeros(2, 4))
        >>> chain.is_ready, tuned.is_ready, tuned.step_size in chain.candidates
        (False, True, True)
    """

    # Step sizes that a pilot tries, from the largest.
    candidates: tuple[float, ...] = ()
    wanted_acceptance = 0.5

    @property
    def is_ready(self) -> bool:
        return self.step_size is not None and super().is_ready

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        field, draws, chain = Field(energy, self, len(z)), Draws(noise), self
        if self.step_size is None:
            state = self.state(field, settled(field, z, draws).z)
            chain = self.tuned(field, state, 1.0, draws, self.candidates)[0]
        return chain.measured(energy, z)

    def state(self, field: Field, z: Tensor) -> State:
        return State(z, field.value(z))

    def advance(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        state, _ = SLICE.move(field, state, scale, draws)
        return self.move(field, state, scale, draws)

    def tuned(
        self, field: Field, state: State, scale: float, draws: Draws, candidates: tuple[float, ...], trials: int = 3
    ) -> tuple[TunedChain, State]:
        """Return a copy with the largest step size that is accepted often enough, and the state after the trials.

        Args:
            field: the energy and its gradient.
            state: states of the pilot's chains.
            scale: the target is N(0, I)·exp(-scale·E).
            draws: random numbers of the pilot.
            candidates: step sizes to try, from the largest, at least one; the last is taken where none suffices.
            trials: moves with each of them.
        """
        walled = field.energy.guide is not field.energy
        wanted = min(self.wanted_acceptance, WALLED_ACCEPTANCE) if walled else self.wanted_acceptance
        trial = copy.copy(self)
        for step_size in candidates:
            trial.step_size = step_size
            acceptance = 0.0
            for _ in range(trials):
                state, accepted = trial.move(field, state, scale, draws)
                acceptance += float(accepted.mean()) / trials
            if acceptance >= wanted:
                break
        return trial, state


def settled(field: Field, z: Tensor, draws: Draws) -> State:
    """Return states near the target: slice moves on N(0, I)·exp(-λE), λ rising to 1, from prior samples z (B, D).

    Args:
        field: the energy and its gradient.
        z: samples of the prior (B, D).
        draws: random numbers of the chains.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> from lace_lightning.samplers import EllipticalSlice
        >>> from lace_lightning.seeds import Noise
        >>> field, draws = Field(Prior(), EllipticalSlice(), 2), Draws(Noise(torch.arange(2)))
        >>> settled(field, torch.zeros(2, 3), draws).z.shape
        torch.Size([2, 3])
    """
    kernel = SLICE
    state = kernel.state(field, z)
    for scale in [(k / SETTLING) ** 3 for k in range(1, SETTLING + 1)] + [1.0] * SETTLING:
        state, _ = kernel.move(field, state, scale, draws)
    return state
