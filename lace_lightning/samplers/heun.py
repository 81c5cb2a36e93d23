"""The flow of LACE-ODE with a step size of its own for every sample."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Sampler
from .runge_kutta import RungeKutta


class Heun(RungeKutta):
    """dz/ds = -∇E(c|g(z)) for s from 0 to Λ = s(1) by the Heun-Euler pair, order 2(1), error controlled per sample.

    See `RungeKutta` for the arguments. Low order suits leaky-ReLU networks, whose fields have kinks.
    """

    def __init__(
        self,
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
        super().__init__(
            "heun", atol, rtol, first_step, max_growth, max_steps, beta_min, beta_max, corrector, chunk, precision
        )

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in super().settings().items() if key != "method"}
