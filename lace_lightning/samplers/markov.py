"""Markov chains that leave N(0, I)·exp(-E) invariant: the loop, states and random numbers of the exact kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LaceError
from ..seeds import Noise
from .base import Field, NoiseSource, Record, Run, Sampler


@dataclass
class State:
    """The state of a batch of chains.

    Args:
        z: latents (B, D).
        value: E(z) (B,).
        gradient: ∂E/∂z (B, D), for kernels that use it.

    Example:
        >>> import torch
        >>> low, high = State(torch.zeros(2, 1), torch.zeros(2)), State(torch.ones(2, 1), torch.ones(2))
        >>> low.moved(torch.tensor([True, False]), high).value
        tensor([1., 0.])
    """

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
    """The random numbers of a chain, move by move; those of a sample follow from its own seed.

    Args:
        noise: noise of the samples' seeds.

    Raises:
        LaceError: when the noise is a function of another kind, which has no uniform numbers.

    Example:
        >>> import torch
        >>> draws = Draws(Noise(torch.arange(3)))
        >>> draws.normal(torch.zeros(3, 4)).shape, draws.uniform(2, torch.zeros(3, 4)).shape
        (torch.Size([3, 4]), torch.Size([3, 2]))
    """

    def __init__(self, noise: NoiseSource) -> None:
        if not isinstance(noise, Noise):
            raise LaceError(
                "The exact kernels draw normal and uniform numbers: give seeds (one integer per sample) instead of "
                "noise."
            )
        self.noise, self.step = noise, -1

    def normal(self, like: Tensor) -> Tensor:
        """Return the normals (B, D) of the next move, which begins with them."""
        self.step += 1
        return self.noise(self.step, like)

    def uniform(self, count: int, like: Tensor) -> Tensor:
        """Return uniform values (B, count) of the current move, independent of its normals."""
        return self.noise.uniform(self.step, count, like.device).to(like.dtype)


class Chain(Sampler):
    """Base class of `num_steps` moves of a kernel that leaves N(0, I)·exp(-E) invariant; a subclass defines `move`.

    Samples are independent chains. From the prior they approach the target; after a flow, as its `corrector`, they
    remove its bias. Diagnostics: `acceptance`, the mean over moves and samples, and `step_size` where there is one.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> class Independent(Chain):
        ...     num_steps = 5
        ...     def move(self, field, state, scale, draws):
        ...         z = draws.normal(state.z)
        ...         after = State(z, field.value(z))
        ...         accept = probability(scale * (state.value - after.value))
        ...         return state.moved(draws.uniform(1, z)[:, 0] < accept, after), accept
        >>> Independent()(Prior(), torch.zeros(4, 1), seeds=torch.arange(4)).forward
        6.0
    """

    needs_noise = True
    uses_gradient = False
    num_steps: int
    step_size: float | None = None

    def move(self, field: Field, state: State, scale: float, draws: Draws) -> tuple[State, Tensor]:
        """Return the state after one move and the probability of acceptance (B,).

        Args:
            field: the energy E and its gradient.
            state: the state before the move.
            scale: the target is N(0, I)·exp(-scale·E).
            draws: random numbers, of which a move begins with the normals.
        """
        raise NotImplementedError

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


def probability(log_ratio: Tensor) -> Tensor:
    """Return the probability of acceptance min(1, exp(log_ratio)), which is 0 where the ratio is not a number.

    Args:
        log_ratio: logs (B,) of the ratio of densities.

    Example:
        >>> import torch
        >>> probability(torch.tensor([1.0, torch.nan]))
        tensor([1., 0.])
    """
    return log_ratio.nan_to_num(-math.inf, math.inf, -math.inf).clamp(max=0).exp()
