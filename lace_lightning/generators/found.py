"""Generators of any module or function: the sizes of latents and pictures, and their range, are found by trying."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LaceError, in_one_line
from ..source import user_line
from .adapter import ModuleGenerator
from .base import Generator, check_generator

# Names of attributes that hold the size of a latent, and of the half of an autoencoder that makes pictures.
SIZES = ("z_dim", "latent_dim", "latent_size", "nz", "dim_z", "zdim")
DECODERS = ("decode", "decoder")
# Pictures by which their range is found.
PICTURES = 64


class FunctionModule(nn.Module):
    """A function as a module, with the networks that the function uses as its parts.

    These are found in the function itself: the object of a method, and what it encloses, uses by a global name or is
    given by `functools.partial`. NumPy arrays that the function returns become tensors.

    Args:
        function: the function, from a tensor to a tensor or an array.

    Example:
        >>> decoder = nn.Linear(2, 3)
        >>> module = FunctionModule(lambda z: decoder(z).tanh())
        >>> [name for name, _ in module.named_parameters()], tuple(module(torch.zeros(4, 2)).shape)
        (['parts.0.weight', 'parts.0.bias'], (4, 3))
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(dict.fromkeys(_networks(function)))

    def forward(self, *inputs: Tensor) -> Any:
        result = self.function(*inputs)
        return torch.as_tensor(result, device=inputs[0].device) if type(result).__module__ == "numpy" else result


def as_module(function: Callable[..., Any]) -> nn.Module:
    """Return a module itself, and a function as a `FunctionModule`.

    Args:
        function: the module or function.

    Example:
        >>> type(as_module(torch.tanh)).__name__
        'FunctionModule'
    """
    return function if isinstance(function, nn.Module) else FunctionModule(function)


def _networks(function: Any) -> Iterator[nn.Module]:
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            yield from _networks(part) if callable(part) else ()
    elif inspect.ismethod(function):
        yield from _networks(function.__self__)
    elif inspect.isfunction(function):
        uses = inspect.getclosurevars(function)
        for value in (*uses.nonlocals.values(), *uses.globals.values()):
            if isinstance(value, nn.Module):
                yield value
            elif inspect.ismethod(value):
                yield from _networks(value.__self__)
    elif not inspect.isclass(function):
        for value in getattr(function, "__dict__", {}).values():
            if isinstance(value, nn.Module):
                yield value


def as_generator(
    generator: Generator | nn.Module | Callable[..., Any] | str | os.PathLike[str],
    z_dim: int | None = None,
    image_shape: Sequence[int] | None = None,
    **options: Any,
) -> Generator:
    """Return a frozen generator of anything that makes pictures of latents z ~ N(0, I).

    Of a module or function, the size of a latent is found among the sizes of its layers by trying them, the shape of
    a picture from what it returns, and the range of the pictures from some of them. Of an autoencoder the method or
    part `decode` or `decoder` is taken. Where something cannot be found, the message asks for it.

    Args:
        generator: a generator; the name or file of one, as `load_generator` takes it; or a module or function z (B, Dz)
            -> pictures (B, C, H, W), also flat (B, C·H·W) for square pictures of one or three channels, with values
            in [-1, 1], [0, 1] or [0, 255]. A module is used itself, in evaluation mode and without gradients.
        z_dim: size of a latent of a module or function, at least 1; None finds it.
        image_shape: (C, H, W) of its pictures, in channels and pixels; None finds it.
        options: further arguments of `ModuleGenerator`, such as output_range and clamp, or of `load_generator`.

    Returns:
        The generator, checked by `check_generator`.

    Raises:
        LaceError: for sizes or a range that cannot be found, and for pictures that differ from call to call.

    Example:
        >>> decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 784), nn.Sigmoid())
        >>> generator = as_generator(decoder)
        >>> generator.z_dim, generator.image_shape, (generator.low, generator.high)
        (2, (1, 28, 28), (0.0, 1.0))
    """
    if isinstance(generator, (str, os.PathLike)):
        from . import load_generator

        generator = load_generator(generator, **options)
    if not isinstance(generator, Generator):
        if not callable(generator):
            raise LaceError(
                "A generator must be a Generator, the name of one, or a module or function from latents z (B, Dz) to "
                f"pictures (B, C, H, W), received {type(generator).__name__}: give one of these."
            )
        generator = _found(as_module(generator), z_dim, image_shape, options)
    check_generator(generator.frozen())
    return generator


