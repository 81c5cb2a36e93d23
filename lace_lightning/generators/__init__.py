"""Frozen generators with spaces z, w, ws and x."""

from __future__ import annotations

import os
from typing import Any

from .adapter import ModuleGenerator
from .base import Generator, check, sample_seeds
from .checkpoints import Checkpoint, convert, is_foreign, load_foreign, read_generator
from .stylegan2 import StyleGAN2Generator
from .stylegan2_networks import StyleGAN2Network

__all__ = ["Checkpoint", "Generator", "ModuleGenerator", "StyleGAN2Generator", "StyleGAN2Network", "check", "convert", "load_generator",
           "read_generator", "sample_seeds"]

SHIPPED = {"cifar10": "cifar10_generator"}


def load_generator(name: str | os.PathLike[str], **options: Any) -> StyleGAN2Generator:
    """Load a generator by name ("cifar10"), from a file of this program's or of another's; `options` go to `StyleGAN2Generator`.

    Pickles of NVIDIA's, checkpoints and state dicts are read as data: nothing in them is run (see `read_generator`).
    """
    if is_foreign(name):
        return load_foreign(name, **options)
    return StyleGAN2Generator.from_weights(SHIPPED.get(str(name), name), **options)
