"""Generators of modules, functions, TorchScript and ONNX files: what is not given is found by trying."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..artifacts import file_sha256
from ..errors import LaceError
from ..source import imported, source_of
from ..unpickle.torchscript import load_program
from .adapter import AUTO, ModuleGenerator
from .base import Generator, check_generator
from .onnx import OnnxModule


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

    @property
    def title(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

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
        try:
            generator = ModuleGenerator(as_module(generator), z_dim, image_shape, **{"output_range": AUTO, **options})
        except LaceError as error:
            raise LaceError(f"{error} These are arguments of lace.as_generator.") from error.__cause__
    check_generator(generator.frozen())
    return generator


def function_generator(function: str | Callable[..., Any], **options: Any) -> ModuleGenerator:
    """Return a generator of a Python function from latents to pictures.

    The digest of the generator depends on the name and the source of the function and on the weights of the networks
    that it uses. The cache also compares its module, the user's modules that it imports, and the values that it uses.

    Args:
        function: function of latents z (B, ...) that returns pictures, tensors or NumPy arrays; or its name as
            package.module.name. Networks that it uses become parts of the generator.
        options: arguments of `ModuleGenerator` other than the module.

    Returns:
        The frozen generator.

    Raises:
        LaceError: when there is no function of that name, and in the cases of `ModuleGenerator`.

    Example:
        >>> generator = function_generator(lambda z: z[:, :1, None, None].tanh().expand(-1, 3, 4, 4), z_dim=2)
        >>> generator.image_shape, generator.found
        ((3, 4, 4), ['image_shape=[3,4,4]', 'output_range=[-1,1]'])
    """
    called = imported(function, "generator.function") if isinstance(function, str) else function
    return ModuleGenerator(as_module(called), **{"output_range": AUTO, "source": source_of(called), **options})


def script_generator(script: str | os.PathLike[str], **options: Any) -> ModuleGenerator:
    """Return a generator of a TorchScript file.

    A TorchScript file is a program, and it is run: give only one that you trust.

    Args:
        script: the file.
        options: arguments of `ModuleGenerator` other than the module.

    Returns:
        The frozen generator.

    Raises:
        LaceError: when the file is missing or no TorchScript, and in the cases of `ModuleGenerator`.

    Example:
        >>> import tempfile
        >>> decoder = torch.jit.script(nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4))))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     decoder.save(f"{folder}/decoder.pt")
        ...     script_generator(f"{folder}/decoder.pt").z_dim
        2
    """
    program = load_program(script)
    return ModuleGenerator(program, **{"output_range": AUTO, "source": {"sha256": file_sha256(script)}, **options})


def onnx_generator(file: str | os.PathLike[str], output: int | str | None = None, **options: Any) -> ModuleGenerator:
    """Return a generator of an ONNX file, which onnxruntime (an extra) computes on the CPU without gradients.

    Args:
        file: the file.
        output: number or name of the output that is the picture; None for the first.
        options: arguments of `ModuleGenerator` other than the module.

    Returns:
        The generator. Classifiers of z need no gradient of it.

    Raises:
        LaceError: when the file is missing or no ONNX, onnxruntime is not installed, and in the cases of
            `ModuleGenerator`.

    Example:
        >>> onnx_generator("missing.onnx")
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: An ONNX file is required, and 'missing.onnx' does not exist: check its path.
    """
    module = OnnxModule(file, output)
    source = {"sha256": file_sha256(file), "output": module.output}
    return ModuleGenerator(module, **{"output_range": AUTO, "source": source, **options})
