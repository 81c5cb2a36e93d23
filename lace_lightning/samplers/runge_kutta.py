"""Embedded Runge-Kutta pairs, whose step size, error control and tolerance are those of each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """An explicit embedded pair: slopes k_i at z + h·Σ_j a_ij·k_j, the step h·Σ b_i·k_i and its error h·Σ e_i·k_i.

    Args:
        order: the order of convergence of the step.
        lower: the order of the other method of the pair, from which the error is estimated.
        stages: the rows of a, from the second stage on.
        solution: b.
        error: e, the difference of the b of the two methods.
        first_same_as_last: the last stage is the slope at the end of the step, with b as its row of a.

    References:
        Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, section II.4.

    Example:
        >>> METHODS["bosh3"].nodes
        (0.5, 0.75, 1.0)
    """

    order: int
    lower: int
    stages: tuple[tuple[float, ...], ...]
    solution: tuple[float, ...]
    error: tuple[float, ...]
    first_same_as_last: bool

    @property
    def nodes(self) -> tuple[float, ...]:
        """c_i = Σ_j a_ij, the time of each stage from the second on, as a share of the step."""
        return tuple(sum(row) for row in self.stages)

    def attempt(
        self, state: Tensor, width: Tensor, first: Tensor, slope: Callable[[float, Tensor], Tensor], fused: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the state after a step, and the slopes of its stages.

        Args:
            state: points (A, D).
            width: the length of the step of each sample (A, 1).
            first: the slope (A, D) at the points.
            slope: a function (node, point (A, D)) that returns the slope there.
            fused: multiply and add in one operation, which rounds once where the processor can, instead of in two.
        """

        def moved(direction: Tensor) -> Tensor:
            return torch.addcmul(state, width, direction) if fused else state + width * direction

        k = [first]
        for node, row in zip(self.nodes, self.stages, strict=True):
            k.append(slope(node, moved(combine(row, k))))
        return moved(combine(self.solution, k)), k

    def error_ratio(
        self,
        state: Tensor,
        after: Tensor,
        width: Tensor,
        k: Sequence[Tensor],
        atol: float | Tensor,
        rtol: float | Tensor,
    ) -> Tensor:
        """Return the root mean square of error/(atol + rtol·|z|) of a step (A, 1), which is at most 1 where it is good.

        Args:
            state: points (A, D) before the step.
            after: points (A, D) after the step.
            width: the length of the step of each sample (A, 1).
            k: the slopes of the stages.
            atol: absolute tolerance, a number or one for each sample (A, 1).
            rtol: relative tolerance, a number or one for each sample (A, 1).
        """
        scale = atol + rtol * torch.maximum(state.abs(), after.abs())
        return (width * combine(self.error, k) / scale).square().mean(1, keepdim=True).sqrt()

    def growth(self, ratio: Tensor, largest: float) -> Tensor:
        """Return by what factor (A, 1) the next step is longer than one of this error ratio (A, 1).

        The factor lies between 0.2 and `largest`, and is 0.2 where the ratio is NaN.
        """
        exponent = -1 / (self.lower + 1)
        return (0.9 * ratio.clamp(min=1e-12) ** exponent).clamp(0.2, largest).nan_to_num(0.2)


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
    """The flow dz/ds = -∇E(c|g(z)), s from 0 to Λ = s(1), by an embedded pair with an error control for every sample.

    A step is accepted where the root mean square of its error/(atol + rtol·|z|) is at most 1. A sample does not depend
    on the other samples of its batch. Diagnostics: `steps` (the most that a sample took), `rejected` (in all) and
    `per_sample` (B,), the evaluations of each sample.

    Target: the end of the flow from z. It has more of what was asked for than a sample of N(z)·p(c|z), and less spread;
    with a `corrector` the samples are exact. Use: smooth energies and small tolerances; `Heun` is faster on classifiers
    with leaky ReLU.

    Args:
        method: "heun" (Heun-Euler, order 2(1)), "bosh3" (Bogacki-Shampine, 3(2)) or "dopri5" (Dormand-Prince, 5(4)).
        atol: absolute tolerance above 0, a number or a tensor (B,) with one for each sample.
        rtol: relative tolerance above 0, a number or a tensor (B,).
        first_step: an Euler step of the first length moves a sample by this share of its size; above 0.
        max_growth: the largest ratio of two consecutive step lengths, above 1.
        max_steps: the largest number of steps, at least 1.
        beta_min: β at t = 0 of the schedule, 0 or more.
        beta_max: β at t = 1 of the schedule, at least `beta_min`.
        corrector: a chain that goes on where the flow ends.
        chunk: the largest number of samples that are on their way together; it bounds memory and changes no result.
        precision: number format of the hidden layers of gradients in closed form, for 128 samples or more on their way:
            float32, bfloat16, float16 or auto. In bfloat16
            a sample depends on their number by rounding.

    Raises:
        LaceError: for settings out of range, and when a flow needs more than `max_steps` steps or shorter ones than
            numbers can tell apart.

    References:
        Eq. 7 of LACE (arXiv 2110.10873), in the length s of its schedule: see `lace_lightning.schedules.VP`.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = RungeKutta("dopri5", atol=1e-4, rtol=1e-4)(Prior(), torch.ones(2, 3))
        >>> bool((sample.z - torch.exp(torch.tensor(-5.025))).abs().max() < 1e-3)
        True
    """

    # Parts of a batch do not decide a result.
    unlisted = frozenset({"chunk"})

    is_flow = True

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
        self.method, self.atol, self.rtol = method, atol, rtol
        self.first_step, self.max_growth, self.max_steps = first_step, max_growth, max_steps
        self.beta_min, self.beta_max = beta_min, beta_max
        self.corrector, self.chunk, self.precision = corrector, int(chunk), check_precision(precision)
        self.order = METHODS[method].order

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that decide a result, by name, the corrector last."""
        settings = super().settings()
        corrector = {"corrector": settings.pop("corrector")} if "corrector" in settings else {}
        return settings | corrector

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
    """The state of one run on the rows `part` of z: slopes, lengths, steps, and the samples that are on their way."""

    def __init__(
        self,
        sampler: RungeKutta,
        field: Field,
        z: Tensor,
        evaluations: Tensor,
        part: Tensor,
        tolerances: Sequence[float | Tensor],
    ) -> None:
        self.sampler, self.field, self.z, self.evaluations = sampler, field, z, evaluations
        self.tableau = METHODS[sampler.method]
        self.length = VP(sampler.beta_min, sampler.beta_max).length()
        self.steps = self.rejected = 0
        # From here on tensors are (A, ·), A samples on their way; they shrink when samples arrive.
        self.active, self.tolerances = part, [t if isinstance(t, float) else t[part] for t in tolerances]
        self.energy = None if len(part) == len(z) else field.energy.rows(part)
        self.state, self.spent = z[part], torch.ones(len(part), device=z.device)
        self.slope = self._slope(self.state)
        self.s = torch.zeros(len(part), 1, device=z.device, dtype=torch.float64)
        self.h = self._first_steps()

    def _slope(self, z: Tensor, energy: Energy | None = None) -> Tensor:
        """Return -∇E of the samples on their way, or of the part of them that `energy` is the energy of."""
        energy = energy or self.energy
        if energy is None:
            return -self.field(z)
        self.field.last = energy.value_and_grad(z)[1]
        self.field.counts.gradient += len(z) / self.field.batch
        return -self.field.last

    def _first_steps(self) -> Tensor:
        """Return the first lengths (A, 1): those of an Euler step that moves a sample by `first_step` of its size."""
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
        width = step.to(self.z.dtype)
        after, k = tableau.attempt(self.state, width, self.slope, lambda node, point: self._slope(point))
        ratio = tableau.error_ratio(self.state, after, width, k, *self.tolerances)
        # NaN compares false: such a step is rejected and shrinks.
        good = ratio <= 1
        self.h = step * tableau.growth(ratio, sampler.max_growth)
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
                f"they did not ({self.field.where(self.z)}): loosen atol and rtol, or raise sigma."
            )


def combine(factors: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """Return Σ_i factors_i·k_i, over as many as there are factors.

    Args:
        factors: at least one number.
        k: tensors of one shape, at least as many as factors.

    Example:
        >>> import torch
        >>> combine((1.0, 2.0), [torch.ones(1), torch.ones(1)])
        tensor([3.])
    """
    result = k[0] * factors[0]
    for factor, slope in zip(factors[1:], k[1:], strict=False):
        if factor:
            result.add_(slope, alpha=factor)
    return result


def sample_settings(settings: Sequence[RungeKutta], energy: Energy, z_init: Tensor) -> list[Sample]:
    """Return the samples of several settings, which are computed in one batch.

    The seconds of a setting are its share of the whole, by evaluations.

    Args:
        settings: samplers that differ in `atol` and `rtol` alone, which are numbers.
        energy: E(c|g(z)) (B,) of latents z (B, D), without the prior.
        z_init: starting points (B, D), the same for all settings.

    Raises:
        LaceError: when the settings differ in something else, or hold one tolerance for each sample.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> rough, fine = sample_settings([RungeKutta(atol=0.1), RungeKutta(atol=1e-4)], Prior(), torch.ones(2, 3))
        >>> rough.z.shape, rough.evaluations < fine.evaluations
        (torch.Size([2, 3]), True)
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
        for z, evaluations, share in zip(torch.split(whole.z, count), per_setting, shares, strict=True)
    ]
