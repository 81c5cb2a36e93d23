"""The preconditioned Crank-Nicolson proposal."""

from __future__ import annotations

import math

from torch import Tensor

from .base import Field, require_positive
from .markov import Draws, State, probability
from .tuning import TunedChain


class CrankNicolson(TunedChain):
    """Crank-Nicolson moves z' = z cos h + ν sin h, ν ~ N(0, I), accepted with probability min(1, exp(E(z) - E(z'))).

    Chains are exact for N(0, I)·exp(-E). A step of a run is a slice move, and a move that costs one energy.

    Target: N(0, I)·exp(-E), exactly after enough moves. Use: energies without gradients; `EllipticalSlice` needs no
    step size.

    Args:
        num_steps: moves, at least 1; None for as many as a pilot finds necessary.
        step_size: the angle h in (0, π/2], in radians; None for the one that a pilot finds.

    Raises:
        LaceError: for a setting that is not above 0.

    References:
        Cotter, Roberts, Stuart and White, MCMC methods for functions, Statistical Science 2013.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = CrankNicolson(5, step_size=0.3)(Prior(), torch.zeros(2, 3), seeds=torch.arange(2))
        >>> sample.z.shape, sample.evaluations, sample.forward >= 11
        (torch.Size([2, 3]), 0.0, True)
    """

    wanted_acceptance = 0.3
    fewest_moves = 20
    candidates = tuple(math.pi / 2 * 2 ** (-k / 2) for k in range(16))

    def __init__(self, num_steps: int | None = None, step_size: float | None = None) -> None:
        given = {"num_steps": num_steps, "step_size": step_size}
        require_positive(**{name: value for name, value in given.items() if value is not None})
        self.num_steps, self.step_size = num_steps, step_size

    def move(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        assert self.step_size is not None
        z = state.z * math.cos(self.step_size) + draws.normal(state.z) * math.sin(self.step_size)
        after = State(z, field.value(z))
        accept = probability(scale * (state.value - after.value))
        return state.moved(draws.uniform(1, z)[:, 0] < accept, after), accept
