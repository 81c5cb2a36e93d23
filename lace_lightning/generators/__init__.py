"""Frozen generators with spaces z, w, ws and x."""

from __future__ import annotations

import os
from typing import Any

from ..artifacts import load_config
from ..weights import weight_path
from .adapter import ModuleGenerator
from .base import Generator, check, sample_seeds
from .checkpoints import Checkpoint, convert, is_foreign, read_generator
from .stylegan2 import StyleGAN2Generator
from .stylegan2_networks import StyleGAN2Network
from .stylegan3 import StyleGAN3Generator
from .stylegan3_networks import StyleGAN3Network

__all__ = ["Checkpoint", "Generator", "ModuleGenerator", "StyleGAN2Generator", "StyleGAN2Network", "StyleGAN3Generator",
           "StyleGAN3Network", "check", "convert", "load_generator", "read_generator", "sample_seeds"]

SHIPPED = {"cifar10": "cifar10_generator"}


def load_generator(name: str | os.PathLike[str], **options: Any) -> StyleGAN2Generator:
    """Load a generator by name ("cifar10"), from a file of this program's or of another's, StyleGAN2 or StyleGAN3 as the file says.

    NVIDIA's pickles, checkpoints and state dicts are read as data: nothing in them is run (see `read_generator`). `options` go to
    `StyleGAN2Generator` or `StyleGAN3Generator`.
    """
    if is_foreign(name):
        return read_generator(name).generator(**options)
    weights = SHIPPED.get(str(name), name)
    kind = load_config(weight_path(weights)).get("kind")
    return (StyleGAN3Generator if kind == "stylegan3" else StyleGAN2Generator).from_weights(weights, **options)
