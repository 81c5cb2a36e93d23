"""Network of a conditional continuous normalising flow: gated layers, an ODE, and normalisation by moving moments."""

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
def solving(problem: str) -> Iterator[None]:
    """Turn torchdiffeq's assertion on its step ("underflow in dt") into a `LaceError` inside this context.

    Args:
        problem: what is solved, for the message.

    Raises:
        LaceError: when the step of the solver became too short.
    """
    try:
        yield
    except AssertionError as error:
        raise LaceError(
            f"The solver's step must stay above the resolution of time and shrank below it ({problem}; {error}): "
            "loosen atol and rtol, use a smaller learning rate, or method=rk4."
        ) from error


@dataclass(frozen=True)
class Solver:
    """Settings of the integration of a flow: a method of torchdiffeq, its tolerances or its number of steps.

    Adaptive methods have one error norm over the whole batch, so that a sample depends slightly on its batch. Methods
    with fixed steps do not have that dependence.

    Args:
        method: a method of torchdiffeq, see `lace_lightning.samplers.ode.ORDERS`.
        atol: absolute tolerance of adaptive methods, above 0.
        rtol: relative tolerance of adaptive methods, above 0.
        steps: number of equal steps of the other methods, at least 1.
        adjoint: whether gradients come from the adjoint equation, in constant memory; else from the solver's
            operations.

    Raises:
        LaceError: for an unknown method, and for values that are not above 0.

    References:
        Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018.

    Example:
        >>> import torch
        >>> flow, x, code = ContinuousFlow(2, 1, [4]), torch.zeros(3, 2), torch.zeros(3, 1)
        >>> with torch.no_grad():
        ...     flow(x, code, Solver("rk4", steps=4)).evaluations
        16
    """

    method: str = "dopri5"
    atol: float = 1e-5
    rtol: float = 1e-5
    steps: int = 16
    adjoint: bool = True

    def __post_init__(self) -> None:
        if self.method not in ORDERS:
            raise LaceError(
                f"The method of a flow must be one of {', '.join(ORDERS)}, received '{self.method}'."
                f"{suggest(self.method, ORDERS)}"
            )
        require_positive(atol=self.atol, rtol=self.rtol, steps=self.steps)

    def __call__(self, right_side: RightSide, state: tuple[Tensor, ...], reverse: bool) -> tuple[Tensor, ...]:
        """Return the state at s = 1 from `state` at s = 0, or with `reverse` the state at s = 0 from that at s = 1."""
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
    """Gated linear layer y = (Wx + b)·sigmoid(G[t, c] + g) + H[t, c], which also maps tangents of x.

    A tangent v, a direction in which x moves, is mapped to Wv·sigmoid(G[t, c] + g).

    Args:
        inputs: size of x.
        outputs: size of y.
        num_conditions: number C of conditions; the layer sees them after the time t.

    References:
        Abdal et al., StyleFlow, ACM Transactions on Graphics 2021.

    Example:
        >>> import torch
        >>> y, tangents = GatedLayer(2, 4, num_conditions=1)(torch.zeros(3, 2), None, torch.zeros(3, 2))
        >>> y.shape, tangents
        (torch.Size([3, 4]), None)
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
    """The field F(t, c, x) of a flow: gated layers with tanh between them.

    Args:
        dim: size D of x and F.
        num_conditions: number C of conditions.
        hidden: sizes between the layers; without any there is one layer.

    Example:
        >>> import torch
        >>> slope, _ = Velocity(2, 1, [4])(torch.tensor(0.5), torch.zeros(3, 1), torch.zeros(3, 2))
        >>> slope.shape
        torch.Size([3, 2])
    """

    def __init__(self, dim: int, num_conditions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [dim, *hidden, dim]
        self.layers = nn.ModuleList(GatedLayer(*pair, num_conditions) for pair in pairwise(widths))

    def forward(
        self, t: Tensor, code: Tensor, x: Tensor, tangents: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return F (..., D), and the product Jv of its Jacobian in x with tangents.

        Args:
            t: the time, a scalar.
            code: conditions (..., C).
            x: points (..., D).
            tangents: directions v (P, ..., D), None for none.
        """
        code = torch.cat([t.to(code).expand(*code.shape[:-1], 1), code], dim=-1)
        for number, layer in enumerate(self.layers):
            if number:
                x = x.tanh()
                tangents = None if tangents is None else tangents * (1 - x.square())
            x, tangents = layer(x, tangents, code)
        return x, tangents


