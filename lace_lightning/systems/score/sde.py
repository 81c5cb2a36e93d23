"""The diffusions of pictures into noise (VP-SDE, VE-SDE), and the steps that reverse them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import LaceError, suggest
from ...schedules import VP

PREDICTORS = ("reverse_diffusion", "euler_maruyama", "ancestral", "none")


@dataclass(frozen=True)
class Move:
    """One step back in time: x ← x·`keep` + score·`climb` + `noise`·n, n ~ N(0, I).

    Args:
        keep: factor of x.
        climb: factor of the score, 0 or more.
        noise: standard deviation of the noise, 0 or more.

    Example:
        >>> VariancePreserving().move("none", index=0, t=0.5, num_steps=100)
        Move(keep=1.0, climb=0.0, noise=0.0)
    """

    keep: float
    climb: float
    noise: float


class SDE:
    """Base class of diffusions dx = -ρ(t)·x dt + g(t) dW for t in [0, 1], with p(x_t|x_0) = N(a(t)·x_0, s(t)²).

    Times t are tensors (B,). Training draws t from [`begin`, 1]. Sampling begins at t = 1 with noise of standard
    deviation `prior_std` and ends at t = `end`. The score is sign·network/s(t). Pictures x_0 lie in [-1, 1] where
    `centered` is true, and in [0, 1] elsewhere. `embedding` names how the network reads `level`: positional or fourier.

    References:
        Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021; Eq. 20 to 23
        of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> sde, t = build_sde("vp"), torch.tensor([0.1, 1.0])
        >>> isinstance(sde, SDE), torch.allclose(sde.mean(t) ** 2 + sde.std(t) ** 2, torch.ones(2))
        (True, True)
    """

    name: str
    embedding: str
    begin = 1e-5
    end: float
    prior_std: float
    centered: bool
    sign: float

    def mean(self, t: Tensor) -> Tensor:
        """Return a(t) (B,) of times (B,), the factor of the picture in x_t."""
        raise NotImplementedError

    def std(self, t: Tensor) -> Tensor:
        """Return s(t) (B,) of times (B,), the standard deviation of the noise in x_t."""
        raise NotImplementedError

    def rate(self, t: Tensor) -> Tensor:
        """Return ρ(t) (B,) of times (B,), the rate at which x shrinks."""
        raise NotImplementedError

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t) (B,) of times (B,), the factor of the noise dW."""
        raise NotImplementedError

    def level(self, t: Tensor) -> Tensor:
        """Return the noise level (B,) that the score network is conditioned on at times (B,)."""
        raise NotImplementedError

    def alpha(self, index: int, num_steps: int) -> float:
        """Return the factor of the Langevin corrector's step at discrete time `index` of 0 .. num_steps - 1."""
        raise NotImplementedError

    def reverse_diffusion(self, index: int, num_steps: int) -> Move:
        """Return the step that reverses the forward step of the same coefficients, at discrete time `index`."""
        raise NotImplementedError

    def ancestral(self, index: int, num_steps: int) -> Move:
        """Return the step that draws from the posterior of the discrete chain, at discrete time `index`."""
        raise NotImplementedError

    def euler_maruyama(self, t: float, num_steps: int) -> Move:
        """Return the step of length 1/N of the reverse-time equation dx = (-ρ·x - g²·score) dt + g dW."""
        time = torch.tensor(t, dtype=torch.float64)
        rate, variance = float(self.rate(time)), float(self.diffusion(time)) ** 2
        return Move(1 + rate / num_steps, variance / num_steps, math.sqrt(variance / num_steps))

    def move(self, predictor: str, index: int, t: float, num_steps: int) -> Move:
        """Return the step of a predictor, by name, at discrete time `index` and continuous time `t`."""
        if predictor == "none":
            return Move(1.0, 0.0, 0.0)
        if predictor == "euler_maruyama":
            return self.euler_maruyama(t, num_steps)
        return (self.ancestral if predictor == "ancestral" else self.reverse_diffusion)(index, num_steps)

    def check_steps(self, num_steps: int) -> None:
        """Refuse a number of steps that the discrete chain cannot have.

        Raises:
            LaceError: for fewer than 2 steps, or too few for the schedule.
        """
        if num_steps < 2:
            raise LaceError(
                f"A reverse diffusion needs at least 2 steps, received {num_steps}: 1000 is the published number."
            )


