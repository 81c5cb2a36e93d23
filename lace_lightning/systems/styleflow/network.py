"""A conditional continuous normalising flow: gated layers, an ordinary differential equation, normalisation by moving
moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from ...errors import LaceError, suggest
from ...samplers.base import require_positive
from ...samplers.ode import ADAPTIVE, ORDERS


@contextmanager
def solving(what: str) -> Iterator[None]:
    """Turn what torchdiffeq asserts of its step ("underflow in dt") into one sentence (LaceError) about `what`."""
    try:
        yield
    except AssertionError as error:
        raise LaceError(
            f"The solver's step must stay above the resolution of time and shrank below it ({what}; {error}): loosen "
            f"atol and "
            "rtol, use a smaller learning rate, or method=rk4."
        ) from error


@dataclass(frozen=True)
class Solver:
    """How the flow is integrated: a method of torchdiffeq, with tolerances where it is adaptive, with `steps` equal
    steps elsewhere.

    Adaptive methods have one error norm over the whole batch, so that a sample depends slightly on its batch; with
    fixed steps it does not. Gradients come from the adjoint equation, in constant memory, or with `adjoint` false from
    the solver's own operations.
    """

    method: str = "dopri5"
    atol: float = 1e-5
    rtol: float = 1e-5
    steps: int = 16
    adjoint: bool = True

    def __post_init__(self) -> None:
        if self.method not in ORDERS:
            raise LaceError(
                f"A flow's methods are {', '.join(ORDERS)}, received '{self.method}'.{suggest(self.method, ORDERS)}"
            )
        require_positive(atol=self.atol, rtol=self.rtol, steps=self.steps)

    def __call__(self, right_side: RightSide, state: tuple[Tensor, ...], reverse: bool) -> tuple[Tensor, ...]:
        """Return the state at s = 1 where `state` is that at s = 0; with `reverse` the other way round."""
        times = torch.tensor([1.0, 0.0] if reverse else [0.0, 1.0], dtype=state[0].dtype, device=state[0].device)
        options: dict[str, Any] | None = None if self.method in ADAPTIVE else {"grid_constructor": self._grid}
        integrate = odeint_adjoint if self.adjoint and torch.is_grad_enabled() else odeint
        with solving(str(self)):
            states = integrate(
                right_side, state, times, rtol=self.rtol, atol=self.atol, method=self.method, options=options
            )
        return tuple(values[-1] for values in states)

    def _grid(self, right_side: Any, state: Tensor, times: Tensor) -> Tensor:
        return torch.linspace(float(times[0]), float(times[-1]), self.steps + 1, dtype=times.dtype, device=times.device)


class GatedLayer(nn.Module):
    """y = (Wx + b)·sigmoid(G[t, c] + g) + H[t, c]; tangents, directions in which x moves, go along as W v·sigmoid(G[t,
    c] + g).
    """

    def __init__(self, inputs: int, outputs: int, num_conditions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.shift = nn.Linear(1 + num_conditions, outputs, bias=False)
        self.gate = nn.Linear(1 + num_conditions, outputs)

    def forward(self, x: Tensor, tangents: Tensor | None, code: Tensor) -> tuple[Tensor, Tensor | None]:
        gate = self.gate(code).sigmoid()
        y = self.linear(x) * gate + self.shift(code)
        return y, None if tangents is None else F.linear(tangents, self.linear.weight) * gate


class Velocity(nn.Module):
    """F(t, c, x): gated layers with tanh between them."""

    def __init__(self, dim: int, num_conditions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [dim, *hidden, dim]
        self.layers = nn.ModuleList(GatedLayer(*pair, num_conditions) for pair in pairwise(widths))

    def forward(
        self, t: Tensor, code: Tensor, x: Tensor, tangents: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return F (..., D) at x (..., D), conditions (..., C) and time t, and Jv for tangents v (P, ..., D) with the
        Jacobian J of F.
        """
        code = torch.cat([t.to(code).expand(*code.shape[:-1], 1), code], dim=-1)
        for number, layer in enumerate(self.layers):
            if number:
                x = x.tanh()
                tangents = None if tangents is None else tangents * (1 - x.square())
            x, tangents = layer(x, tangents, code)
        return x, tangents


