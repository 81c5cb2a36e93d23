"""Flows in fixed steps: the loop, and the grids of their steps."""

from __future__ import annotations

import itertools

from torch import Tensor

from .base import Field, NoiseSource, Record, Run, Sampler

# The time that messages show, the start and the end of a step.
Step = tuple[float | str, float, float]


class Flow(Sampler):
    """Base class of the flow dz/ds = -∇E(c|g(z)), s from 0 to Λ, in fixed steps; a method defines `steps` and `step`.

    References:
        Eq. 7 of LACE (arXiv 2110.10873), in the length s of its schedule: see `lace_lightning.schedules.VP`.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> class Midpoint(Flow):
        ...     order = 2
        ...     def steps(self):
        ...         return [(start, start, end) for start, end in cubic_grid(5.0, 20)]
        ...     def step(self, field, z, length):
        ...         return z - length * field(z - length / 2 * field(z))
        >>> sample = Midpoint()(Prior(), torch.ones(1, 2))
        >>> sample.evaluations, bool(sample.z.abs().max() < 0.1)
        (40.0, True)
    """

    is_flow = True

    def steps(self) -> list[Step]:
        """Return (time that messages show, start, end) of every step, in order."""
        raise NotImplementedError

    def step(self, field: Field, z: Tensor, length: float) -> Tensor:
        """Return z (B, D) after a step of `length` in s; the argument may be written to."""
        raise NotImplementedError

    def length(self, start: float, end: float) -> float:
        """Return the length ∫ds of the step from start to end: their difference, where they are values of s."""
        return end - start

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        for shown, start, end in self.steps():
            field.time = shown
            z = self.step(field, z, self.length(start, end))
            record(z)
        return z, {}


def cubic_grid(length: float, num_steps: int) -> list[tuple[float, float]]:
    """Return start and end of `num_steps` steps with s = length·u³, u = 1/N .. 1, short where the field is large.

    Args:
        length: Λ, the length of the flow, above 0.
        num_steps: N, at least 1.

    Example:
        >>> cubic_grid(8.0, 2)
        [(0.0, 1.0), (1.0, 8.0)]
    """
    s = [length * (k / num_steps) ** 3 for k in range(num_steps + 1)]
    return list(itertools.pairwise(s))
