"""Elliptical slice sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Field, require_positive
from .markov import Chain, Draws, State


class EllipticalSlice(Chain):
    """Elliptical slice moves z ← z cos θ + ν sin θ, ν ~ N(0, I), θ from a bracket that shrinks until E falls enough.

    θ is accepted where E(z') < E(z) - log u. Chains are exact for N(0, I)·exp(-E), without step size and without
    gradients. A move costs one energy for every θ that is tried.

    Target: N(0, I)·exp(-E), exactly after enough moves. Use: energies without gradients, hard regions, and as
    `corrector` of any flow: nothing has to be chosen.

    Args:
        num_steps: moves, at least 1; None for as many as a pilot finds necessary.
        max_shrinks: the most θ that a move tries, at least 1; then the sample stays, which keeps detailed balance.

    Raises:
        LaceError: for a setting that is not above 0.

    References:
        Murray, Adams and MacKay, Elliptical slice sampling, AISTATS 2010.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = EllipticalSlice(5)(Prior(), torch.zeros(2, 3), seeds=torch.arange(2))
        >>> sample.z.shape, sample.evaluations, sample.diagnostics["acceptance"]
        (torch.Size([2, 3]), 0.0, 1.0)
    """

    fewest_moves = 20

    def __init__(self, num_steps: int | None = None, max_shrinks: int = 30) -> None:
        require_positive(max_shrinks=max_shrinks, **({} if num_steps is None else {"num_steps": num_steps}))
        self.num_steps, self.max_shrinks = num_steps, max_shrinks

    def move(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        z, nu = state.z.clone(), draws.normal(state.z)
        u = draws.uniform(2 + self.max_shrinks, z)
        level = -scale * state.value + u[:, 0].clamp(min=1e-30).log()
        high = 2 * math.pi * u[:, 1]
        theta, low, value = high, high - 2 * math.pi, state.value.clone()
        active = torch.arange(len(z), device=z.device)
        for shrink in range(self.max_shrinks):
            whole = len(active) == len(z)
            start, direction = (state.z, nu) if whole else (state.z[active], nu[active])
            proposal = start * theta.cos()[:, None] + direction * theta.sin()[:, None]
            energy = field.value(proposal, None if whole else active)
            good = -scale * energy > level
            z[active[good]], value[active[good]] = proposal[good], energy[good]
            left = ~good
            active, level, theta = active[left], level[left], theta[left]
            if not len(active):
                break
            low, high = torch.where(theta < 0, theta, low[left]), torch.where(theta < 0, high[left], theta)
            theta = low + (high - low) * u[active, 2 + shrink]
        moved = torch.ones(len(z), dtype=z.dtype, device=z.device)
        moved[active] = 0
        return State(z, value), moved
