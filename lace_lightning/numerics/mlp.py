"""Leaky-ReLU networks with their derivative in closed form, without a graph of automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .precision import lowered
from .weight_cache import WeightCache

Layer = tuple[Tensor, Tensor]
# A kernel in bfloat16 is built anew for every number of rows, which costs milliseconds and memory: only multiples of
# this many rows are computed in it, and fewer rows, which gain nothing, in float32.
BLOCK = 128


def _affine(x: Tensor, layer: Layer) -> Tensor:
    weight, bias = layer
    return torch.addmm(bias, x, weight) if weight.ndim == 2 else torch.baddbmm(bias[:, None], x, weight)


def leaky_mlp(x: Tensor, layers: Sequence[Layer], slope: float = 0.2) -> Tensor:
    """Return the output of a network of layers x ↦ leaky-ReLU(x·W + b).

    Args:
        x: inputs (B, I), or (K, B, I) for K networks side by side.
        layers: pairs (W, b) with W (I, O) and b (O,), or W (K, I, O) and b (K, O); at least one.
        slope: slope of the leaky ReLU below 0.

    Returns:
        Outputs (B, O), or (K, B, O).

    Example:
        >>> leaky_mlp(torch.tensor([[1.0, -1.0]]), [(torch.eye(2), torch.zeros(2))])
        tensor([[ 1.0000, -0.2000]])
    """
    for layer in layers:
        x = torch.nn.functional.leaky_relu(_affine(x, layer), slope)
    return x


def linearized_leaky_mlp(
    x: Tensor, layers: Sequence[Layer], slope: float = 0.2, kept: WeightCache | None = None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return `leaky_mlp(x)` and the function g ↦ gᵀ·∂y/∂x, without automatic differentiation.

    Inside `precision.fields_in`, layers are computed in that number format where there are `BLOCK` rows or more. The
    results have the number format of x.

    Args:
        x: inputs (B, I), or (K, B, I) for K networks side by side.
        layers: pairs (W, b) with W (I, O) and b (O,), or W (K, I, O) and b (K, O); at least one.
        slope: slope of the leaky ReLU below 0; 0 or more.
        kept: cache of the weights in the lower number format; None converts them at every call.

    Returns:
        Outputs y (B, O) or (K, B, O), and a function from g of the shape of y to gᵀ·∂y/∂x of the shape of x.

    Example:
        >>> y, vjp = linearized_leaky_mlp(torch.tensor([[1.0, -1.0]]), [(torch.eye(2), torch.zeros(2))])
        >>> vjp(torch.ones(1, 2))
        tensor([[1.0000, 0.2000]])
    """
    dtype, outputs, count = x.dtype, [], x.shape[-2]
    low = lowered(dtype)
    # The number of rows is looked at only where it matters, so that graphs are recorded for any number.
    if low != dtype and count < BLOCK:
        low = dtype
    if low != dtype:
        layers = [_cast(layer, index, low, kept or WeightCache()) for index, layer in enumerate(layers)]
    more = 0 if low == dtype else -count % BLOCK
    x = _low(x, low, more)
    for layer in layers:
        # In place: no other tensor shares the memory of the sum.
        x = torch.nn.functional.leaky_relu_(_affine(x, layer), slope)
        outputs.append(x)

    def vjp(gradient: Tensor) -> Tensor:
        gradient = _low(gradient, low, more)
        for (weight, _), output in zip(reversed(layers), reversed(outputs), strict=True):
            # A leaky ReLU keeps the sign, so that its derivative follows from its output. The last argument says that
            # the output is given in place of the input.
            gradient = torch.ops.aten.leaky_relu_backward(gradient, output, slope, True) @ weight.mT
        return gradient[..., :count, :].to(dtype)

    return x[..., :count, :].to(dtype), vjp


def _low(x: Tensor, dtype: torch.dtype, more: int) -> Tensor:
    """Return x in `dtype` with `more` rows of zeros."""
    return torch.nn.functional.pad(x.to(dtype), (0, 0, 0, more)) if more else x.to(dtype)


def _cast(layer: Layer, index: int, dtype: torch.dtype, kept: WeightCache) -> Layer:
    weight, bias = layer
    return kept(("weight", index, dtype), weight, lambda w: w.to(dtype)), kept(
        ("bias", index, dtype), bias, lambda b: b.to(dtype)
    )
