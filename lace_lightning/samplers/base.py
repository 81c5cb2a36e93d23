"""What samplers share: counting evaluations, timing, noise, refusing what is not finite."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..energies import Energy
from ..errors import LaceError
from ..seeds import Noise
from .capture import Gradient, gradient_of

NoiseSource = Callable[[int, Tensor], Tensor]
Record = Callable[[Tensor], None]
Run = tuple[Tensor, dict[str, Any]]


@dataclass
class Sample:
    """Latents z (B, D), gradient evaluations per sample, seconds of wall time, and what the sampler has to tell.

    `trajectory` (T, B, D) holds the states after every step where it was asked for.
    """

    z: Tensor
    evaluations: float
    seconds: float
    diagnostics: dict[str, Any] = field(default_factory=dict)
    trajectory: Tensor | None = None


class Field:
    """∇E with a count of evaluations; names time, samples and setting when a gradient is not finite."""

    def __init__(self, energy: Energy, sampler: Sampler, batch: int) -> None:
        self.energy, self.sampler, self.batch, self.count = energy, sampler, batch, 0.0
        self.gradient: Gradient | None = None
        self.time: float | str = "the start"
        self.last: Tensor | None = None

    def __call__(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ∂E/∂z for z (B, D), or for the samples `rows` of the batch alone."""
        if rows is not None:
            self.last = self.energy.rows(rows).value_and_grad(z)[1]
        else:
            # Capturing pays for samplers that come back: the first evaluation is plain.
            if self.gradient is None and self.count:
                self.gradient = gradient_of(self.energy, z)
            self.last = self.gradient(z) if self.gradient else self.energy.value_and_grad(z)[1]
        self.count += len(z) / self.batch
        return self.last

    def where(self, z: Tensor) -> str:
        bad = (~torch.isfinite(z)).any(1).nonzero()[:, 0].tolist()
        if not bad and self.last is not None and len(self.last) == len(z):
            bad = self.last.norm(dim=1).nan_to_num(torch.inf).topk(min(3, len(z))).indices.tolist()
        time = self.time if isinstance(self.time, str) else f"time {self.time:.4g}"
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        return f"at {time}, samples {shown or 'unknown'} of the batch, with {self.sampler}"


class Sampler:
    """From an attribute energy on z and starting points to samples.

    `sampler(energy, z_init)` -> Sample; subclasses give `run`. The energy is E(c|g(z)) without prior: flows must not have
    it, chains add it themselves. Noise of step k comes from `noise(k, like)`, by default from `seeds` (B,), so that a sample
    depends on its own seed only. `order` is the order of convergence of a flow's solver, None where there is none.
    """

    order: int | None = None
    needs_noise = False

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        """Return the final z and diagnostics; call `record(z)` after every step."""
        raise NotImplementedError

    def __call__(self, energy: Energy, z_init: Tensor, seeds: Tensor | None = None, noise: NoiseSource | None = None,
                 trajectory: bool = False) -> Sample:
        """Sample from z_init (B, D). Raises LaceError for a wrong shape, missing seeds, or a state that is not finite."""
        if z_init.ndim != 2 or len(z_init) == 0:
            raise LaceError(f"A sampler starts from latents of shape (B, D), received {tuple(z_init.shape)}.")
        if self.needs_noise and seeds is None and noise is None:
            raise LaceError(f"{type(self).__name__} draws noise: give seeds (one integer per sample), for example "
                            f"torch.arange({len(z_init)}).")
        source = noise or Noise(torch.arange(len(z_init)) if seeds is None else seeds)
        states: list[Tensor] = []
        with torch.no_grad(), torch.inference_mode(False):
            z = z_init.detach().clone()
            field = Field(energy, self, len(z))
            start = time.perf_counter()
            z, diagnostics = self.run(field, z, source, (lambda state: states.append(state.clone())) if trajectory else _ignore)
            if not bool(torch.isfinite(z).all()):
                raise LaceError(f"The latents must stay finite and did not ({field.where(z)}): use smaller steps, a larger "
                                "sigma or a smaller weight.")
            if z.is_cuda:
                torch.cuda.synchronize(z.device)
            seconds = time.perf_counter() - start
        return Sample(z, field.count, seconds, diagnostics, torch.stack(states) if states else None)

    def settings(self) -> dict[str, Any]:
        """Return the plain constructor arguments."""
        kinds = (bool, int, float, str, type(None))
        return {key: value for key, value in vars(self).items() if key != "order" and isinstance(value, kinds)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.settings().items())})"


def _ignore(state: Tensor) -> None:
    pass


def positive(**values: float) -> None:
    """Refuse (LaceError) settings that are not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise LaceError(f"The sampler's {name} must be above 0, received {value}.")
