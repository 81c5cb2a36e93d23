"""What samplers share: counting evaluations, timing, noise, refusing what is not finite."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..energies import Energy
from ..errors import LaceError
from ..numerics.precision import compute_dtype, fields_in
from ..seeds import Noise, normal
from .cuda_graph import Evaluation, evaluation_of

NoiseSource = Callable[[int, Tensor], Tensor]
Record = Callable[[Tensor], None]
Run = tuple[Tensor, dict[str, Any]]
# Rows that are evaluated at once: more would only need more memory.
CHUNK = 8192
# A pilot has so many samples, with seeds that no sample of a run has, and its noise begins here.
PILOT_SIZE = 64
PILOT_SEED = -(2**40)


@dataclass
class Sample:
    """Latents z (B, D), gradient evaluations per sample, seconds of wall time, and what the sampler has to tell.

    `forward` counts evaluations of the energy alone, per sample. `trajectory` (T, B, D) holds the states after every
    step where it was asked for.
    """

    z: Tensor
    evaluations: float
    seconds: float
    diagnostics: dict[str, Any] = field(default_factory=dict)
    trajectory: Tensor | None = None
    forward: float = 0.0


@dataclass
class Counts:
    """Evaluations per sample: of the gradient, and of the energy alone."""

    gradient: float = 0.0
    forward: float = 0.0


class Field:
    """E and ∇E with a count of evaluations; names time, samples and setting when a gradient is not finite."""

    def __init__(self, energy: Energy, sampler: Sampler, batch: int, counts: Counts | None = None) -> None:
        self.energy, self.sampler, self.batch, self.counts = energy, sampler, batch, counts or Counts()
        self.evaluation: Evaluation | None = None
        self.time: float | str = "the start"
        self.last: Tensor | None = None

    def on(self, energy: Energy) -> Field:
        """Return the field of another energy, counted together with this one."""
        return self if energy is self.energy else Field(energy, self.sampler, self.batch, self.counts)

    def __call__(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ∂E/∂z for z (B, D), or for the samples `rows` of the batch alone."""
        return self.evaluate(z, rows)[1]

    def evaluate(self, z: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return E (B,) and ∂E/∂z (B, D)."""
        if rows is not None or len(z) > CHUNK:
            value, gradient = (
                torch.cat(part)
                for part in zip(
                    *(self._energy(index).value_and_grad(z[part]) for part, index in _chunks(z, rows)), strict=True
                )
            )
        else:
            # Capturing pays for samplers that come back: the first evaluation is plain.
            if self.evaluation is None and self.counts.gradient:
                self.evaluation = evaluation_of(self.energy, z)
            value, gradient = self.evaluation(z) if self.evaluation else self.energy.value_and_grad(z)
        self.last = gradient
        self.counts.gradient += len(z) / self.batch
        return value, gradient

    def value(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return E (B,) alone, the cheaper half of an evaluation."""
        self.counts.forward += len(z) / self.batch
        return torch.cat([self._energy(index)(z[part]) for part, index in _chunks(z, rows)])

    def curvature(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∂E/∂z (B, D) and rows G (B, K, D) with ∂²E/∂z² ≈ GᵀG; every row costs as much as a gradient."""
        parts = [self._energy(index).curvature(z[part])[1:] for part, index in _chunks(z, None)]
        gradient, rows = (torch.cat(part) for part in zip(*parts, strict=True))
        self.last = gradient
        self.counts.gradient += 1 + rows.shape[1]
        return gradient, rows

    def _energy(self, index: Tensor | slice | None) -> Energy:
        return self.energy if index is None else self.energy.rows(index)

    def where(self, z: Tensor) -> str:
        bad = (~torch.isfinite(z)).any(1).nonzero()[:, 0].tolist()
        if not bad and self.last is not None and len(self.last) == len(z):
            bad = self.last.norm(dim=1).nan_to_num(torch.inf).topk(min(3, len(z))).indices.tolist()
        time = self.time if isinstance(self.time, str) else f"time {self.time:.4g}"
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        return f"at {time}, samples {shown or 'unknown'} of the batch, with {self.sampler}"


class Sampler:
    """From an attribute energy on z and starting points to samples.

    `sampler(energy, z_init)` -> Sample; subclasses give `run`. The energy is E(c|g(z)) without prior: flows must not
    have it, chains add it themselves. Noise of step k comes from `noise(k, like)`, by default from `seeds` (B,), so
    that a sample depends on its own seed only. `order` is the order of convergence of a flow's solver, None where there
    is none. `corrector` is a chain that goes on where a flow ends.
    """

    order: int | None = None
    needs_noise = False
    corrector: Sampler | None = None
    # Of the hidden layers of closed-form gradients; a corrector, which must be exact, computes in float32.
    precision: str = "float32"

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        """Return the final z and diagnostics; call `record(z)` after every step."""
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        """Whether there is nothing that a pilot has to measure first."""
        return True

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        """Return a copy with what a pilot on prior samples z measures: step sizes, a choice. Raises LaceError for a
        hopeless task.
        """
        return self

    def calibrated(self, energy: Energy, like: Tensor) -> Sampler:
        """Return this sampler, frozen: what a pilot measures is measured now, on prior samples that are the same in
        every run.

        `like` (B, D) says how many samples the targets of `energy` are for, shape, device and dtype. Called once before
        a run, it makes sample i depend on seed i alone; a sampler that is not ready does it by itself at every call.
        """
        result = self
        with torch.no_grad(), torch.inference_mode(False):
            index = torch.arange(PILOT_SIZE, device=like.device) % len(like)
            seeds = PILOT_SEED + torch.arange(PILOT_SIZE)
            z = normal(seeds, like.shape[1:], 0, like.device, like.dtype)
            start = time.perf_counter()
            if not self.is_ready:
                result = self.prepare(energy.rows(index), z, Noise(seeds.to(like.device)))
                result.pilot_seconds = time.perf_counter() - start
            if self.corrector is not None and not self.corrector.is_ready:
                result = copy.copy(result)
                result.corrector = self.corrector.prepare(energy.rows(index), z, Noise(seeds.to(like.device)))
        return result

    pilot_seconds = 0.0
    # Why this sampler was chosen, where another one chose it.
    reason = ""

    def __call__(
        self,
        energy: Energy,
        z_init: Tensor,
        seeds: Tensor | None = None,
        noise: NoiseSource | None = None,
        trajectory: bool = False,
    ) -> Sample:
        """Sample from z_init (B, D).

        Raises LaceError for a wrong shape, missing seeds, or a state that is not finite.
        """
        if z_init.ndim != 2 or len(z_init) == 0:
            raise LaceError(f"A sampler starts from latents of shape (B, D), received {tuple(z_init.shape)}.")
        stochastic = self.needs_noise or self.corrector is not None
        if stochastic and seeds is None and noise is None:
            raise LaceError(
                f"{type(self).__name__} draws noise: give seeds (one integer per sample), for example "
                f"torch.arange({len(z_init)})."
            )
        if not self.is_ready or not (self.corrector is None or self.corrector.is_ready):
            return self.calibrated(energy, z_init)(energy, z_init, seeds, noise, trajectory)
        source = noise or Noise(torch.arange(len(z_init)) if seeds is None else seeds)
        states: list[Tensor] = []
        record = (lambda state: states.append(state.clone())) if trajectory else _ignore
        with torch.no_grad(), torch.inference_mode(False):
            z = z_init.detach().clone()
            field = Field(energy, self, len(z))
            start = time.perf_counter()
            with fields_in(compute_dtype(self.precision, z.device)):
                z, diagnostics = self.run(field, z, source, record)
            if self.corrector is not None:
                z, more = self.corrector.run(field, z, source, record)
                diagnostics |= {f"corrector_{name}": value for name, value in more.items()}
            if not bool(torch.isfinite(z).all()):
                raise LaceError(
                    f"The latents must stay finite and did not ({field.where(z)}): use smaller steps, a larger "
                    "sigma or a smaller weight."
                )
            if z.is_cuda:
                torch.cuda.synchronize(z.device)
            seconds = time.perf_counter() - start
        return Sample(
            z,
            field.counts.gradient,
            seconds,
            diagnostics,
            torch.stack(states) if states else None,
            field.counts.forward,
        )

    def settings(self) -> dict[str, Any]:
        """Return the plain constructor arguments."""
        kinds, hidden = (
            (bool, int, float, str, type(None), Sampler, list),
            ("order", "pilot_seconds", "reason", "check"),
        )
        shown = {key: value for key, value in vars(self).items() if isinstance(value, kinds) and key not in hidden}
        return {
            key: [round(x, 4) for x in value] if isinstance(value, list) else value
            for key, value in shown.items()
            if not key.startswith("_") and (key, value) not in (("corrector", None), ("precision", "float32"))
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.settings().items())})"


def _chunks(z: Tensor, rows: Tensor | None) -> Iterator[tuple[slice, Tensor | slice | None]]:
    """Yield (rows of z, samples of the batch) so that no evaluation is larger than a chunk.

    None for the whole batch.
    """
    if len(z) <= CHUNK:
        yield slice(None), rows
        return
    for first in range(0, len(z), CHUNK):
        part = slice(first, first + CHUNK)
        yield part, part if rows is None else rows[part]


def _ignore(state: Tensor) -> None:
    pass


def require_positive(**values: float) -> None:
    """Refuse (LaceError) settings that are not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise LaceError(f"The sampler's {name} must be above 0, received {value}.")
