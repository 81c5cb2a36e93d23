"""The base class of samplers: evaluation counts, timing, noise, pilots and checks of the result."""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..energies import Energy
from ..errors import LaceError
from ..numerics.precision import compute_dtype, fields_in
from ..seeds import Noise, SampleSeeds, Streams, normal
from .arrival import Arrival
from .cuda_graph import Evaluation, evaluation_of

NoiseSource = Callable[[int, Tensor], Tensor]
Record = Callable[[Tensor], None]
Run = tuple[Tensor, dict[str, Any]]
# The most rows of one evaluation: more need more memory and are no faster.
CHUNK = 8192
# Samples of a pilot.
PILOT_SIZE = 64


@dataclass
class Sample:
    """The result of a sampler: latents, their cost, and diagnostics.

    Args:
        z: latents (B, D).
        evaluations: gradient evaluations per sample.
        seconds: wall time of the run, without the pilot.
        diagnostics: figures by name; those of a sampler are in its own description.
        trajectory: the states (T, B, D) after every step, where they were asked for.
        forward: evaluations of the energy alone, without its gradient, per sample.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> from lace_lightning.samplers import Euler
        >>> sample = Euler(step_size=0.1)(Prior(), torch.ones(2, 3), trajectory=True)
        >>> sample.z.shape, sample.evaluations, sample.trajectory.shape
        (torch.Size([2, 3]), 10.0, torch.Size([10, 2, 3]))
    """

    z: Tensor
    evaluations: float
    seconds: float
    diagnostics: dict[str, Any] = field(default_factory=dict)
    trajectory: Tensor | None = None
    forward: float = 0.0

    def rows(self, index: slice) -> Sample:
        """Return the samples of some rows, with those diagnostics that have one number for each sample, or one."""
        count = len(self.z)
        diagnostics = {
            name: value[index] if isinstance(value, Tensor) and value.ndim and len(value) == count else value
            for name, value in self.diagnostics.items()
        }
        trajectory = None if self.trajectory is None else self.trajectory[:, index]
        return Sample(self.z[index], self.evaluations, self.seconds, diagnostics, trajectory, self.forward)


@dataclass
class Counts:
    """Evaluations per sample.

    Args:
        gradient: evaluations of the gradient.
        forward: evaluations of the energy alone.

    Example:
        >>> Counts().gradient
        0.0
    """

    gradient: float = 0.0
    forward: float = 0.0


class Field:
    """An energy E and its gradient with a count of evaluations, for one run of a sampler.

    `time` is where the sampler stands, a number or words; messages name it.

    Args:
        energy: E(z) (B,) of latents z (B, D).
        sampler: the sampler that runs, which messages name.
        batch: the number B of samples by which evaluations are counted.
        counts: the counts to go on with; new ones by default.
        capture: capture the gradient as a CUDA graph at its second evaluation. It pays for runs of many evaluations.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> from lace_lightning.samplers import Euler
        >>> field = Field(Prior(), Euler(), batch=2)
        >>> field(torch.ones(2, 3)).shape, field.counts.gradient
        (torch.Size([2, 3]), 1.0)
    """

    def __init__(
        self, energy: Energy, sampler: Sampler, batch: int, counts: Counts | None = None, capture: bool = True
    ) -> None:
        self.energy, self.sampler, self.batch, self.counts = energy, sampler, batch, counts or Counts()
        self.evaluation: Evaluation | None = None if capture else energy.value_and_grad
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
            # Capturing pays from the second evaluation on: the first is plain.
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
        """Return the time, the samples that are not finite (or have the largest gradients) and the sampler in words."""
        bad = (~torch.isfinite(z)).any(1).nonzero()[:, 0].tolist()
        if not bad and self.last is not None and len(self.last) == len(z):
            bad = self.last.norm(dim=1).nan_to_num(torch.inf).topk(min(3, len(z))).indices.tolist()
        time = self.time if isinstance(self.time, str) else f"time {self.time:.4g}"
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        return f"at {time}, samples {shown or 'unknown'} of the batch, with {self.sampler}"


