"""Priors of modules other than N(0, I), as maps of numbers z ~ N(0, I) by the inverse distribution function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LaceError, suggest
from .arguments import require_number

# Bounds of a truncated prior, in standard deviations, beyond which nothing is left to draw.
FARTHEST = 8.0


@dataclass(frozen=True)
class NormalPrior:
    """The map z -> mean + scale·z to N(mean, scale²).

    Args:
        mean: mean of the prior.
        scale: its standard deviation, above 0.

    Raises:
        LaceError: for an argument out of range.

    Example:
        >>> NormalPrior(scale=0.5)(torch.tensor([2.0])).tolist()
        [1.0]
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_number("prior.mean", self.mean)
        require_number("prior.scale", self.scale, above=0)

    def __call__(self, z: Tensor) -> Tensor:
        return self.mean + self.scale * z


@dataclass(frozen=True)
class UniformPrior:
    """The map z -> low + (high - low)·Φ(z) to the uniform distribution on [low, high].

    Args:
        low: lowest value.
        high: highest value, above `low`.

    Raises:
        LaceError: for an argument out of range.

    Example:
        >>> UniformPrior(-1, 1)(torch.tensor([-10.0, 0.0, 10.0])).tolist()
        [-1.0, 0.0, 1.0]
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _require_order(self.low, self.high)

    def __call__(self, z: Tensor) -> Tensor:
        share: Tensor = torch.special.ndtr(z)
        return self.low + (self.high - self.low) * share


@dataclass(frozen=True)
class TruncatedPrior:
    """The map z -> scale·Φ⁻¹(Φ(low) + (Φ(high) - Φ(low))·Φ(z)) to the normal distribution between two bounds.

    Args:
        low: lower bound in standard deviations, from -8 to 8.
        high: upper bound in standard deviations, from -8 to 8, above `low`.
        scale: factor of the truncated numbers, above 0.

    Raises:
        LaceError: for an argument out of range.

    References:
        The truncation trick of BigGAN (arXiv 1809.11096), for which low=-2 and high=2.

    Example:
        >>> TruncatedPrior(-2, 2)(torch.tensor([-10.0, 0.0, 10.0])).round(decimals=4).tolist()
        [-2.0, 0.0, 2.0]
    """

    low: float = -2.0
    high: float = 2.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _require_order(self.low, self.high)
        require_number("prior.scale", self.scale, above=0)
        if max(abs(self.low), abs(self.high)) > FARTHEST:
            raise LaceError(
                f"The bounds of a truncated prior must lie within {FARTHEST:g} standard deviations, received "
                f"{self.low:g} and {self.high:g}: correct prior.low and prior.high."
            )

    def __call__(self, z: Tensor) -> Tensor:
        # In float32 both ends of the distribution function are rounded away.
        wide = z.double()
        first, last = torch.special.ndtr(wide.new_tensor([self.low, self.high])).unbind()
        share = first + (last - first) * torch.special.ndtr(wide)
        bounded: Tensor = torch.special.ndtri(share).clamp(self.low, self.high)
        return (self.scale * bounded).to(z.dtype)


LatentPrior = NormalPrior | UniformPrior | TruncatedPrior
PRIORS: dict[str, type[LatentPrior]] = {
    "normal": NormalPrior,
    "uniform": UniformPrior,
    "truncated": TruncatedPrior,
}


def prior_of(given: Any) -> LatentPrior | None:
    """Return the map of a prior's name and arguments.

    Args:
        given: a name (normal, uniform or truncated), or a table with `name` and the arguments of its class; None for
            N(0, I).

    Returns:
        The map, None for N(0, I).

    Raises:
        LaceError: for another name or other arguments.

    Example:
        >>> prior_of({"name": "uniform", "low": 0}), prior_of(None)
        (UniformPrior(low=0, high=1.0), None)
    """
    if given is None:
        return None
    table = {"name": given} if isinstance(given, str) else given
    name = table.get("name") if isinstance(table, Mapping) else None
    if not isinstance(name, str) or name not in PRIORS:
        raise LaceError(
            f"The prior of a generator must be {', '.join(PRIORS)} with its arguments, such as {{name: uniform, low: "
            f"-1, high: 1}}, received {given!r}: correct it.{suggest(str(name), PRIORS)}"
        )
    kind = PRIORS[name]
    arguments: dict[str, Any] = {str(key): value for key, value in table.items() if key != "name"}
    known = list(kind.__dataclass_fields__)
    for key in arguments:
        if key not in known:
            raise LaceError(
                f"The prior '{name}' takes {', '.join(known)}, received '{key}': remove it.{suggest(str(key), known)}"
            )
    return kind(**arguments)


def describe_prior(prior: LatentPrior) -> dict[str, Any]:
    """Return a prior as plain values.

    Args:
        prior: the map.

    Example:
        >>> describe_prior(UniformPrior(0, 1))
        {'name': 'uniform', 'low': 0, 'high': 1}
    """
    return {"name": next(name for name, kind in PRIORS.items() if isinstance(prior, kind)), **asdict(prior)}


def _require_order(low: Any, high: Any) -> None:
    require_number("prior.low", low)
    require_number("prior.high", high)
    if not low < high:
        raise LaceError(f"The bounds of a prior must be in their order, received {low:g} and {high:g}: exchange them.")
