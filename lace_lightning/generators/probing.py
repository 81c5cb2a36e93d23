"""Sizes of latents and pictures, and the range of pictures, of a module: found by trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from traceback import walk_tb

import torch
from torch import Tensor, nn

from ..errors import LaceError, in_one_line
from ..source import user_frames, user_line

# Names of attributes that hold the size of a latent, and of the half of an autoencoder that makes pictures.
SIZES = ("z_dim", "latent_dim", "latent_size", "nz", "dim_z", "zdim")
DECODERS = ("decode", "decoder")
# Samples that sizes are found with, and the most by which the range of pictures is found, and numbers of these.
TRIED, PICTURES, NUMBERS = 2, 64, 2**24
Shape = tuple[int, ...]


def likely_shapes(module: nn.Module) -> list[Shape]:
    """Return shapes of a latent that a module may take, the likely ones first.

    Args:
        module: the module, also one of TorchScript. One with `latent_shapes` tells them itself.

    Example:
        >>> likely_shapes(nn.Sequential(nn.Linear(20, 4), nn.ReLU()))
        [(20,), (20, 1, 1)]
    """
    told = getattr(module, "latent_shapes", None)
    if told is not None:
        return [tuple(shape) for shape in told]
    named = (getattr(owner, name, None) for owner in _owners(module) for name in SIZES)
    sizes = dict.fromkeys(size for size in named if isinstance(size, int) and size > 0)
    return [shape for size in {**sizes, **dict.fromkeys(_widths(module))} for shape in ((size,), (size, 1, 1))]


def _owners(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module, and the networks that a function uses."""
    yield module
    for name in ("function", "parts"):
        part = getattr(module, name, None)
        if name == "function" and isinstance(part, nn.Module):
            yield from _owners(part)
        elif name == "parts" and isinstance(part, nn.ModuleList):
            yield from part


def _widths(module: nn.Module) -> Iterator[int]:
    """Yield the widths of the inputs of layers, in their order."""
    # Layers of TorchScript have the name of their former class.
    axes = {"Linear": 1, "ConvTranspose2d": 0, "Conv2d": 1}
    for part in module.modules():
        axis = axes.get(str(getattr(part, "original_name", type(part).__name__)))
        weight = getattr(part, "weight", None)
        if axis is not None and isinstance(weight, Tensor):
            yield int(weight.shape[axis])


def first_that_draws(
    draw: Callable[[Shape, str | None], Tensor], shapes: Iterable[Shape], names: Sequence[str | None], title: str
) -> tuple[Shape, str | None, Tensor]:
    """Return the first shape of a latent, and the first name of a method, with which pictures are made.

    Args:
        draw: a function of both that returns pictures; its LaceError counts as no pictures.
        shapes: shapes of a latent.
        names: names of methods of the module; None for the module itself.
        title: name of the module, for messages.

    Returns:
        The shape, the name and the pictures.

    Raises:
        LaceError: where no pictures are made, with the reason of the attempt that came furthest.

    Example:
        >>> first_that_draws(lambda shape, name: torch.zeros(2, 3, 8, 8), [(4,)], [None], "Decoder")[0]
        (4,)
    """
    errors: list[tuple[Shape, BaseException]] = []
    for name in names:
        for shape in shapes:
            try:
                images = draw(shape, name)
            except LaceError as error:
                errors.append((shape, error.__cause__ or error))
                continue
            # A part that returns its latents makes no pictures.
            if images.ndim in (2, 3, 4) and len(images) == TRIED and images[0].numel() > math.prod(shape):
                return shape, name, images
    reason = ""
    if errors:
        # The latent of the right size came furthest.
        shape, cause = max(errors, key=lambda entry: _progress(entry[1]))
        reason = f" (for latents of {math.prod(shape)}: {in_one_line(cause, 140)}{user_line(cause)})"
    raise LaceError(
        f"The size of a latent of {title} is required, and no size of its layers gives pictures{reason}: set z_dim to "
        "the right number, or latent_shape to the shape of one latent."
    )


def _progress(error: BaseException) -> tuple[list[int], int]:
    """Return how far a module came: by the lines of the user's code, and of errors in one line the one of that line."""
    return [line for _, line in user_frames(error)], -len(list(walk_tb(error.__traceback__)))


def shape_of_pictures(images: Tensor) -> Shape:
    """Return (C, H, W) of pictures, which may be flat or without channels.

    Args:
        images: pictures (B, C, H, W), (B, H, W), or flat (B, C·H·W) of square pictures of one or three channels.

    Raises:
        LaceError: for flat pictures of another size.

    Example:
        >>> shape_of_pictures(torch.zeros(2, 784)), shape_of_pictures(torch.zeros(2, 8, 8))
        ((1, 28, 28), (1, 8, 8))
    """
    if images.ndim != 2:
        return (1,) * (4 - images.ndim) + tuple(images.shape[1:])
    for channels in (1, 3):
        side = math.isqrt(images.shape[1] // channels)
        if channels * side * side == images.shape[1]:
            return (channels, side, side)
    raise LaceError(
        f"The shape of a picture is required, and flat pictures of {images.shape[1]} numbers are not square with one "
        "or three channels: set image_shape to [channels, height, width]."
    )


def count_for_range(numbers: int) -> int:
    """Return by how many pictures the range is found.

    Args:
        numbers: numbers of one picture.

    Example:
        >>> count_for_range(784), count_for_range(3 * 1024**2)
        (64, 5)
    """
    return max(TRIED, min(PICTURES, NUMBERS // max(1, numbers)))


def range_of_pictures(images: Tensor) -> tuple[float, float]:
    """Return the range of pictures, by the lowest and the highest value of some: [0, 1], [-1, 1] or [0, 255].

    Args:
        images: pictures of any shape.

    Raises:
        LaceError: for values in none of these ranges.

    Example:
        >>> range_of_pictures(torch.tensor([0.1, 0.9])), range_of_pictures(torch.tensor([-0.1, 0.9]))
        ((0.0, 1.0), (-1.0, 1.0))
    """
    low, high = float(images.min()), float(images.max())
    for first, last in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if first <= low and high <= last:
            return first, last
    if not math.isfinite(low) or not math.isfinite(high):
        # The check of generators says what is wrong with the values.
        return -1.0, 1.0
    raise LaceError(
        f"Pictures must have values in [-1, 1], [0, 1] or [0, 255], and these have {low:.3g} to {high:.3g}: set "
        "output_range to the lowest and the highest value and clamp to true, or end the module in a tanh or a sigmoid."
    )


def trial_latents(count: int, size: int, like: Tensor) -> Tensor:
    """Return latents (count, size) ~ N(0, I) by which sizes and ranges are found, the same at every call.

    Args:
        count: number of latents.
        size: numbers of one.
        like: a tensor of their device.

    Example:
        >>> trial_latents(2, 4, torch.zeros(1)).shape
        torch.Size([2, 4])
    """
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0)).to(like.device)