class VariancePreserving(SDE):
    """VP-SDE dx = -½β(t)·x dt + √β(t) dW with β(t) linear in t: a = exp(-½∫β), s² = 1 - a², pictures in [-1, 1].

    Args:
        beta_min: β(0), 0 or more.
        beta_max: β(1), above 0 and at least `beta_min`; a sampler needs more steps than this number.

    Raises:
        LaceError: for other values.

    References:
        Eq. 6 and 20 to 23 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> round(VariancePreserving().mean(torch.tensor(1.0)).item(), 5)
        0.00657
    """

    name, embedding, end, prior_std, centered, sign = "vp", "positional", 1e-3, 1.0, True, -1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.schedule = VP(beta_min, beta_max)

    def mean(self, t: Tensor) -> Tensor:
        return torch.exp(-self.schedule.length(t))

    def std(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-2 * self.schedule.length(t))).sqrt()

    def rate(self, t: Tensor) -> Tensor:
        return self.schedule.half_beta(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.schedule.beta(t).sqrt()

    def level(self, t: Tensor) -> Tensor:
        return 999 * t

    def _beta(self, index: int, num_steps: int) -> float:
        return self.schedule.beta(index / (num_steps - 1)) / num_steps

    def alpha(self, index: int, num_steps: int) -> float:
        return 1 - self._beta(index, num_steps)

    def reverse_diffusion(self, index: int, num_steps: int) -> Move:
        beta = self._beta(index, num_steps)
        return Move(2 - math.sqrt(1 - beta), beta, math.sqrt(beta))

    def ancestral(self, index: int, num_steps: int) -> Move:
        beta = self._beta(index, num_steps)
        return Move(1 / math.sqrt(1 - beta), beta / math.sqrt(1 - beta), math.sqrt(beta))

    def check_steps(self, num_steps: int) -> None:
        super().check_steps(num_steps)
        if num_steps <= self.schedule.beta_max:
            raise LaceError(
                f"The VP-SDE needs more than beta_max = {self.schedule.beta_max:g} steps, received {num_steps}: take "
                "more; the published number is 1000."
            )


class VarianceExploding(SDE):
    """VE-SDE dx = √(dσ²/dt) dW with σ(t) geometric in t: a = 1, s = σ(t) as published, pictures in [0, 1].

    Args:
        sigma_min: σ(0), above 0.
        sigma_max: σ(1), above `sigma_min`; the standard deviation of the noise at which sampling begins.

    Raises:
        LaceError: for other values.

    References:
        Eq. 20 to 23 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> [round(sigma, 2) for sigma in VarianceExploding().std(torch.tensor([0.0, 1.0])).tolist()]
        [0.01, 50.0]
    """

    name, embedding, end, centered, sign = "ve", "fourier", 1e-5, False, 1.0

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise LaceError(
                f"The VE-SDE needs 0 < sigma_min < sigma_max, received {sigma_min} and {sigma_max}: 0.01 and 50 are "
                "published."
            )
        self.sigma_min, self.sigma_max, self.prior_std = sigma_min, sigma_max, sigma_max

    def mean(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def std(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.std(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def level(self, t: Tensor) -> Tensor:
        return self.std(t).log()

    def alpha(self, index: int, num_steps: int) -> float:
        return 1.0

    def _variances(self, index: int, num_steps: int) -> tuple[float, float]:
        """Return σ² at discrete time `index` and one step earlier, which is 0 before the first."""
        ratio = (self.sigma_max / self.sigma_min) ** (1 / (num_steps - 1))
        here = (self.sigma_min * ratio**index) ** 2
        return here, here / ratio**2 if index else 0.0

    def reverse_diffusion(self, index: int, num_steps: int) -> Move:
        here, before = self._variances(index, num_steps)
        return Move(1.0, here - before, math.sqrt(here - before))

    def ancestral(self, index: int, num_steps: int) -> Move:
        here, before = self._variances(index, num_steps)
        return Move(1.0, here - before, math.sqrt(before * (here - before) / here))


SDES: dict[str, type[SDE]] = {"vp": VariancePreserving, "ve": VarianceExploding}


def build_sde(kind: str, **arguments: Any) -> SDE:
    """Return a diffusion by name.

    Args:
        kind: vp or ve.
        arguments: arguments of `VariancePreserving` or `VarianceExploding`, by name.

    Raises:
        LaceError: for another name, and for values out of range.
    """
    if kind not in SDES:
        raise LaceError(f"A diffusion must be one of {', '.join(SDES)}, received '{kind}'.{suggest(kind, SDES)}")
    return SDES[kind](**arguments)
