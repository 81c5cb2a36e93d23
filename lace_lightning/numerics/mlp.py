"""Leaky-ReLU networks with their derivative in closed form: no graph is built, nothing is kept between evaluations."""

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
    """Apply x ↦ leaky-ReLU(x·W + b) for each (W, b).

    x is (B, I) with W (I, O), b (O,); or (K, B, I) with W (K, I, O), b (K, O) for K networks side by side.
    """
    for layer in layers:
        x = torch.nn.functional.leaky_relu(_affine(x, layer), slope)
    return x


def linearized_leaky_mlp(
    x: Tensor, layers: Sequence[Layer], slope: float = 0.2, kept: WeightCache | None = None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return `leaky_mlp(x)` and the function g ↦ gᵀ·∂y/∂x, without automatic differentiation.

    Inside `precision.fields_in` the layers of `BLOCK` rows or more are computed in that number format, with results in
    the format of x; `kept` keeps the weights in it.
    """
    dtype, outputs, count = x.dtype, [], x.shape[-2]
    low = lowered(dtype) if count >= BLOCK else dtype
    if low != dtype:
        layers = [_cast(layer, index, low, kept or WeightCache()) for index, layer in enumerate(layers)]
    more = 0 if low == dtype else -count % BLOCK
    x = _low(x, low, more)
    for layer in layers:
        # In place: nobody else has seen the sum.
        x = torch.nn.functional.leaky_relu_(_affine(x, layer), slope)
        outputs.append(x)

    def vjp(gradient: Tensor) -> Tensor:
        gradient = _low(gradient, low, more)
        for (weight, _), output in zip(reversed(layers), reversed(outputs), strict=True):
            # leaky-ReLU keeps the sign, so its output tells its own derivative: the last argument says that it is
            # given.
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