class RightSide(nn.Module):
    """The right side of one solve, for s in [0, 1]: dx/ds = T·F(Ts, c, x) and d log|det| / ds = T·tr J, t = Ts.

    Time is scaled so that the end time T has a gradient like any weight. The trace is Σ_p vᵖ·Jvᵖ over `probes` v (P,
    ..., D): one standard normal is an unbiased estimate (Hutchinson), the D unit vectors are exact. Conditions and
    probes are no states.
    """

    def __init__(self, flow: ContinuousFlow, code: Tensor, probes: Tensor | None) -> None:
        super().__init__()
        self.flow, self.code, self.probes, self.evaluations = flow, code, probes, 0

    def forward(self, s: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.evaluations += 1
        end = self.flow.end_time
        slope, tangents = self.flow.velocity(end * s, self.code, state[0], self.probes)
        if self.probes is None or tangents is None:
            return (end * slope,)
        return end * slope, end * (self.probes * tangents).sum(dim=(0, -1))


class ContinuousFlow(nn.Module):
    """dx/dt = F(t, c, x) for t from 0 to the learnable T = `sqrt_end_time`²."""

    def __init__(self, dim: int, num_conditions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.velocity = Velocity(dim, num_conditions, hidden)
        self.sqrt_end_time = nn.Parameter(torch.ones(()))

    @property
    def end_time(self) -> Tensor:
        return self.sqrt_end_time**2

    def forward(
        self, x: Tensor, code: Tensor, solver: Solver, probes: Tensor | None = None, reverse: bool = False
    ) -> Flowed:
        right_side = RightSide(self, code, probes)
        state = (x,) if probes is None else (x, torch.zeros_like(x[..., 0]))
        x, *rest = solver(right_side, state, reverse)
        return Flowed(x, rest[0] if rest else None, right_side.evaluations)


class MovingNorm(nn.Module):
    """y = (x - m)/√(v + ε)·exp(weight) + bias with the moments m, v of what came before: the map does not depend on the
    batch.
    """

    eps, decay = 1e-4, 0.1
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor, reverse: bool = False) -> Flowed:
        """Return y for x (..., D), and log|det|; x for y with `reverse`."""
        log_scale = self.weight - 0.5 * (self.running_var + self.eps).log()
        if reverse:
            return Flowed((x - self.bias) * (-log_scale).exp() + self.running_mean, -log_scale.sum())
        return Flowed((x - self.running_mean) * log_scale.exp() + self.bias, log_scale.sum())

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """Move the moments a tenth of the way to those of x (..., D). Raises LaceError for a single row, which has no
        variance.
        """
        rows = x.detach().flatten(0, -2)
        if len(rows) < 2:
            raise LaceError("A flow learns from batches of at least 2 latents, received 1: set a larger batch size.")
        self.running_mean.lerp_(rows.mean(0), self.decay)
        self.running_var.lerp_(rows.var(0), self.decay)


@dataclass
class Flowed:
    """Where points (..., D) went, log|det| of the map there (...,) or one for all, and evaluations of F."""

    x: Tensor
    log_det: Tensor | None = None
    evaluations: int = 0


class FlowChain(nn.Module):
    """z = T_c(w): normalisation, then `blocks` times a continuous flow and a normalisation."""

    def __init__(self, dim: int, num_conditions: int, hidden: Sequence[int], blocks: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.chain = nn.ModuleList([MovingNorm(dim)])
        for _ in range(blocks):
            self.chain.extend([ContinuousFlow(dim, num_conditions, hidden), MovingNorm(dim)])

    def encode(
        self, w: Tensor, code: Tensor, solver: Solver, probes: Tensor | None = None, learn: bool = False
    ) -> Flowed:
        """Return z (..., D) of w (..., D) with conditions (..., C), and log|det ∂z/∂w| where there are `probes` (see
        `RightSide`).

        With `learn` the moments of the normalisations move, after they were used.
        """
        return self._through(self.chain, w, code, solver, probes, learn, reverse=False)

    def decode(self, z: Tensor, code: Tensor, solver: Solver) -> Flowed:
        """Return w (..., D) of z (..., D): the inverse of `encode` with the same conditions."""
        return self._through(reversed(self.chain), z, code, solver, None, False, reverse=True)

    def log_prob(
        self, w: Tensor, code: Tensor, solver: Solver, probes: Tensor | None = None, learn: bool = False
    ) -> Tensor:
        """Return log p(w|c) = log N(z; 0, I) + log|det ∂z/∂w| (...,); without `probes` the trace is exact."""
        flowed = self.encode(w, code, solver, self.units(w) if probes is None else probes, learn)
        normal = -0.5 * (flowed.x.square().sum(-1) + self.dim * math.log(2 * math.pi))
        return normal + cast(Tensor, flowed.log_det)

    def units(self, w: Tensor) -> Tensor:
        """Return probes (D, ..., D) of the exact trace at w (..., D)."""
        return torch.eye(self.dim, dtype=w.dtype, device=w.device).reshape(self.dim, *[1] * (w.ndim - 1), self.dim)

    def _through(
        self, chain: Any, x: Tensor, code: Tensor, solver: Solver, probes: Tensor | None, learn: bool, reverse: bool
    ) -> Flowed:
        log_det: Tensor | None = torch.zeros((), dtype=x.dtype, device=x.device)
        evaluations = 0
        for part in chain:
            if isinstance(part, MovingNorm):
                flowed = part(x, reverse)
                if learn:
                    part.learn(x)
            else:
                flowed = part(x, code, solver, probes, reverse)
            x, evaluations = flowed.x, evaluations + flowed.evaluations
            log_det = None if log_det is None or flowed.log_det is None else log_det + flowed.log_det
        return Flowed(x, log_det, evaluations)


def finite(w: Tensor) -> Tensor:
    """Return latents (B, ..., D) that must be finite. Raises LaceError, which names samples, where they are not."""
    bad = (~w.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise LaceError(
            f"The latents of a flow must be finite and those of samples {', '.join(map(str, bad[:5]))} are not: train "
            f"with a "
            "smaller learning rate, or sample with more steps."
        )
    return w
