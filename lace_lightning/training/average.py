"""Exponential moving averages of networks."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def averaged_copy(network: M) -> M:
    """Return a frozen copy of a network, in evaluation mode, which becomes its moving average.

    Args:
        network: the network that is trained.

    Returns:
        A deep copy whose parameters have no gradients.

    Example:
        >>> average = averaged_copy(torch.nn.Linear(2, 1))
        >>> average.weight.requires_grad
        False
    """
    return copy.deepcopy(network).requires_grad_(False).eval()


def early_decay(decay: float, updates: int) -> float:
    """Return the decay of a moving average after a number of updates: at most (1 + n)/(10 + n).

    The bound lets the average follow the network closely during the first updates.

    Args:
        decay: the decay after many updates, in [0, 1).
        updates: number n of updates so far, at least 0.

    Returns:
        The decay of this update, in [0, 1).

    Example:
        >>> early_decay(0.999, 0), early_decay(0.999, 10**6)
        (0.1, 0.999)
    """
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, weight: float, buffers: str | None = "copy") -> None:
    """Move an average towards a network: a ← a + weight·(n - a).

    Args:
        average: the average, of the same architecture; it is changed in place.
        network: the network.
        weight: 1 - decay, in [0, 1].
        buffers: "copy" copies all buffers of the network, "average" averages those of floating point and copies the
            others, None leaves them.

    Example:
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> average = averaged_copy(network)
        >>> _ = network.weight.data.add_(1.0)
        >>> move_average(average, network, 0.25)
        >>> round((network.weight - average.weight).item(), 4)
        0.75
    """
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), weight)
    if buffers is None:
        return
    for mean, buffer in zip(average.buffers(), network.buffers(), strict=True):
        if buffers == "average" and buffer.is_floating_point():
            mean.lerp_(buffer, weight)
        else:
            mean.copy_(buffer)
