"""An energy and its gradient as one captured CUDA graph: one launch for each evaluation instead of some forty."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..energies import Energy

Evaluation = Callable[[Tensor], tuple[Tensor, Tensor]]
# Evaluations before the capture, which CUDA graphs require.
WARM_UP = 3


def evaluation_of(energy: Energy, z: Tensor) -> Evaluation:
    """Return the function z ↦ (E, ∂E/∂z): captured on a GPU, and evaluated step by step elsewhere.

    Where capturing fails it is evaluated step by step, with a warning.

    Args:
        energy: E(z) (B,).
        z: latents (B, D) like those of every evaluation.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> value, gradient = evaluation_of(Prior(), torch.zeros(2, 3))(torch.ones(2, 3))
        >>> value.shape, gradient.shape
        (torch.Size([2]), torch.Size([2, 3]))
    """
    if not z.is_cuda:
        return energy.value_and_grad
    try:
        return _capture(energy, z)
    except RuntimeError as error:
        warnings.warn(
            f"The field could not be captured as a CUDA graph and runs step by step ({str(error).splitlines()[0]}).",
            stacklevel=2,
        )
        return energy.value_and_grad


def _capture(energy: Energy, z: Tensor) -> Evaluation:
    """Record one evaluation on fixed memory and replay it; warmed up on a side stream, as graphs require."""
    memory = z.detach().clone()
    side = torch.cuda.Stream(z.device)
    side.wait_stream(torch.cuda.current_stream(z.device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            energy.value_and_grad(memory)
    torch.cuda.current_stream(z.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, gradient = energy.value_and_grad(memory)

    def evaluation(u: Tensor) -> tuple[Tensor, Tensor]:
        memory.copy_(u)
        graph.replay()
        # The next replay writes over the result.
        return value.clone(), gradient.clone()

    return evaluation
