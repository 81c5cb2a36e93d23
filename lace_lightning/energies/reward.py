"""Rewards: functions of pictures or latents that are to be large, as energies."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import LaceError
from .base import Energy

# Spaces of the argument of a reward: latents, or pictures.
SPACES = ("z", "w", "x")
Function = Callable[[Tensor], Tensor]


def brightness(images: Tensor) -> Tensor:
    """Return the mean of all pixels and channels (B,), from -1 for black to 1 for white.

    Args:
        images: pictures (B, C, H, W) in [-1, 1].

    Example:
        >>> import torch
        >>> brightness(torch.full((2, 3, 4, 4), 0.5))
        tensor([0.5000, 0.5000])
    """
    return images.flatten(1).mean(1)


class Reward(Energy):
    """The energy E(u) = -weight·r(u) of a reward r that is to be large; beside a query it is added to the query's.

    The samples are of N(z)·p(c|w)^γ·exp(weight·r). A reward without a gradient needs a sampler that uses values alone:
    slice, pcn or rejection. Rejection also needs `best`, with which E = weight·(best - r) is at least 0.

    Args:
        function: r, a function of u (B, ...) that returns one number a sample (B,); or its name as package.module.name.
        weight: factor of the reward; a negative one asks for a small reward.
        space: what u is: z or w for latents (B, D), x for pictures (B, C, H, W) in [-1, 1].
        best: the largest reward that there is, for a negative weight the smallest; None where it is not known.

    Raises:
        LaceError: for a function that cannot be imported, another space, and a weight that is no finite number; at
            evaluation for a result of another shape, numbers that are not finite, a reward better than `best`, and a
            gradient of a function that has none.

    References:
        Direct optimisation of latents by rewards: ReNO (arXiv 2406.04312).

    Example:
        >>> import torch
        >>> Reward(brightness, weight=2.0)(torch.full((1, 3, 4, 4), 0.25))
        tensor([-0.5000])
    """

    # It has no exponent γ of an event's probability.
    power = math.nan

    def __init__(
        self, function: str | Function, weight: float = 1.0, space: str = "x", best: float | None = None
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise LaceError(f"The space of a reward must be one of {', '.join(SPACES)}, received '{space}'.")
        if not math.isfinite(weight):
            raise LaceError(f"The weight of a reward must be a finite number, received {weight}: 1 is the default.")
        found = _imported(function) if isinstance(function, str) else function
        # In a tuple: a module that is an attribute would become a part of the energy's state.
        self._function = (found,)
        self.weight, self.space, self.best = float(weight), space, best
        self.name = getattr(found, "__name__", type(found).__name__)

    def reward(self, u: Tensor) -> Tensor:
        """Return r (B,) for u (B, ...). Raises LaceError for a result that is not one finite number a sample."""
        value = self._function[0](u)
        if not isinstance(value, Tensor) or value.shape != (len(u),):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise LaceError(
                f"The reward '{self.name}' must return one number for each of {len(u)} samples, shape ({len(u)},), and "
                f"returned {shape}: average over the other dimensions."
            )
        return value

    def forward(self, u: Tensor) -> Tensor:
        reward = self.reward(u)
        # A check of values would wait for the GPU in every evaluation, and cannot be captured in a CUDA graph.
        if not reward.is_cuda and not bool(torch.isfinite(reward).all()):
            raise LaceError(
                f"The reward '{self.name}' must be a finite number for every sample, and is not for "
                f"{int((~torch.isfinite(reward)).sum())} of {len(u)}: correct the function."
            )
        if self.best is None:
            return -self.weight * reward
        energy = self.weight * (self.best - reward)
        if not energy.is_cuda and bool((energy < -1e-4 * max(1.0, abs(self.weight * self.best))).any()):
            raise LaceError(
                f"The reward '{self.name}' must not be better than best={self.best:g}, and is "
                f"{float(reward.max() if self.weight > 0 else reward.min()):g}: correct best, or set it to null."
            )
        result: Tensor = energy.clamp(min=0)
        return result

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            x = u.detach().clone().requires_grad_(True)
            value: Tensor = self(x)
            if not value.requires_grad:
                raise LaceError(
                    f"The sampler follows gradients, and the reward '{self.name}' has none: choose sampler=slice, pcn "
                    "or rejection, or compute the reward by operations of torch that have gradients."
                )
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    @property
    def is_probability(self) -> bool:
        return self.best is not None

    def extra_repr(self) -> str:
        bound = "" if self.best is None else f", best={self.best:g}"
        return f"{self.name} of {self.space}, weight={self.weight:g}{bound}"


def _imported(name: str) -> Function:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise LaceError(
            f"The function of a reward must be the name of a Python function such as my_module.bright, and '{name}' "
            f"could not be imported ({error}): check the name and PYTHONPATH."
        ) from None
    if not callable(found):
        raise LaceError(
            f"The function of a reward must be the name of a Python function, and '{name}' is a value of type "
            f"{type(found).__name__}: name a function."
        )
    result: Function = found
    return result
