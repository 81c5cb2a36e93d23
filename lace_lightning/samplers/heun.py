"""The flow of LACE-ODE with a step size of its own for every sample."""

from __future__ import annotations

from torch import Tensor

from .base import Sampler
from .runge_kutta import RungeKutta


class Heun(RungeKutta):
    """The flow of LACE-ODE by the Heun-Euler pair, order 2(1), with an error control of its own for every sample.

    Low order suits leaky-ReLU networks, whose fields have kinks. A step is accepted where the root mean square of its
    error/(atol + rtol·|z|) is at most 1. Diagnostics: `steps` (the most that a sample took), `rejected` (in all) and
    `per_sample` (B,), the evaluations of each sample.

    Target: the end of the flow from z. It has more of what was asked for than a sample of N(z)·p(c|z), and less spread;
    with a `corrector` the samples are exact. Use: the first choice for control, with about 13 gradients a sample.

    Args:
        atol: absolute tolerance above 0, a number or a tensor (B,) with one for each sample.
        rtol: relative tolerance above 0, a number or a tensor (B,).
        first_step: an Euler step of the first length moves a sample by this share of its size; above 0.
        max_growth: the largest ratio of two consecutive step lengths, above 1.
        max_steps: the largest number of steps, at least 1.
        beta_min: β at t = 0 of the schedule, 0 or more.
        beta_max: β at t = 1 of the schedule, at least `beta_min`.
        corrector: a chain that goes on where the flow ends.
        chunk: the largest number of samples that are on their way together; it bounds memory and changes no result.
        precision: number format of the hidden layers of gradients in closed form, for batches of 128 or more: float32,
            bfloat16, float16 or auto.

    Raises:
        LaceError: for settings out of range, and when a flow needs more than `max_steps` steps.

    References:
        Eq. 7 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> sample = Heun()(Prior(), torch.ones(2, 3))
        >>> sample.z.shape, bool(sample.z.abs().max() < 0.05)
        (torch.Size([2, 3]), True)
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
