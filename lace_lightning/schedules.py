"""The noise schedule of the variance-preserving process, and time measured along it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from .errors import LaceError

# One time or a tensor of times.
Time = TypeVar("Time", float, Tensor)


@dataclass(frozen=True)
class VP:
    """The schedule β(t) = β_min + (β_max - β_min)·t of the variance-preserving process, t in [0, 1].

    The flow dz = ½β(t)∇E dt is dz/ds = -∇E in s(t) = ½∫₀ᵗβ = ½(β_min·t + ½(β_max - β_min)·t²), for a length Λ = s(1).
    It depends on the schedule only through Λ, which is 5.025 for the paper's β.

    Args:
        beta_min: β(0), 0 or more.
        beta_max: β(1), above 0 and at least `beta_min`.

    Raises:
        LaceError: for other values.

    References:
        Eq. 6 and 7 of LACE (arXiv 2110.10873).

    Example:
        >>> round(VP().length(), 6), VP().time(VP().length(0.5))
        (5.025, 0.5)
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min <= self.beta_max or self.beta_max <= 0:
            raise LaceError(
                f"A schedule needs 0 <= beta_min <= beta_max and beta_max > 0, received {self.beta_min} and "
                f"{self.beta_max}: 0.1 and 20 are the paper's."
            )

    def beta(self, t: Time) -> Time:
        """Return β(t) of one time or of a tensor of times in [0, 1]."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def half_beta(self, t: Time) -> Time:
        """Return ½β(t), the derivative of s."""
        return self.beta(t) / 2

    def length(self, t: Time = 1.0) -> Time:  # type: ignore[assignment]
        """Return s(t), Λ by default."""
        return (self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2) / 2

    def time(self, s: float) -> float:
        """Return t with s(t) = s, for s in [0, Λ]."""
        slope = self.beta_max - self.beta_min
        if slope == 0:
            return 2 * s / self.beta_min
        return (math.sqrt(self.beta_min**2 + 4 * slope * s) - self.beta_min) / slope
