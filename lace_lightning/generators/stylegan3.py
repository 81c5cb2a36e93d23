"""StyleGAN3 as a frozen generator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..artifacts import load_tensors, save_tensors
from ..errors import LaceError
from ..weights import weight_path
from .stylegan2 import StyleGAN2Generator
from .stylegan3_networks import StyleGAN3Network


class StyleGAN3Generator(StyleGAN2Generator):
    """A trained StyleGAN3 network (configuration T or R) for use; options as of `StyleGAN2Generator`, without noise.

    `precision` "auto" is float32: bfloat16 moves the pictures of alias-free networks.
    `max_batch` None is as many pictures at a time as have 2¹⁸ pixels together (four of 256×256).
    """

    def __init__(self, network: StyleGAN3Network, truncation: float = 1.0, truncation_cutoff: int | None = None,
                 condition: int | Sequence[float] | None = None, precision: str = "float32", max_batch: int | None = None) -> None:
        fitting = min(64, max(1, 2**18 // network.synthesis.img_resolution**2))
        precision = "float32" if precision == "auto" else precision
        super().__init__(network, truncation, truncation_cutoff, condition, "none", precision, max_batch or fitting)

    @classmethod
    def from_weights(cls, weights: str | os.PathLike[str], **options: Any) -> StyleGAN3Generator:
        """Load a file that `save_stylegan3` wrote. Raises LaceError for missing or damaged weights."""
        tensors, config = read_stylegan3(weights)
        network = StyleGAN3Network(**config["network"])
        network.load_state_dict(tensors)
        return cls(network, **{**config.get("options", {}), **options})


def read_stylegan3(weights: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of a network and its configuration. Raises LaceError for missing or damaged weights."""
    tensors, config = load_tensors(weight_path(weights))
    if config.get("kind") != "stylegan3":
        raise LaceError(f"The weights '{weights}' must be a StyleGAN3 generator and are of kind '{config.get('kind')}'.")
    return tensors, config


def save_stylegan3(network: StyleGAN3Network, config: Mapping[str, Any], path: str | os.PathLike[str],
                   options: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None) -> None:
    """Write a network built with `StyleGAN3Network(**config)`; `options` are defaults for use.

    Numbers are stored as they are unless `dtype` says otherwise: in half precision the frequencies of the Fourier features
    lose so many digits that pictures move.
    """
    save_tensors(path, network.state_dict(), {"kind": "stylegan3", "network": config, "options": dict(options or {})}, dtype)