class RightSide(nn.Module):
    """Right side of one solve, for s in [0, 1] and t = Ts: dx/ds = T·F(Ts, c, x) and d log|det|/ds = T·tr J.

    Time is scaled so that the end time T has a gradient as a weight has. The trace is Σ_p vᵖ·Jvᵖ over probes v: one
    standard normal gives an unbiased estimate (Hutchinson), the D unit vectors give the exact trace. `evaluations`
    counts calls.

    Args:
        flow: the flow with F and T.
        code: conditions (..., C).
        probes: probes v (P, ..., D); None leaves log|det| out.

    Example:
        >>> import torch
        >>> right_side = RightSide(ContinuousFlow(2, 1, [4]), torch.zeros(3, 1), probes=None)
        >>> right_side(torch.tensor(0.0), (torch.zeros(3, 2),))[0].shape, right_side.evaluations
        (torch.Size([3, 2]), 1)
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
    """Continuous flow dx/dt = F(t, c, x) for t from 0 to the learnable end time T = `sqrt_end_time`².

    Args:
        dim: size D of x.
        num_conditions: number C of conditions.
        hidden: sizes between the layers of F.

    Example:
        >>> import torch
        >>> flow, code, solver = ContinuousFlow(2, 1, [4]), torch.zeros(3, 1), Solver("rk4", adjoint=False)
        >>> x = flow(torch.ones(3, 2), code, solver).x
        >>> torch.allclose(flow(x, code, solver, reverse=True).x, torch.ones(3, 2), atol=1e-4)
        True
    """

    def __init__(self, dim: int, num_conditions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.velocity = Velocity(dim, num_conditions, hidden)
        self.sqrt_end_time = nn.Parameter(torch.ones(()))

    @property
    def end_time(self) -> Tensor:
        """The end time T, a scalar."""
        return self.sqrt_end_time**2

    def forward(
        self, x: Tensor, code: Tensor, solver: Solver, probes: Tensor | None = None, reverse: bool = False
    ) -> Flowed:
        """Return the points x (..., D) after the flow, or before it with `reverse`; with `probes` also log|det|."""
        right_side = RightSide(self, code, probes)
        state = (x,) if probes is None else (x, torch.zeros_like(x[..., 0]))
        x, *rest = solver(right_side, state, reverse)
        return Flowed(x, rest[0] if rest else None, right_side.evaluations)


class MovingNorm(nn.Module):
    """Normalisation y = (x - m)/√(v + ε)·exp(weight) + bias with moving moments m and v.

    The moments are those of earlier batches, so that the map does not depend on the batch.

    Args:
        dim: size D of x.

    Example:
        >>> import torch
        >>> norm, x = MovingNorm(2), torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> norm.learn(x)
        >>> norm.running_mean.tolist(), torch.allclose(norm(norm(x).x, reverse=True).x, x)
        ([0.20000000298023224, 0.4000000059604645], True)
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
        """Return y and log|det| for x (..., D), or x for y with `reverse`."""
        log_scale = self.weight - 0.5 * (self.running_var + self.eps).log()
        if reverse:
            return Flowed((x - self.bias) * (-log_scale).exp() + self.running_mean, -log_scale.sum())
        return Flowed((x - self.running_mean) * log_scale.exp() + self.bias, log_scale.sum())

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """Move the moments a tenth of the way to those of a batch.

        Args:
            x: points (..., D), at least 2.

        Raises:
            LaceError: for a single point, which has no variance.
        """
        rows = x.detach().flatten(0, -2)
        if len(rows) < 2:
            raise LaceError("A flow learns from batches of at least 2 latents, received 1: set a larger batch size.")
        self.running_mean.lerp_(rows.mean(0), self.decay)
        self.running_var.lerp_(rows.var(0), self.decay)


