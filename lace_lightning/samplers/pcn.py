"""The preconditioned Crank-Nicolson proposal."""

from __future__ import annotations

import math

from torch import Tensor

from .base import Field, require_positive
from .markov import Chain, Draws, State, probability


class CrankNicolson(Chain):
    """z' = z cos h + ν sin h with ν ~ N(0, I), accepted with probability min(1, exp(E(z) - E(z'))).

    Exact for N(0, I)·exp(-E), one energy a move (Cotter, Roberts, Stuart and White, Statistical Science 2013).
    `step_size` is the angle h in (0, π/2]; without one a pilot finds it.
    """

    wanted_acceptance = 0.3
    candidates = tuple(math.pi / 2 * 2 ** (-k / 2) for k in range(16))

    def __init__(self, num_steps: int = 200, step_size: float | None = None) -> None:
        require_positive(num_steps=num_steps, **({} if step_size is None else {"step_size": step_size}))
        self.num_steps, self.step_size = num_steps, step_size

    def move(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        assert self.step_size is not None
        z = state.z * math.cos(self.step_size) + draws.normal(state.z) * math.sin(self.step_size)
        after = State(z, field.value(z))
        accept = probability(scale * (state.value - after.value))
        return state.moved(draws.uniform(1, z)[:, 0] < accept, after), accept
