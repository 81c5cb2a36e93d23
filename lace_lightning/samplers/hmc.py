"""Hamiltonian Monte Carlo for Gaussian priors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Field, require_positive
from .markov import Draws, State, probability
from .tuning import TunedChain

# The largest relative distance from the nominal step size; every sample and move has its own.
JITTER = 0.3


class HamiltonianMC(TunedChain):
    """∞-HMC moves: v ~ N(0, I), L times [v -= ½h∇E; rotate (z, v) by h; v -= ½h∇E], then accept or stay.

    A move is accepted with probability min(1, exp(-ΔH)), H = E + ½‖z‖² + ½‖v‖². The rotation
    (z cos h + v sin h, v cos h - z sin h) follows the prior exactly, so that every move is accepted where E is
    constant. In a hard region the force is the gradient of the guide and the acceptance uses the wall: still exact. A
    step of a run is a slice move, and a move that costs L + 1 gradients.

    Target: N(0, I)·exp(-E), exactly after enough moves. Use: energies with gradients, where chains need fewer moves
    than by slices, and as `corrector` of a flow.

    Args:
        num_steps: moves, at least 1; None for as many as a pilot finds necessary.
        num_leapfrogs: L, at least 1.
        step_size: the angle h above 0, in radians, which varies by ± 30 %; None for the one that a pilot finds.

    Raises:
        LaceError: for a setting that is not above 0.

    References:
        Beskos, Pinski, Sanz-Serna and Stuart, Hybrid Monte Carlo on Hilbert spaces, Stochastic Processes and their
        Applications 2011.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = HamiltonianMC(5, step_size=0.3)(Prior(), torch.zeros(2, 3), seeds=torch.arange(2))
        >>> sample.z.shape, sample.evaluations
        (torch.Size([2, 3]), 25.0)
    """

    uses_gradient = True
    wanted_acceptance = 0.75
    candidates = tuple(math.pi / 8 * 2 ** (-k / 2) for k in range(14))

    def __init__(self, num_steps: int | None = None, num_leapfrogs: int = 4, step_size: float | None = None) -> None:
        given = {"num_steps": num_steps, "num_leapfrogs": num_leapfrogs, "step_size": step_size}
        require_positive(**{name: value for name, value in given.items() if value is not None})
        self.num_steps, self.num_leapfrogs, self.step_size = num_steps, num_leapfrogs, step_size

    def move(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        assert self.step_size is not None
        z, v = state.z, draws.normal(state.z)
        value, gradient = (state.value, state.gradient) if state.gradient is not None else field.evaluate(z)
        accept_at, jitter = draws.uniform(2, z).T
        # Trajectories of one length return to their start in some directions, and never mix there.
        h = self.step_size * (1 + JITTER * (2 * jitter[:, None] - 1))
        half, cos, sin = h * scale / 2, h.cos(), h.sin()
        before = _energy(scale, value, z, v)
        first = State(z, value, gradient)
        for _ in range(self.num_leapfrogs):
            v = v - half * gradient
            z, v = z * cos + v * sin, v * cos - z * sin
            value, gradient = field.evaluate(z)
            v = v - half * gradient
        accept = probability(before - _energy(scale, value, z, v))
        return first.moved(accept_at < accept, State(z, value, gradient)), accept


def _energy(scale: float, value: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """Return H (B,) in float64: its differences are what matters."""
    return scale * value.double() + (z.double().square() + v.double().square()).sum(1).to(torch.float64) / 2
