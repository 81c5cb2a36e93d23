"""The hybrid: a sampler in latent space, and a check of what came out that has the last word."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..energies import Energy
from ..errors import LaceError
from ..seeds import Noise
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive
from .markov import Draws
from .rejection import Rejection

# (latents (n, D), their places in the batch (n,)) -> which of them pass (n,)
Check = Callable[[Tensor, Tensor], Tensor]
# Streams of noise from one round to the next: more than a sampler draws.
ROUND = 2**24


class Checked(Sampler):
    """Sample with `sampler`, and again from the prior for those that do not pass `check`, until all do.

    With a rejection sampler whose floor is low in front, what passes is distributed as the generator's own pictures
    that pass: the classifier only saves drawing pictures without hope. `check` is given by who can draw pictures (the
    task: the labeler looks at them, and takes a continuous attribute for right within `tolerance`; below the 0.1 that
    figures allow, another judge agrees more often). Raises LaceError with the share that passed where `max_rounds` are
    not enough. Diagnostics: those of the first round, and `checks` per sample, `pass_rate`.
    """

    needs_noise = True

    def __init__(
        self, sampler: Sampler | None = None, max_rounds: int = 100, check: Check | None = None, tolerance: float = 0.1
    ) -> None:
        require_positive(max_rounds=max_rounds, tolerance=tolerance)
        self.sampler, self.max_rounds, self.check, self.tolerance = (
            sampler or Rejection(floor=0.2),
            max_rounds,
            check,
            tolerance,
        )

    @property
    def is_ready(self) -> bool:
        return self.sampler.is_ready

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        result = copy.copy(self)
        result.sampler = self.sampler.prepare(energy, z, noise)
        return result

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        if self.check is None:
            raise LaceError(
                "A checked sampler needs a check, (latents, places in the batch) -> which pass: give "
                "Checked(check=...), or "
                "use it in a task, where the labeler checks."
            )
        source, result, active = Draws(noise).noise, z.clone(), torch.arange(len(z), device=z.device)
        diagnostics: dict[str, Any] = {}
        checks = 0
        for number in range(self.max_rounds):
            rows = source.shifted(number * ROUND).rows(active)
            # A start of its own for every round, from a stream that the round itself does not use.
            start = z if number == 0 else rows.shifted(ROUND - 1)(0, z[active])
            part = Field(
                field.energy if number == 0 else field.energy.rows(active), self.sampler, field.batch, field.counts
            )
            candidates, told = self.sampler.run(part, start, rows, record)
            diagnostics = diagnostics or told
            passed = self.check(candidates, active)
            checks += len(active)
            result[active[passed]] = candidates[passed]
            active = active[~passed]
            if not len(active):
                return result, {**diagnostics, "checks": checks / len(z), "pass_rate": len(z) / checks}
        rate = (len(z) - len(active)) / checks
        raise LaceError(
            f"Every sample must pass the check within {self.max_rounds} rounds and {len(active)} of {len(z)} did not; "
            f"the "
            f"share that passes is {rate:.2g}: choose a sampler that is more often right (sampler=annealed), or raise "
            "sampler.max_rounds."
        )
