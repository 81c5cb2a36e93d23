"""Samplers of score models: reverse diffusion with Langevin corrections, and the probability flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ... import progress
from ...errors import LaceError, suggest
from ...samplers.base import NoiseSource, require_positive
from ...samplers.runge_kutta import METHODS
from .sde import PREDICTORS, SDE

# (x, t, rows) -> ∇ log p_t(x) (A, *) of points x (A, *) at times t (A,); `rows` (A,) are their numbers in the batch.
Score = Callable[[Tensor, Tensor, Tensor], Tensor]
Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


class ScoreSampler:
    """Base class of samplers that take noise of a diffusion's prior to data along a score; a subclass gives `__call__`.

    `sampler(sde, score, x, noise)` takes x (B, *) of standard deviation `sde.prior_std` to points (B, *) at the
    diffusion's end, and returns them with the number of score evaluations per sample.

    Example:
        >>> isinstance(build_score_sampler({"kind": "reverse_diffusion"}), ScoreSampler)
        True
    """

    def __call__(self, sde: SDE, score: Score, x: Tensor, noise: NoiseSource) -> tuple[Tensor, float]:
        raise NotImplementedError

    def check(self, sde: SDE) -> None:
        """Refuse a diffusion that these settings cannot sample.

        Raises:
            LaceError: for too few steps.
        """


class ReverseDiffusion(ScoreSampler):
    """Predictor-corrector sampler: N times M Langevin corrections, then one predictor step back in time.

    A correction is x ← x + ε·s + √(2ε)·n with ε = 2α(r·‖n‖/‖s‖)², where s is the score, n ~ N(0, I) and r = `snr`.
    Times go from 1 to the diffusion's end. A run takes N·(M + 1) score evaluations.

    Args:
        predictor: reverse_diffusion, euler_maruyama, ancestral, or none for corrections alone.
        num_steps: N, at least 2; a VP-SDE needs more than its `beta_max`.
        num_corrector_steps: M, 0 or more.
        snr: r, the signal-to-noise ratio of a correction, above 0.
        coupled: whether the norms are means over the batch, as published, so that a sample depends on its batch; else
            they are those of each sample.
        denoise: whether the last predictor step returns its mean, without noise.

    Raises:
        LaceError: for an unknown predictor and for values out of range.

    References:
        Song et al., ICLR 2021, Algorithms 1 to 5; Eq. 20 to 23 of LACE (arXiv 2110.10873), with N = 1000, M = 1,
        r = 0.16.

    Example:
        >>> import torch
        >>> from lace_lightning.seeds import Noise
        >>> from lace_lightning.systems.score.sde import VariancePreserving
        >>> sampler, noise = ReverseDiffusion(num_steps=30), Noise(torch.arange(2))
        >>> x, evaluations = sampler(VariancePreserving(), lambda x, t, rows: -x, torch.ones(2, 3), noise)
        >>> x.shape, evaluations
        (torch.Size([2, 3]), 60.0)
    """

    def __init__(
        self,
        predictor: str = "reverse_diffusion",
        num_steps: int = 1000,
        num_corrector_steps: int = 1,
        snr: float = 0.16,
        coupled: bool = False,
        denoise: bool = True,
    ) -> None:
        if predictor not in PREDICTORS:
            raise LaceError(
                f"A predictor must be one of {', '.join(PREDICTORS)}, received '{predictor}'."
                f"{suggest(predictor, PREDICTORS)}"
            )
        require_positive(num_steps=num_steps, snr=snr)
        if num_corrector_steps < 0:
            raise LaceError(
                f"num_corrector_steps must be 0 or more, received {num_corrector_steps}: 1 is published, 0 leaves "
                "corrections out."
            )
        self.predictor, self.num_steps, self.num_corrector_steps = predictor, num_steps, num_corrector_steps
        self.snr, self.coupled, self.denoise = snr, coupled, denoise

    def check(self, sde: SDE) -> None:
        sde.check_steps(self.num_steps)

    def __call__(self, sde: SDE, score: Score, x: Tensor, noise: NoiseSource) -> tuple[Tensor, float]:
        self.check(sde)
        steps, rows, draws = self.num_steps, torch.arange(len(x), device=x.device), 0
        for k in progress.steps(range(steps), "reverse diffusion", "step"):
            index, time = steps - 1 - k, 1 + k / (steps - 1) * (sde.end - 1)
            t = torch.full((len(x),), time, device=x.device, dtype=x.dtype)
            for _ in range(self.num_corrector_steps):
                x = self.corrected(x, score(x, t, rows), noise(draws, x), sde.alpha(index, steps))
                draws += 1
            move = sde.move(self.predictor, index, time, steps)
            if move.climb:
                x = move.keep * x + move.climb * score(x, t, rows)
            if move.noise and not (self.denoise and index == 0):
                x = x + move.noise * noise(draws, x)
            draws += 1
        return x, float(steps * (self.num_corrector_steps + (self.predictor != "none")))

    def corrected(self, x: Tensor, score: Tensor, n: Tensor, alpha: float) -> Tensor:
        """Return x (B, *) after one Langevin step along `score` with the normals n."""
        ratio = self._norm(n) / self._norm(score).clamp(min=1e-20)
        epsilon = 2 * alpha * (self.snr * ratio) ** 2
        return x + epsilon * score + (2 * epsilon).sqrt() * n

    def _norm(self, x: Tensor) -> Tensor:
        norms = x.flatten(1).norm(dim=1)
        result: Tensor = (norms.mean().expand_as(norms) if self.coupled else norms).reshape(-1, *[1] * (x.ndim - 1))
        return result


class ProbabilityFlow(ScoreSampler):
    """Probability flow dx/dt = -ρ·x - ½g²·s from t = 1 to the diffusion's end, a sampler without noise.

    The flow has the marginals of the diffusion. Without `num_steps` every sample has an error control of its own, so
    that it does not depend on its batch.

    Args:
        method: heun, bosh3 or dopri5, see `lace_lightning.samplers.runge_kutta`.
        num_steps: number of steps of equal length, at least 1; None for adaptive steps.
        atol: absolute tolerance of adaptive steps, above 0.
        rtol: relative tolerance of adaptive steps, above 0.
        max_steps: the most adaptive steps, rejected ones included, at least 1.

    Raises:
        LaceError: for an unknown method and for values out of range.

    References:
        Song et al., ICLR 2021, section 4.3.

    Example:
        >>> import torch
        >>> from lace_lightning.systems.score.sde import VariancePreserving
        >>> flow, x = ProbabilityFlow("heun", num_steps=4), torch.ones(1, 2)
        >>> y, evaluations = flow(VariancePreserving(), lambda x, t, rows: -x, x)
        >>> torch.allclose(x, y), evaluations
        (True, 8.0)
    """

    def __init__(
        self,
        method: str = "dopri5",
        num_steps: int | None = None,
        atol: float = 1e-5,
        rtol: float = 1e-5,
        max_steps: int = 10_000,
    ) -> None:
        if method not in METHODS:
            raise LaceError(
                f"The method of a flow must be one of {', '.join(METHODS)}, received '{method}'."
                f"{suggest(method, METHODS)}"
            )
        require_positive(
            atol=atol, rtol=rtol, max_steps=max_steps, **({} if num_steps is None else {"num_steps": num_steps})
        )
        self.method, self.num_steps, self.atol, self.rtol, self.max_steps = method, num_steps, atol, rtol, max_steps
        self.order = METHODS[method].order

    def __call__(self, sde: SDE, score: Score, x: Tensor, noise: NoiseSource | None = None) -> tuple[Tensor, float]:
        def velocity(y: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            return drift(sde, score, y.reshape(-1, *x.shape[1:]), t, rows).flatten(1)

        y, evaluations = self.integrate(velocity, x.flatten(1), 1.0, sde.end)
        return y.reshape(x.shape), evaluations

    def log_density(self, sde: SDE, score: Score, x: Tensor, probe: Tensor | None = None) -> tuple[Tensor, float]:
        """Return log p(x) (B,) of points x (B, *) at the diffusion's end, and the score evaluations per sample.

        The flow runs from x to the prior, with d log p = -div(dx/dt) dt. The divergence of the score is pᵀ(∂s/∂x)p for
        a probe p, which is an unbiased estimate, or the exact trace.

        Args:
            sde: the diffusion.
            score: ∇ log p_t(x).
            x: points (B, *).
            probe: probes p (B, *) of ±1 or normals; None for the exact trace, which takes as many gradients as x has
                numbers.

        Raises:
            LaceError: when the flow does not arrive within `max_steps`.
        """

        def velocity(y: Tensor, t: Tensor, rows: Tensor) -> Tensor:
            with torch.enable_grad():
                point = y[:, :-1].reshape(-1, *x.shape[1:]).detach().requires_grad_(True)
                slope = drift(sde, score, point, t, rows).flatten(1)
                divergence = _divergence(slope, point, None if probe is None else probe[rows].flatten(1))
            return torch.cat([slope.detach(), divergence[:, None]], dim=1)

        start = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], dim=1)
        y, evaluations = self.integrate(velocity, start, sde.end, 1.0)
        z, size = y[:, :-1] / sde.prior_std, y.shape[1] - 1
        prior = -z.square().sum(1) / 2 - size * (math.log(2 * math.pi) / 2 + math.log(sde.prior_std))
        return prior + y[:, -1], evaluations

    def integrate(self, velocity: Velocity, y: Tensor, start: float, end: float) -> tuple[Tensor, float]:
        """Return y (B, D) at time `end` for dy/dt = velocity(y, t, rows), and the evaluations per sample.

        Args:
            velocity: function of y (A, D), times (A,) and numbers of the samples (A,) that returns dy/dt (A, D).
            y: states (B, D) at time `start`.
            start: the first time.
            end: the last time, before or after `start`.

        Raises:
            LaceError: when some sample does not arrive within `max_steps`, or its steps become too short.
        """
        tableau, length, sign = METHODS[self.method], abs(end - start), math.copysign(1.0, end - start)
        y, rows = y.clone(), torch.arange(len(y), device=y.device)
        state, done, spent = y, torch.zeros(len(y), 1, device=y.device, dtype=torch.float64), 0.0
        planned = torch.full_like(done, length / (self.num_steps or 100))
        slope: Tensor | None = None
        for _ in progress.steps(range(self.num_steps or self.max_steps), "probability flow", "step"):
            step = planned.minimum(length - done)

            def at(node: float, point: Tensor, done: Tensor = done, step: Tensor = step, rows: Tensor = rows) -> Tensor:
                return velocity(point, (start + sign * (done + node * step))[:, 0].to(point.dtype), rows)

            width = (sign * step).to(y.dtype)
            spent += (slope is None) * len(rows) + len(tableau.stages) * len(rows)
            first = at(0.0, state) if slope is None else slope
            after, k = tableau.attempt(state, width, first, at, fused=False)
            if self.num_steps is None:
                ratio = tableau.error_ratio(state, after, width, k, self.atol, self.rtol)
                # NaN compares false: such a step is rejected and shrinks.
                good = ratio <= 1
                planned = step * tableau.growth(ratio.double(), 5.0)
            else:
                good = torch.ones_like(done, dtype=torch.bool)
            state, done = torch.where(good, after, state), torch.where(good, done + step, done)
            slope = torch.where(good, k[-1], k[0]) if tableau.first_same_as_last else None
            y[rows] = state
            going = (done < length - 1e-9)[:, 0]
            if not bool(going.any()):
                return y, spent / len(y)
            if not bool(going.all()):
                rows, state, done, planned = rows[going], state[going], done[going], planned[going]
                slope = None if slope is None else slope[going]
            if float(planned.min()) < 1e-9 * length:
                break
        raise LaceError(
            f"The flow must arrive within {self.max_steps} steps and stays at time "
            f"{float(start + sign * done.min()):.4g} with "
            f"{len(rows)} of {len(y)} samples: loosen atol and rtol, or give num_steps."
        )


def drift(sde: SDE, score: Score, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    """Return the velocity dx/dt (A, *) of the probability flow.

    Args:
        sde: the diffusion.
        score: ∇ log p_t(x).
        x: points (A, *) in the diffusion's range.
        t: times (A,) in (0, 1].
        rows: numbers (A,) int64 of the points in their batch, which the score may use.
    """
    shape = (-1, *[1] * (x.ndim - 1))
    return -sde.rate(t).reshape(shape) * x - sde.diffusion(t).square().reshape(shape) / 2 * score(x, t, rows)


def _divergence(slope: Tensor, x: Tensor, probe: Tensor | None) -> Tensor:
    """Return the trace (A,) of ∂slope/∂x, slope (A, D) of x (A, *): its estimate by a probe (A, D), or exactly."""
    if probe is not None:
        (product,) = torch.autograd.grad((slope * probe).sum(), x)
        return (product.flatten(1) * probe).sum(1)
    total = x.new_zeros(len(x))
    for index in range(slope.shape[1]):
        (row,) = torch.autograd.grad(slope[:, index].sum(), x, retain_graph=True)
        total = total + row.flatten(1)[:, index]
    return total.detach()


SCORE_SAMPLERS: dict[str, type[ScoreSampler]] = {
    "reverse_diffusion": ReverseDiffusion,
    "probability_flow": ProbabilityFlow,
}


def build_score_sampler(settings: Mapping[str, Any]) -> ScoreSampler:
    """Return a sampler of scores from its settings.

    Args:
        settings: `kind`, reverse_diffusion (default) or probability_flow, and the arguments of `ReverseDiffusion` or
            `ProbabilityFlow`.

    Raises:
        LaceError: for another kind, and for values out of range.

    Example:
        >>> build_score_sampler({"kind": "probability_flow", "method": "heun"}).order
        2
    """
    arguments = dict(settings)
    kind = arguments.pop("kind", "reverse_diffusion")
    if kind not in SCORE_SAMPLERS:
        raise LaceError(
            f"The sampler of a score must be one of {', '.join(SCORE_SAMPLERS)}, received "
            f"'{kind}'.{suggest(kind, SCORE_SAMPLERS)}"
        )
    return SCORE_SAMPLERS[kind](**arguments)
