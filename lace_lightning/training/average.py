"""Exponential moving averages of networks."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def averaged_copy(network: M) -> M:
    """Return a frozen copy of a network, in evaluation mode, which becomes its moving average.

    Example:
        >>> average = averaged_copy(torch.nn.Linear(2, 1))
        >>> average.weight.requires_grad
        False
    """
    return copy.deepcopy(network).requires_grad_(False).eval()


def early_decay(decay: float, updates: int) -> float:
    """Return the decay of an average after so many updates: at most (1 + n)/(10 + n), so that it follows at first.

    Args:
        decay: the decay after many updates, in [0, 1).
        updates: number of updates so far, at least 0.

    Returns:
        The decay of this update.

    Example:
        >>> early_decay(0.999, 0), early_decay(0.999, 10**6)
        (0.1, 0.999)
    """
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, weight: float, buffers: str | None = "copy") -> None:
    """Move an average towards a network: a ← a + weight·(n - a).

    Args:
        average: the average, of the same architecture.
        network: the network.
        weight: 1 - decay, in [0, 1].
        buffers: copy takes the network's buffers, average moves those of floating point too, None leaves them.

    Example:
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> average = averaged_copy(network)
        >>> _ = network.weight.data.add_(1.0)
        >>> move_average(average, network, 0.25)
        >>> round(float(network.weight - average.weight), 4)
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
