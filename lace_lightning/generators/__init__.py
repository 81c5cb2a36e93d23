"""Frozen generators with spaces z, w, ws and x."""

from __future__ import annotations

import os
from typing import Any

from .adapter import ModuleGenerator
from .base import Generator, check, sample_seeds
from .stylegan2 import StyleGAN2Generator
from .stylegan2_networks import StyleGAN2Network

__all__ = ["Generator", "ModuleGenerator", "StyleGAN2Generator", "StyleGAN2Network", "check", "load_generator", "sample_seeds"]

SHIPPED = {"cifar10": "cifar10_generator"}


def load_generator(name: str | os.PathLike[str], **options: Any) -> StyleGAN2Generator:
    """Load a generator by name ("cifar10") or from a file of this program's; `options` go to `StyleGAN2Generator`."""
    return StyleGAN2Generator.from_weights(SHIPPED.get(str(name), name), **options)
