"""LACE-ODE with the solvers of torchdiffeq."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LaceError, suggest
from ..schedules import VP
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive

# The methods of torchdiffeq: the adaptive ones, and the orders of all of them.
ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")
ORDERS = {
    "dopri8": 8,
    "dopri5": 5,
    "bosh3": 3,
    "fehlberg2": 2,
    "adaptive_heun": 2,
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 3,
    "rk4": 4,
    "explicit_adams": 4,
    "implicit_adams": 4,
    "fixed_adams": 4,
}
METHODS = (*ORDERS, "scipy_solver")
TIMES = ("t", "s")


class ODE(Sampler):
    """LACE-ODE: dz = ½β(t)·∇E(c|g(z)) dt from t = 1 down to `end`, by any method of torchdiffeq.

    Adaptive methods have one error norm over the whole batch, so that a sample depends slightly on its batch.
    Diagnostics: `times`, the time of every evaluation.

    Target: the end of the flow from z. It has more of what was asked for than a sample of N(z)·p(c|z), and less spread;
    with a `corrector` the samples are exact. Use: to compare with the paper; `Heun` follows the same flow with a tenth
    of the evaluations.

    Args:
        method: a name of `METHODS`.
        atol: absolute tolerance of adaptive methods, above 0.
        rtol: relative tolerance of adaptive methods, above 0.
        step_size: the step of the other methods in the time of the flow, above 0.
        time: "t" for the time of the schedule, "s" for its length: the flow is dz/ds = -∇E there, over a length of
            5.025 for the paper's β, and needs fewer evaluations.
        end: the last t, in [0, 1).
        beta_min: β at t = 0 of the schedule, 0 or more.
        beta_max: β at t = 1 of the schedule, at least `beta_min`.
        max_evaluations: the most evaluations of a run, at least 1.
        corrector: a chain that goes on where the flow ends.

    Raises:
        LaceError: for an unknown method or time and settings out of range; when a run needs more than `max_evaluations`
            evaluations, or a step shorter than the resolution of time.

    References:
        Eq. 7 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = ODE("rk4", step_size=0.05)(Prior(), torch.ones(2, 3))
        >>> sample.z.shape, sample.evaluations
        (torch.Size([2, 3]), 80.0)
    """

    is_flow = True

    def __init__(
        self,
        method: str = "dopri5",
        atol: float = 1e-3,
        rtol: float = 1e-3,
        step_size: float = 0.01,
        time: str = "t",
        end: float = 0.0,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        max_evaluations: int = 100_000,
        corrector: Sampler | None = None,
    ) -> None:
        if method not in METHODS:
            raise LaceError(f"The ODE methods are {', '.join(METHODS)}, received '{method}'.{suggest(method, METHODS)}")
        if time not in TIMES:
            raise LaceError(
                f"An ODE runs in the time t of the schedule or in its length s, received '{time}': give t or s."
            )
        if not 0 <= end < 1:
            raise LaceError(f"The end time must lie in [0, 1), received {end}: 0 is the whole flow.")
        require_positive(atol=atol, rtol=rtol, step_size=step_size, max_evaluations=max_evaluations)
        self.method, self.atol, self.rtol, self.step_size = method, atol, rtol, step_size
        self.time, self.end, self.beta_min, self.beta_max = time, end, beta_min, beta_max
        self.max_evaluations, self.corrector = max_evaluations, corrector
        self.order = ORDERS.get(method)

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        # Imports SciPy, which takes longer than all the rest of this package.
        from torchdiffeq import odeint

        schedule = VP(self.beta_min, self.beta_max)
        times: list[float] = []

        def velocity(t: Tensor, state: Tensor) -> Tensor:
            now = field.time = float(t)
            times.append(now)
            if len(times) > self.max_evaluations:
                raise LaceError(
                    f"The solver must finish within {self.max_evaluations} evaluations and did not "
                    f"({field.where(state)}): loosen atol and rtol, or use heun."
                )
            factor = schedule.half_beta(now) if self.time == "t" else -1.0
            return factor * field(state)

        span = [1.0, self.end] if self.time == "t" else [0.0, schedule.length() - schedule.length(self.end)]
        options = {} if self.method in ADAPTIVE else {"step_size": self.step_size}
        try:
            path = odeint(
                velocity,
                z,
                torch.tensor(span, device=z.device),
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                options=options,
            )
        except AssertionError as error:
            # torchdiffeq asserts that its step is larger than the resolution of its time ("underflow in dt").
            raise LaceError(
                f"The solver's step must stay above the resolution of time and shrank below it "
                f"({field.where(z)}; {error}): loosen atol and rtol, raise sigma, or use heun or euler."
            ) from error
        record(path[-1])
        return path[-1], {"times": times}
