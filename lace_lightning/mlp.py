"""Leaky-ReLU networks with their derivative in closed form: no graph is built, nothing is kept between evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Layer = tuple[Tensor, Tensor]


def _affine(x: Tensor, layer: Layer) -> Tensor:
    weight, bias = layer
    return torch.addmm(bias, x, weight) if weight.ndim == 2 else torch.baddbmm(bias[:, None], x, weight)


def leaky_mlp(x: Tensor, layers: Sequence[Layer], slope: float = 0.2) -> Tensor:
    """Apply x ↦ leaky-ReLU(x·W + b) for each (W, b).

    x is (B, I) with W (I, O), b (O,); or (K, B, I) with W (K, I, O), b (K, O) for K networks side by side.
    """
    for layer in layers:
        x = torch.nn.functional.leaky_relu(_affine(x, layer), slope)
    return x


def linearized_leaky_mlp(x: Tensor, layers: Sequence[Layer], slope: float = 0.2) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return `leaky_mlp(x)` and the function g ↦ gᵀ·∂y/∂x, without automatic differentiation."""
    outputs = []
    for layer in layers:
        x = torch.nn.functional.leaky_relu(_affine(x, layer), slope)
        outputs.append(x)

    def vjp(gradient: Tensor) -> Tensor:
        for (weight, _), output in zip(reversed(layers), reversed(outputs), strict=True):
            # leaky-ReLU keeps the sign, so its output tells its own derivative: the last argument says that it is given.
            gradient = torch.ops.aten.leaky_relu_backward(gradient, output, slope, True) @ weight.mT
        return gradient

    return x, vjp
