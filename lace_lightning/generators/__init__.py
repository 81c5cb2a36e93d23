"""Frozen generators with latent spaces z, w and ws, and pictures x."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..catalogue import published_names, published_path
from ..errors import LaceError, suggest
from ..faces import load_face_network
from ..seeds import sample_seeds
from ..weights import weight_names, weight_path
from .adapter import ModuleGenerator
from .base import Generator, check_generator
from .checkpoints import Checkpoint, convert, is_foreign, read_generator
from .found import as_generator, function_generator, onnx_generator, script_generator
from .stylegan2 import StyleGAN2Generator, own_kind
from .stylegan2_networks import StyleGAN2Network
from .stylegan3 import StyleGAN3Generator
from .stylegan3_networks import StyleGAN3Network

__all__ = [
    "Checkpoint",
    "Generator",
    "ModuleGenerator",
    "StyleGAN2Generator",
    "StyleGAN2Network",
    "StyleGAN3Generator",
    "StyleGAN3Network",
    "as_generator",
    "check_generator",
    "convert",
    "function_generator",
    "load_generator",
    "onnx_generator",
    "read_generator",
    "sample_seeds",
    "script_generator",
]

SHIPPED = {name: f"{name}_generator" for name in ("cifar10", "digits", "faces", "portraits")}


def load_generator(
    name: str | os.PathLike[str], checkpoint_key: str | None = None, features: str | None = None, **options: Any
) -> Generator:
    """Load a generator by its name, or a StyleGAN2 or StyleGAN3 generator from a file of this or another program.

    The content of the file decides between StyleGAN2 and StyleGAN3. A published network that is not on this disk is
    downloaded where its checksum is known (see `published_path`). NVIDIA's pickles, checkpoints and state dicts are
    read as data: no code of a file is run (see `read_generator`).

    Args:
        name: "cifar10", "faces" or another name of shipped weights, the name of a published network such as
            "stylegan2_ffhq", or the path of a file, of which the content decides how it is read.
        checkpoint_key: name of the network in a file of another program with several, such as G_ema or g; None takes
            the moving average of the weights where there is one.
        features: name of a submodule of the network whose output is the space `features` of classifiers, such as
            synthesis.b8; None for none.
        options: arguments of `StyleGAN2Generator` or `StyleGAN3Generator`, in place of those stored in the file;
            `max_batch` and `memory` of the generator "faces".

    Returns:
        The frozen generator on the CPU: a StyleGAN2Generator, a StyleGAN3Generator for a StyleGAN3 network, or a
        ModuleGenerator for "faces", a DCGAN of 64x64 without w.

    Raises:
        LaceError: for an unknown name, a missing or damaged file, and in the cases of `published_path` and
            `read_generator`.

    Example:
        >>> generator = load_generator("cifar10", truncation=0.7)
        >>> generator(generator.prior(2, seed=0)).shape
        torch.Size([2, 3, 32, 32])
    """
    return _loaded(name, checkpoint_key, options).with_features(features)


def _loaded(name: str | os.PathLike[str], checkpoint_key: str | None, options: Mapping[str, Any]) -> Generator:
    """Return the generator of a name or file."""
    shipped = str(name) in (*SHIPPED, *weight_names())
    is_file = Path(name).is_file()
    if not shipped and not is_file and not Path(name).suffix and suggest(str(name), published_names()):
        return read_generator(published_path(str(name)), checkpoint_key).generator(**options)
    if not shipped and is_foreign(name):
        checkpoint = read_generator(name, checkpoint_key)
        if checkpoint.taken and "stylegan2-" not in checkpoint.layout and checkpoint.kind == "stylegan2":
            warnings.warn(f"Of the networks in '{name}', this one is taken: {checkpoint.taken}.", stacklevel=2)
        return checkpoint.generator(**options)
    if checkpoint_key is not None:
        raise LaceError(
            f"Weights of this program hold one network, and checkpoint_key is '{checkpoint_key}': set it to null."
        )
    weights = SHIPPED.get(str(name), name)
    kind = own_kind(weight_path(weights))
    if kind == "face_network":
        return _face_generator(weights, **options)
    return (StyleGAN3Generator if kind == "stylegan3" else StyleGAN2Generator).from_weights(weights, **options)


def _face_generator(name: str | os.PathLike[str], **options: Any) -> ModuleGenerator:
    """Return the generator of faces. Raises LaceError for weights of another face network, and for other options."""
    if options.keys() - {"max_batch", "memory"}:
        raise LaceError(
            f"The generator of faces takes max_batch and memory, received {', '.join(sorted(options))}: leave the "
            "others out (it has no truncation)."
        )
    network = load_face_network("faces_generator", weight_path(name))
    return ModuleGenerator(network, 100, (3, 64, 64), reshape=(100, 1, 1), **options)
