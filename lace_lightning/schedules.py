"""The noise schedule of the variance-preserving process, and time measured along it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from .errors import LaceError

# A time, or many.
Time = TypeVar("Time", float, Tensor)


@dataclass(frozen=True)
class VP:
    """β(t) = β_min + (β_max - β_min)·t on [0, 1] (Eq. 6).

    The flow dz = ½β(t)∇E dt (Eq. 7) is dz/ds = -∇E in s(t) = ½∫₀ᵗβ = ½(β_min·t + ½(β_max - β_min)·t²), for a length
    Λ = s(1): the schedule matters only through Λ, which is 5.025 for the paper's β.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min <= self.beta_max or self.beta_max <= 0:
            raise LaceError(
                f"A schedule needs 0 <= beta_min <= beta_max and beta_max > 0, received {self.beta_min} and "
                f"{self.beta_max}."
            )

    def beta(self, t: Time) -> Time:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def half_beta(self, t: Time) -> Time:
        """Return ½β(t), the speed of s."""
        return self.beta(t) / 2

    def length(self, t: Time = 1.0) -> Time:  # type: ignore[assignment]
        """Return s(t)."""
        return (self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2) / 2

    def time(self, s: float) -> float:
        """Return t with s(t) = s."""
        slope = self.beta_max - self.beta_min
        if slope == 0:
            return 2 * s / self.beta_min
        return (math.sqrt(self.beta_min**2 + 4 * slope * s) - self.beta_min) / slope