def _found(
    module: nn.Module, z_dim: int | None, image_shape: Sequence[int] | None, options: Mapping[str, Any]
) -> ModuleGenerator:
    """Return the generator of a module whose sizes are found by trying."""
    if z_dim is not None and image_shape is not None and "output_range" in options:
        return ModuleGenerator(module, z_dim, image_shape, **options)
    module.eval().requires_grad_(False)
    given = options.get("synthesis")
    names = [given] if given else [*(name for name in DECODERS if callable(getattr(module, name, None))), None]
    shape = options.get("reshape")
    shapes = [shape] if shape else _latent_shapes(module, z_dim)
    errors: list[tuple[tuple[int, ...], Exception]] = []
    for synthesis, latent in product(names, map(tuple, shapes)):
        images = _pictures(module, synthesis, latent, errors)
        if images is not None:
            found = {
                "synthesis": synthesis,
                "reshape": latent if len(latent) > 1 else None,
                "output_range": options.get("output_range") or _range(images),
            }
            return ModuleGenerator(
                module, math.prod(latent), image_shape or _image_shape(images), **{**options, **found}
            )
    reason = ""
    if errors:
        # The latent of the right size came furthest.
        latent, error = max(errors, key=lambda entry: [line for _, line in walk_tb(entry[1].__traceback__)])
        reason = f" (for latents of {math.prod(latent)}: {in_one_line(error, 140)}{user_line(error)})"
    tried = "no size of its layers" if z_dim is None else z_dim
    raise LaceError(
        f"The size of a latent of {_name(module)} is required, and {tried} "
        f"gives pictures{reason}: correct the code, or pass lace.as_generator(..., z_dim=64) with the right number."
    )


def _name(module: nn.Module) -> str:
    return getattr(module.function, "__qualname__", "") if isinstance(module, FunctionModule) else type(module).__name__


def _latent_shapes(module: nn.Module, z_dim: int | None) -> list[tuple[int, ...]]:
    """Return shapes of a latent that the module may take, the likely ones first."""
    if z_dim is not None:
        return [(z_dim,), (z_dim, 1, 1)]
    owners = [module, *(part for part in module.children() if isinstance(module, FunctionModule))]
    owners += [part for owner in owners for part in (owner.parts if isinstance(owner, FunctionModule) else ())]
    told = [getattr(owner, name, None) for owner in owners for name in SIZES]
    sizes = dict.fromkeys(size for size in told if isinstance(size, int) and size > 0)
    layers = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.ConvTranspose2d, nn.Conv2d))]
    of_layers = dict.fromkeys(part.in_features if isinstance(part, nn.Linear) else part.in_channels for part in layers)
    return [shape for size in {**sizes, **of_layers} for shape in ((size,), (size, 1, 1))]


@torch.no_grad()
def _pictures(
    module: nn.Module, synthesis: str | None, shape: tuple[int, ...], errors: list[tuple[tuple[int, ...], Exception]]
) -> Tensor | None:
    """Return pictures of latents of a shape, None where the module does not make pictures of them."""
    weight = next((one for one in module.parameters() if one.is_floating_point()), torch.zeros(()))
    called = module if synthesis is None else getattr(module, synthesis)
    z = torch.randn(PICTURES, *shape, generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        images = called(z)
    except Exception as error:
        errors.append((shape, error))
        return None
    is_picture = isinstance(images, Tensor) and len(images) == PICTURES and images.ndim in (2, 4)
    return images if is_picture and images[0].numel() > math.prod(shape) else None


def _image_shape(images: Tensor) -> tuple[int, ...]:
    if images.ndim == 4:
        return tuple(images.shape[1:])
    for channels in (1, 3):
        side = math.isqrt(images.shape[1] // channels)
        if channels * side * side == images.shape[1]:
            return (channels, side, side)
    raise LaceError(
        f"Flat pictures of {images.shape[1]} numbers are not square with one or three channels: pass "
        "lace.as_generator(..., image_shape=(C, H, W))."
    )


def _range(images: Tensor) -> tuple[float, float]:
    """Return the range of pictures, by the lowest and the highest value of some."""
    low, high = float(images.min()), float(images.max())
    for first, last in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if first <= low and high <= last:
            return first, last
    if not math.isfinite(low) or not math.isfinite(high):
        # The check of generators says what is wrong with the values.
        return -1.0, 1.0
    raise LaceError(
        f"Pictures have values in [-1, 1], [0, 1] or [0, 255], and these have {low:.3g} to {high:.3g}: pass "
        "lace.as_generator(..., output_range=(lowest, highest), clamp=True), or end the module in a tanh or a sigmoid."
    )
