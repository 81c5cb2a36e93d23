"""Embedded Runge-Kutta pairs with a step size, an error control and, if wanted, a tolerance of its own for every
sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..energies import Energy
from ..errors import LaceError, suggest
from ..numerics.precision import check_precision
from ..schedules import VP
from .base import Field, NoiseSource, Record, Run, Sample, Sampler, _ignore, require_positive


@dataclass(frozen=True)
class Tableau:
    """An explicit pair: k_i at z + h·Σ_j a_ij·k_j; the step is h·Σ b_i·k_i, its error h·Σ e_i·k_i.

    `first_same_as_last`: the last stage is the slope at the end of the step, with b as its row of a.
    """

    order: int
    lower: int
    stages: tuple[tuple[float, ...], ...]
    solution: tuple[float, ...]
    error: tuple[float, ...]
    first_same_as_last: bool


METHODS = {
    "heun": Tableau(2, 1, ((1.0,),), (1 / 2, 1 / 2), (-1 / 2, 1 / 2), False),
    "bosh3": Tableau(
        3,
        2,
        ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        (2 / 9, 1 / 3, 4 / 9),
        (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        True,
    ),
    "dopri5": Tableau(
        5,
        4,
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        True,
    ),
}


class RungeKutta(Sampler):
    """dz/ds = -∇E(c|g(z)) for s from 0 to Λ = s(1) by an embedded pair, error controlled per sample.

    Methods: "heun" (Heun-Euler, order 2(1)), "bosh3" (Bogacki-Shampine, 3(2)), "dopri5" (Dormand-Prince, 5(4)). A step
    is accepted where the root mean square of its error/(atol + rtol·|z|) is at most 1. Samples do not see each other: a
    result does not change with the batch, which is cut into parts of `chunk` to bound memory. `atol` and `rtol` are
    numbers, or tensors (B,) with one for each sample. `precision` is that of the hidden layers of the gradient where it
    is known in closed form and at least 128 samples are on their way (in bfloat16 a sample depends on that number by
    rounding).
    """

    def __init__(
        self,
        method: str = "bosh3",
        atol: float | Tensor = 0.05,
        rtol: float | Tensor = 0.05,
        first_step: float = 0.1,
        max_growth: float = 8.0,
        max_steps: int = 10_000,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        corrector: Sampler | None = None,
        chunk: int = 4096,
        precision: str = "float32",
    ) -> None:
        if method not in METHODS:
            raise LaceError(
                f"The Runge-Kutta methods are {', '.join(METHODS)}, received '{method}'.{suggest(method, METHODS)}"
            )
        require_positive(
            first_step=first_step,
            max_steps=max_steps,
            max_growth=max_growth - 1,
            chunk=chunk,
            atol=float(torch.as_tensor(atol).min()),
            rtol=float(torch.as_tensor(rtol).min()),
        )
        self.method, self.atol, self.rtol, self.first_step, self.max_growth, self.max_steps = (
            method,
            atol,
            rtol,
            first_step,
            max_growth,
            max_steps,
        )
        self.beta_min, self.beta_max, self.chunk, self.precision = (
            beta_min,
            beta_max,
            int(chunk),
            check_precision(precision),
        )
        self.corrector = corrector
        self.order = METHODS[method].order

    def settings(self) -> dict[str, Any]:
        """Return the plain constructor arguments that decide a result: the parts of a batch do not."""
        return {key: value for key, value in super().settings().items() if key != "chunk"}

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        count = len(z)
        tolerances = [self._tolerance(name, value, z) for name, value in (("atol", self.atol), ("rtol", self.rtol))]
        # A trajectory holds whole batches.
        size = self.chunk if record is _ignore else count
        steps = rejected = 0
        evaluations = torch.zeros(count, device=z.device)
        for first in range(0, count, size):
            part = torch.arange(first, min(first + size, count), device=z.device)
            solver = _Solver(self, field, z, evaluations, part, tolerances)
            while len(solver.active):
                solver.step()
                if record is not _ignore:
                    solver.write()
                    record(z)
            steps, rejected = max(steps, solver.steps), rejected + solver.rejected
        return z, {"steps": steps, "rejected": rejected, "per_sample": evaluations}

    def _tolerance(self, name: str, value: float | Tensor, z: Tensor) -> float | Tensor:
        """Return a number, or one for each sample (B, 1)."""
        if not isinstance(value, Tensor) or value.ndim == 0:
            return float(value)
        if value.shape != (len(z),):
            raise LaceError(
                f"{name} must be a number or a tensor with one for each of the {len(z)} samples, received the shape "
                f"{tuple(value.shape)}."
            )
        return value.to(z)[:, None]


class _Solver:
    """The state of one run on the rows `part` of z: slopes, lengths, steps, and which samples are on their way."""

    def __init__(
        self,
        sampler: RungeKutta,
        field: Field,
        z: Tensor,
        evaluations: Tensor,
        part: Tensor,
        tolerances: Sequence[float | Tensor],
    ) -> None:
        self.sampler, self.field, self.z, self.evaluations, self.tableau = (
            sampler,
            field,
            z,
            evaluations,
            METHODS[sampler.method],
        )
        self.length = VP(sampler.beta_min, sampler.beta_max).length()
        self.steps = self.rejected = 0
        # What follows is (A, ·) for the samples on their way; it shrinks when samples arrive.
        self.active, self.tolerances = part, [t if isinstance(t, float) else t[part] for t in tolerances]
        self.energy = None if len(part) == len(z) else field.energy.rows(part)
        self.state, self.spent = z[part], torch.ones(len(part), device=z.device)
        self.slope = self._slope(self.state)
        self.s = torch.zeros(len(part), 1, device=z.device, dtype=torch.float64)
        self.h = self._first_steps()

    def _slope(self, z: Tensor, energy: Energy | None = None) -> Tensor:
        """-∇E of the samples on their way, or of the part of them that `energy` knows."""
        energy = energy or self.energy
        if energy is None:
            return -self.field(z)
        self.field.last = energy.value_and_grad(z)[1]
        self.field.counts.gradient += len(z) / self.field.batch
        return -self.field.last

    def _first_steps(self) -> Tensor:
        """First lengths (A, 1): an Euler step that moves a sample by `first_step` of its size."""
        size = self.state.square().mean(1, keepdim=True).sqrt() + self.tolerances[0]
        speed = self.slope.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
        return (self.sampler.first_step * size / speed).clamp(1e-4 * self.length, self.length).double()

    def write(self) -> None:
        """Write the samples on their way, and their evaluations, where they belong."""
        self.z[self.active], self.evaluations[self.active] = self.state, self.spent

    def step(self) -> None:
        """Try one step of every sample on its way; those that arrive are written and leave."""
        sampler, tableau = self.sampler, self.tableau
        self.steps += 1
        step = torch.minimum(self.h, self.length - self.s)
        self._check(step)
        width, k = step.to(self.z.dtype), [self.slope]
        for row in tableau.stages:
            k.append(self._slope(torch.addcmul(self.state, width, _combine(row, k))))
        after = torch.addcmul(self.state, width, _combine(tableau.solution, k))
        atol, rtol = self.tolerances
        scale = atol + rtol * torch.maximum(self.state.abs(), after.abs())
        error = (width * _combine(tableau.error, k) / scale).square().mean(1, keepdim=True).sqrt()
        # NaN compares false: such a step is rejected and shrinks.
        good = error <= 1
        growth = (
            (0.9 * error.clamp(min=1e-12) ** (-1 / (tableau.lower + 1))).clamp(0.2, sampler.max_growth).nan_to_num(0.2)
        )
        self.h = step * growth
        self.state = torch.where(good, after, self.state)
        self.s = torch.where(good, self.s + step, self.s)
        self.spent += len(tableau.stages)
        going = (self.s < self.length - 1e-9)[:, 0]
        moved = good[:, 0] & going
        self.rejected += int((~good).sum())
        if tableau.first_same_as_last:
            self.slope = torch.where(good, k[-1], self.slope)
        if not bool(going.all()):
            self._keep(going)
            moved = moved[going]
        if not tableau.first_same_as_last and len(self.active):
            self._new_slopes(moved)

    def _keep(self, going: Tensor) -> None:
        self.write()
        self.active, self.state, self.slope, self.s, self.h, self.spent = (
            t[going] for t in (self.active, self.state, self.slope, self.s, self.h, self.spent)
        )
        self.tolerances = [t if isinstance(t, float) else t[going] for t in self.tolerances]
        if len(self.active):
            self.energy = self.field.energy.rows(self.active)

    def _new_slopes(self, moved: Tensor) -> None:
        self.spent += moved
        if bool(moved.all()):
            self.slope = self._slope(self.state)
        elif bool(moved.any()):
            self.slope = self.slope.index_put(
                (moved,), self._slope(self.state[moved], self.field.energy.rows(self.active[moved]))
            )

    def _check(self, step: Tensor) -> None:
        if self.steps > self.sampler.max_steps or not bool((step > 1e-9 * self.length).all()):
            self.write()
            self.field.time = f"length {float(self.s.min()):.4g} of {self.length:.4g}"
            raise LaceError(
                f"The step must stay above {1e-9 * self.length:.1g} and the steps below {self.sampler.max_steps}, and "
                f"they "
                f"did not ({self.field.where(self.z)}): loosen atol and rtol, or raise sigma."
            )


def _combine(factors: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """Σ factors_i·k_i."""
    result = k[0] * factors[0]
    for factor, slope in zip(factors[1:], k[1:], strict=False):
        if factor:
            result.add_(slope, alpha=factor)
    return result


def sample_settings(settings: Sequence[RungeKutta], energy: Energy, z_init: Tensor) -> list[Sample]:
    """Sample from z_init (B, D) by every one of `settings` in one batch; they may differ in their tolerances alone
    (LaceError).

    The seconds of a setting are its share, by evaluations, of the whole.
    """
    kinds = {f"{type(s).__name__} with { ({**s.settings(), 'atol': None, 'rtol': None}) }" for s in settings}
    if len(kinds) != 1 or any(isinstance(getattr(s, name), Tensor) for s in settings for name in ("atol", "rtol")):
        raise LaceError(
            f"Settings in one pass may differ in atol and rtol alone, as numbers, received {'; '.join(sorted(kinds))}: "
            "sample the others one by one."
        )
    count = len(z_init)
    atol, rtol = (
        torch.tensor([getattr(s, name) for s in settings], dtype=torch.float64, device=z_init.device).repeat_interleave(
            count
        )
        for name in ("atol", "rtol")
    )
    together = copy(settings[0])
    together.atol, together.rtol = atol, rtol
    rows = torch.arange(count, device=z_init.device).repeat(len(settings))
    whole = together(energy.rows(rows), z_init[rows])
    per_setting = whole.diagnostics["per_sample"].reshape(len(settings), count).mean(1)
    shares = per_setting / per_setting.sum()
    return [
        Sample(z, float(evaluations), whole.seconds * float(share), {"steps": whole.diagnostics["steps"]})
        for z, evaluations, share in zip(whole.z.split(count), per_setting, shares, strict=True)
    ]