@dataclass
class Flowed:
    """Points after a map, with the logarithm of its determinant and its cost.

    Args:
        x: points (..., D).
        log_det: log|det| (...,), or a scalar for all points; None where it was not computed.
        evaluations: evaluations of F.

    Example:
        >>> import torch
        >>> Flowed(torch.zeros(3, 2)).evaluations
        0
    """

    x: Tensor
    log_det: Tensor | None = None
    evaluations: int = 0


class FlowChain(nn.Module):
    """The map z = T_c(w): a normalisation, then `blocks` times a continuous flow and a normalisation.

    Args:
        dim: size D of w and z.
        num_conditions: number C of conditions.
        hidden: sizes between the layers of each flow.
        blocks: number of flows, at least 1.

    Example:
        >>> import torch
        >>> chain, code, solver = FlowChain(2, 1, [4]), torch.zeros(3, 1), Solver("rk4", adjoint=False)
        >>> z = chain.encode(torch.ones(3, 2), code, solver).x
        >>> torch.allclose(chain.decode(z, code, solver).x, torch.ones(3, 2), atol=1e-4)
        True
    """

    def __init__(self, dim: int, num_conditions: int, hidden: Sequence[int], blocks: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.chain = nn.ModuleList([MovingNorm(dim)])
        for _ in range(blocks):
            self.chain.extend([ContinuousFlow(dim, num_conditions, hidden), MovingNorm(dim)])

    def encode(
        self, w: Tensor, code: Tensor, solver: Solver, probes: Tensor | None = None, learn: bool = False
    ) -> Flowed:
        """Return z = T_c(w) (..., D), and log|det ∂z/∂w| where there are probes.

        Args:
            w: latents (..., D).
            code: conditions (..., C).
            solver: settings of the integration.
            probes: probes (P, ..., D) of the trace, see `RightSide`; None leaves log|det| out.
            learn: whether the moments of the normalisations move after they were used.

        Raises:
            LaceError: when the solver fails, and when moments learn from a single latent.
        """
        return self._through(self.chain, w, code, solver, probes, learn, reverse=False)

    def decode(self, z: Tensor, code: Tensor, solver: Solver) -> Flowed:
        """Return w = T_c⁻¹(z) (..., D), the inverse of `encode` with the same conditions.

        Args:
            z: points (..., D).
            code: conditions (..., C).
            solver: settings of the integration.

        Raises:
            LaceError: when the solver fails.
        """
        return self._through(reversed(self.chain), z, code, solver, None, False, reverse=True)

    def log_prob(
        self, w: Tensor, code: Tensor, solver: Solver, probes: Tensor | None = None, learn: bool = False
    ) -> Tensor:
        """Return log p(w|c) = log N(z; 0, I) + log|det ∂z/∂w| (...,).

        Args:
            w: latents (..., D).
            code: conditions (..., C).
            solver: settings of the integration.
            probes: probes (P, ..., D) of the trace; None for the exact trace.
            learn: whether the moments of the normalisations move after they were used.

        Raises:
            LaceError: when the solver fails, and when moments learn from a single latent.
        """
        flowed = self.encode(w, code, solver, self.units(w) if probes is None else probes, learn)
        normal = -0.5 * (flowed.x.square().sum(-1) + self.dim * math.log(2 * math.pi))
        return normal + cast(Tensor, flowed.log_det)

    def units(self, w: Tensor) -> Tensor:
        """Return the D unit vectors (D, ..., D) as probes of the exact trace at w (..., D)."""
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
    """Return latents after a check that all of them are finite.

    Args:
        w: latents (B, ..., D).

    Raises:
        LaceError: with the numbers of the samples that are not finite.

    Example:
        >>> import torch
        >>> finite(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    bad = (~w.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise LaceError(
            f"The latents of a flow must be finite and those of samples {', '.join(map(str, bad[:5]))} are not: train "
            "with a smaller learning rate, or sample with more steps."
        )
    return w
