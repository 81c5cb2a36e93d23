"""A sampler in latent space whose samples are drawn again until they pass a check."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..energies import Energy
from ..errors import LaceError
from ..seeds import Noise, Streams
from .arrival import Arrival
from .base import Field, NoiseSource, Record, Run, Sampler, _ignore, require_positive
from .markov import Draws
from .rejection import Rejection

# A function (latents (n, D), their places in the batch (n,)) that returns which of them pass (n,) bool.
Check = Callable[[Tensor, Tensor], Tensor]


class Filtered(Sampler):
    """Samples of another sampler, which are drawn again from the prior until they pass a check.

    With a rejection sampler of a low floor, the result is distributed as the generator's own pictures that pass the
    check: the classifier only leaves out pictures that are unlikely to pass. Diagnostics: those of the first round, and
    `checks` per sample and `pass_rate`.

    Target: that of the sampler, restricted to samples that pass the check. Use: what the generator itself draws of a
    class, and samples that must be right by the labeler.

    Args:
        sampler: the sampler in latent space; rejection with floor 0.2 by default.
        max_rounds: the most rounds, at least 1.
        check: a function (latents (n, D), their places in the batch (n,)) that returns which pass (n,) bool. A task
            gives its own, in which the labeler decides on the pictures.
        tolerance: the task's check takes a continuous attribute for right within ± tolerance, above 0. A tolerance
            below the 0.1 of the figures makes another judge agree more often.

    Raises:
        LaceError: for a setting that is not above 0, without a check, and when samples are left after `max_rounds`.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import HalfLine
        >>> sampler = Filtered(check=lambda z, places: z[:, 1] > 0)
        >>> sample = sampler(HalfLine(slice(0, 1), 0.0), torch.zeros(4, 2), seeds=torch.arange(4))
        >>> bool((sample.z[:, 1] > 0).all())
        True
    """

    needs_noise = True
    unlisted = frozenset({"check"})

    def __init__(
        self, sampler: Sampler | None = None, max_rounds: int = 100, check: Check | None = None, tolerance: float = 0.1
    ) -> None:
        require_positive(max_rounds=max_rounds, tolerance=tolerance)
        self.sampler = sampler or Rejection(floor=0.2)
        self.max_rounds, self.check, self.tolerance = max_rounds, check, tolerance

    @property
    def uses_gradient(self) -> bool:  # type: ignore[override]
        """Whether the sampler whose samples are checked needs the gradient of the energy."""
        return self.sampler.uses_gradient

    @property
    def default_target(self) -> str | None:  # type: ignore[override]
        """The target of the sampler that is filtered."""
        return self.sampler.default_target

    @property
    def default_weight(self) -> float | None:  # type: ignore[override]
        """γ of the sampler that is filtered."""
        return self.sampler.default_weight

    @property
    def is_ready(self) -> bool:
        return self.sampler.is_ready

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        result = copy.copy(self)
        result.sampler = self.sampler.prepare(energy, z, noise)
        return result

    def diagnosed(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        result = copy.copy(self)
        result.sampler = self.sampler.diagnosed(energy, z, noise)
        return result

    @property
    def diagnosis(self) -> Arrival | None:
        return self.sampler.diagnosis

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        if self.check is None:
            raise LaceError(
                "A filtered sampler needs a check, (latents, places in the batch) -> which pass, and has none: give "
                "Filtered(check=...), or use it in a task, where the labeler checks."
            )
        source, result, active = Draws(noise).noise, z.clone(), torch.arange(len(z), device=z.device)
        diagnostics: dict[str, Any] = {}
        checks = 0
        for number in range(self.max_rounds):
            rows = source.shifted(number * Streams.ROUND).rows(active)
            # A start of its own for every round, from a stream that the round itself does not use.
            start = z if number == 0 else rows.shifted(Streams.ROUND - 1)(0, z[active])
            part = Field(
                field.energy if number == 0 else field.energy.rows(active), self.sampler, field.batch, field.counts
            )
            candidates, of_round = self.sampler.run(part, start, rows, _partly(record, result, active))
            diagnostics = diagnostics or of_round
            passed = self.check(candidates, active)
            checks += len(active)
            result[active[passed]] = candidates[passed]
            active = active[~passed]
            if not len(active):
                return result, {**diagnostics, "checks": checks / len(z), "pass_rate": len(z) / checks}
        rate = (len(z) - len(active)) / checks
        raise LaceError(
            f"Every sample must pass the check within {self.max_rounds} rounds and {len(active)} of {len(z)} did not; "
            f"the share that passes is {rate:.2g}: choose a sampler that is more often right (sampler=annealed), or "
            "raise sampler.max_rounds."
        )


def _partly(record: Record, z: Tensor, rows: Tensor) -> Record:
    """Return the record of the whole batch z (B, D) for states of the samples `rows` (n,) alone."""
    if record is _ignore:
        return record

    def recorded(state: Tensor) -> None:
        record(z.index_copy(0, rows, state))

    return recorded


# The name that the class had before.
Checked = Filtered
