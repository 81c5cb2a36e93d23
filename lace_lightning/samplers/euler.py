"""LACE-Euler."""

from __future__ import annotations

import itertools
import math

from torch import Tensor

from ..errors import LaceError
from ..numerics.precision import check_precision
from ..schedules import VP
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive

GRIDS = ("t", "cubic")


class Euler(Sampler):
    """The flow of Eq. 7 in fixed steps of first order.

    grid "t": steps of `step_size` in the time of the schedule, from 1 to 0 (the paper's 1e-2 and 1e-3); grid "cubic":
    `num_steps` steps with s = Λu³, u = 1/N .. 1, short where the field is large: 10-16 of them are as good as hundreds
    in t. `precision` is that of the hidden layers of gradients in closed form, for batches of 128 or more.
    """

    order = 1

    def __init__(
        self,
        step_size: float = 0.01,
        grid: str = "t",
        num_steps: int = 16,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        corrector: Sampler | None = None,
        precision: str = "float32",
    ) -> None:
        if grid not in GRIDS:
            raise LaceError(f"The grid of Euler must be one of {', '.join(GRIDS)}, received '{grid}'.")
        require_positive(step_size=step_size, num_steps=num_steps)
        self.step_size, self.grid, self.num_steps, self.beta_min, self.beta_max = (
            step_size,
            grid,
            num_steps,
            beta_min,
            beta_max,
        )
        self.corrector, self.precision = corrector, check_precision(precision)

    def lengths(self) -> list[tuple[float, float]]:
        """Return (time shown in messages, ∫ds of the step) of every step."""
        schedule = VP(self.beta_min, self.beta_max)
        if self.grid == "cubic":
            s = [schedule.length() * (k / self.num_steps) ** 3 for k in range(self.num_steps + 1)]
            return [(a, b - a) for a, b in itertools.pairwise(s)]
        count = math.ceil(1 / self.step_size - 1e-9)
        times = [1 - k * self.step_size for k in range(count)] + [0.0]
        return [(t, schedule.half_beta(t) * (t - after)) for t, after in itertools.pairwise(times)]

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        for field.time, length in self.lengths():
            z = z.add_(field(z), alpha=-length)
            record(z)
        return z, {}
