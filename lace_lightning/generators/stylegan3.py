"""Frozen StyleGAN3 generators."""

from __future__ import annotations

from collections.abc import Sequence

from .stylegan2 import StyleGAN2Generator
from .stylegan3_networks import StyleGAN3Network


class StyleGAN3Generator(StyleGAN2Generator):
    """A frozen StyleGAN3 generator (configuration T or R) with truncation and pictures clamped to [-1, 1].

    Args:
        network: the network. It is used itself, and frozen.
        truncation: ψ, a finite number, moves w towards its mean: 1 leaves w as it is, 0 gives the mean.
        truncation_cutoff: number of the first style layers that are truncated, at least 0. They are truncated in
            `broadcast`, and not in the mapping. None truncates all of them in the mapping.
        condition: class number from 0, or vector of c_dim numbers, of a conditional network; None for an unconditional
            one.
        precision: format of the synthesis features: float32, bfloat16, float16 or auto. "auto" is float32, because
            bfloat16 moves the pictures of alias-free networks.
        max_batch: pictures computed at a time, at least 1, or "auto" for as many as fit into `memory`.
        memory: GiB above 0 for "auto"; None for half of the free memory.

    Raises:
        LaceError: for a missing or unsuitable condition, and a value of another argument that is out of range.

    References:
        StyleGAN3 (arXiv 2106.12423).

    Example:
        >>> layers = {"channel_base": 64, "channel_max": 4, "num_layers": 3, "margin_size": 2}
        >>> generator = StyleGAN3Generator(StyleGAN3Network(4, 4, img_resolution=16, synthesis_kwargs=layers))
        >>> generator(generator.prior(2, seed=0)).shape
        torch.Size([2, 3, 16, 16])
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
