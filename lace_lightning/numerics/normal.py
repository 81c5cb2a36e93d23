"""Logarithm of the normal distribution function, also in graphs for other programs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .recording import is_exporting

# Below this point the continued fraction is exact in float32, above it the error function.
SWITCH = -2.0
# Terms of the continued fraction: the error at the switch is 1e-9.
TERMS = 30


def log_ndtr(x: Tensor) -> Tensor:
    """Return log Φ(x), stable for all x.

    Exported graphs have operations that every runtime knows: the error function above -2, and a continued fraction of
    Mills' ratio below.

    Args:
        x: numbers of any shape.

    Returns:
        Numbers of the same shape, at most 0.

    References:
        Abramowitz and Stegun, 26.2.14, for the continued fraction.

    Example:
        >>> log_ndtr(torch.tensor([0.0, -40.0])).tolist()  # doctest: +ELLIPSIS
        [-0.693147..., -804.608...]
    """
    if not is_exporting():
        exact: Tensor = torch.special.log_ndtr(x)
        return exact
    above = torch.log1p(-0.5 * (1 - torch.erf(x.clamp(min=SWITCH) / math.sqrt(2))))
    t = -x.clamp(max=SWITCH)
    fraction = t
    for k in range(TERMS, 0, -1):
        fraction = t + k / fraction
    below = -t.square() / 2 - torch.log(fraction) - math.log(2 * math.pi) / 2
    return torch.where(x > SWITCH, above, below)