class Sampler:
    """Base class of samplers: `sampler(energy, z_init)` returns a `Sample`; a subclass defines `run`.

    The energy is E(c|g(z)) without the prior: flows must not have it, and chains add it themselves. Noise of step k is
    `noise(k, like)`, by default drawn from `seeds` (B,), so that a sample depends on its own seed only. A subclass
    stores its constructor's arguments under their names: `settings` and `repr` read them there.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> class Halving(Sampler):
        ...     def __init__(self, times: int = 3) -> None:
        ...         self.times = times
        ...     def run(self, field, z, noise, record):
        ...         for _ in range(self.times):
        ...             z = z - field(z) / 2
        ...             record(z)
        ...         return z, {}
        >>> Halving(2), Halving(2)(Prior(), torch.ones(1, 2)).z
        (Halving(times=2), tensor([[0.2500, 0.2500]]))
    """

    # The order of convergence of a flow's solver, None where there is none.
    order: int | None = None
    needs_noise = False
    # Whether it needs the gradient of the energy, and not its value alone.
    uses_gradient = True
    # Whether it follows a flow, whose end points are no samples of a target.
    is_flow = False
    # The target of its samples where none is asked for; None for the calibrated one.
    default_target: str | None = None
    # γ of its controlled target where none is asked for; None for that of all samplers.
    default_weight: float | None = None
    # A chain that goes on where a flow ends.
    corrector: Sampler | None = None
    # Of the hidden layers of closed-form gradients; a corrector, which must be exact, computes in float32.
    precision: str = "float32"
    # Constructor arguments that `settings` leaves out: they do not decide a result, or cannot be written.
    unlisted: frozenset[str] = frozenset()
    # Seconds that the pilot took.
    pilot_seconds = 0.0
    # Why this sampler was chosen, where another one chose it.
    reason = ""
    # What pilot chains tell of a Markov chain: whether those from different starts agree.
    arrival: Arrival | None = None

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        """Return the final z (B, D) and diagnostics.

        Args:
            field: the energy, its gradient and their counts.
            z: starting points (B, D), a copy that may be written to.
            noise: a function (k, like) that returns the normals of draw k with the shape of `like`.
            record: a function to call with the state (B, D) after every step.

        Raises:
            LaceError: when the sampler cannot go on.
        """
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        """Whether nothing is left for a pilot to measure."""
        return True

    def prepare(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        """Return a copy with the step sizes or the choice that a pilot measures.

        Args:
            energy: the energy of the pilot's samples.
            z: samples of the prior (P, D).
            noise: the pilot's own noise.

        Raises:
            LaceError: when the sampler cannot sample from this energy.
        """
        return self

    def diagnosed(self, energy: Energy, z: Tensor, noise: Noise) -> Sampler:
        """Return a copy with the diagnosis of pilot chains, for Markov chains; see `prepare` for the arguments."""
        return self

    @property
    def diagnosis(self) -> Arrival | None:
        """The diagnosis of this sampler's chains or of its corrector's, None where there is none."""
        return self.arrival or (None if self.corrector is None else self.corrector.diagnosis)

    def calibrated(self, energy: Energy, like: Tensor) -> Sampler:
        """Return a sampler with everything measured that a pilot measures, on the same prior samples in every run.

        Called once before a run, it makes sample i depend on seed i alone. A sampler that is not ready calls it by
        itself at every call. It warns where pilot chains say that the samples of a Markov chain are not exact.

        Args:
            energy: the energy of a batch.
            like: a tensor (B, D) with the number of samples of the energy, and their shape, device and type.

        Raises:
            LaceError: when the sampler cannot sample from this energy.
        """
        result = self
        with torch.no_grad(), torch.inference_mode(False):
            index = torch.arange(PILOT_SIZE, device=like.device) % len(like)
            seeds = SampleSeeds.PILOT + torch.arange(PILOT_SIZE)
            z = normal(seeds, like.shape[1:], Streams.PRIOR, like.device, like.dtype)
            start = time.perf_counter()
            pilot = (energy.rows(index), z, Noise(seeds.to(like.device)))
            if not self.is_ready:
                result = self.prepare(*pilot)
            result = result.diagnosed(*pilot)
            if result.corrector is not None:
                corrector = result.corrector
                result = copy.copy(result)
                result.corrector = (corrector if corrector.is_ready else corrector.prepare(*pilot)).diagnosed(*pilot)
            if result is not self:
                result.pilot_seconds = time.perf_counter() - start
        if result.diagnosis is not None and not result.diagnosis.has_arrived:
            warnings.warn(f"{type(result).__name__}: {' '.join(result.diagnosis.sentences())}", stacklevel=2)
        return result

    def __call__(
        self,
        energy: Energy,
        z_init: Tensor,
        seeds: Tensor | None = None,
        noise: NoiseSource | None = None,
        trajectory: bool = False,
    ) -> Sample:
        """Return samples of the energy that begin at z_init.

        Args:
            energy: E(c|g(z)) (B,) of latents z (B, D), without the prior.
            z_init: starting points (B, D), B at least 1.
            seeds: one int64 seed for each sample (B,), for samplers that draw noise.
            noise: a function (k, like) that returns the normals of draw k, in the place of seeds.
            trajectory: keep the state after every step.

        Raises:
            LaceError: for starting points of another shape, for seeds that are missing or not one for each sample, for
                an energy that the sampler cannot sample from, and for a state that is not finite.
        """
        if z_init.ndim != 2 or len(z_init) == 0:
            raise LaceError(
                f"A sampler starts from latents of shape (B, D), received {tuple(z_init.shape)}: give one row for each "
                "sample."
            )
        if seeds is not None and len(seeds) != len(z_init):
            raise LaceError(
                f"A sampler needs one seed for each sample, received {len(seeds)} for {len(z_init)} samples: match "
                "them."
            )
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
        """Return the constructor's arguments by name, in its order: numbers, words, lists of numbers and samplers.

        Numbers of a list are rounded to four decimals. No corrector, and the precision float32, are left out.
        """
        kinds = (bool, int, float, str, type(None), Sampler, list)
        names = [name for name in inspect.signature(type(self)).parameters if name not in self.unlisted]
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return {
            name: [round(x, 4) for x in value] if isinstance(value, list) else value
            for name, value in values.items()
            if isinstance(value, kinds) and (name, value) not in (("corrector", None), ("precision", "float32"))
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.settings().items())})"


def _chunks(z: Tensor, rows: Tensor | None) -> Iterator[tuple[slice, Tensor | slice | None]]:
    """Yield (rows of z, samples of the batch or None for all of them) in parts of at most CHUNK rows."""
    if len(z) <= CHUNK:
        yield slice(None), rows
        return
    for first in range(0, len(z), CHUNK):
        part = slice(first, first + CHUNK)
        yield part, part if rows is None else rows[part]


def _ignore(state: Tensor) -> None:
    pass


def require_positive(**values: float) -> None:
    """Check that settings, given by name, are above zero.

    Args:
        values: the settings by name.

    Raises:
        LaceError: for the first that is not above zero.
    """
    for name, value in values.items():
        if not value > 0:
            raise LaceError(f"The sampler's {name} must be above 0, received {value}: give a positive number.")
