"""StyleGAN3 as a frozen generator."""

from __future__ import annotations

from collections.abc import Sequence

from .stylegan2 import StyleGAN2Generator
from .stylegan3_networks import StyleGAN3Network


class StyleGAN3Generator(StyleGAN2Generator):
    """A trained StyleGAN3 network (configuration T or R) for use; options as of `StyleGAN2Generator`, without noise.

    `precision` "auto" is float32: bfloat16 moves the pictures of alias-free networks.
    """

    network_class = StyleGAN3Network

    def __init__(
        self,
        network: StyleGAN3Network,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        condition: int | Sequence[float] | None = None,
        precision: str = "float32",
        max_batch: int | str = "auto",
        memory: float | None = None,
    ) -> None:
        precision = "float32" if precision == "auto" else precision
        super().__init__(network, truncation, truncation_cutoff, condition, "none", precision, max_batch, memory)
