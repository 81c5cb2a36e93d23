"""LACE-ODE with the solvers of torchdiffeq."""

from __future__ import annotations

import torch
from torch import Tensor
from torchdiffeq import odeint
from torchdiffeq._impl.odeint import SOLVERS

from ..errors import LaceError, suggest
from ..schedules import VP
from .base import Field, NoiseSource, Record, Run, Sampler, require_positive

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


class ODE(Sampler):
    """dz = ½β(t)·∇E(c|g(z)) dt from t = 1 down to `end` (Eq. 7), by any method of torchdiffeq.

    `atol` and `rtol` steer adaptive methods (one error norm over the whole batch, as torchdiffeq has it, so that a
    sample depends slightly on its batch), `step_size` the fixed-step ones. With `time="s"` the same flow runs as dz/ds
    = -∇E over a length of 5.025, which needs fewer evaluations. `max_evaluations` ends a stiff solve with an error
    instead of hours.
    """

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
        if method not in SOLVERS:
            raise LaceError(f"The ODE methods are {', '.join(SOLVERS)}, received '{method}'.{suggest(method, SOLVERS)}")
        if time not in ("t", "s"):
            raise LaceError(f"An ODE runs in the time t of the schedule or in its length s, received '{time}'.")
        if not 0 <= end < 1:
            raise LaceError(f"The end time must lie in [0, 1), received {end}.")
        require_positive(atol=atol, rtol=rtol, step_size=step_size, max_evaluations=max_evaluations)
        self.method, self.atol, self.rtol, self.step_size, self.time, self.end = (
            method,
            atol,
            rtol,
            step_size,
            time,
            end,
        )
        self.beta_min, self.beta_max, self.max_evaluations, self.corrector = (
            beta_min,
            beta_max,
            max_evaluations,
            corrector,
        )
        self.order = ORDERS.get(method)

    def run(self, field: Field, z: Tensor, noise: NoiseSource, record: Record) -> Run:
        schedule = VP(self.beta_min, self.beta_max)
        times = []

        def velocity(t: Tensor, state: Tensor) -> Tensor:
            field.time = float(t)
            times.append(field.time)
            if len(times) > self.max_evaluations:
                raise LaceError(
                    f"The solver must finish within {self.max_evaluations} evaluations and did not "
                    f"({field.where(state)}): loosen atol and rtol, or use heun."
                )
            factor = schedule.half_beta(field.time) if self.time == "t" else -1.0
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
