"""Networks of StyleGAN3, configurations T and R, with the parameter names of the published networks."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LaceError
from .arguments import (
    MAX_LAYERS,
    checked_table,
    names_of,
    require_number,
    require_resolution,
    require_whole,
)
from .stylegan2_networks import IGNORED_OF_MAPPING, MAPPING_NAMES, MappingNetwork, StyleNetwork
from .stylegan3_layers import AliasFreeLayer, FourierInput

# Settings of the training, or of the hardware of the original, which change no picture.
IGNORED = ("num_fp16_res", "magnitude_ema_beta")
LAYER_NAMES = ("conv_kernel", "filter_size", "lrelu_upsampling", "use_radial_filters", "conv_clamp")


class AliasFreeSynthesis(nn.Module):
    """The synthesis network of StyleGAN3: ws (B, L, Dw) -> pictures (B, C, R, R), float32, L = num_layers + 2.

    Cutoff and stopband frequencies grow geometrically from layer to layer, up to the last `num_critical` layers. The
    sampling rate of a layer is the smallest power of two that is at least twice its stopband, and at most R.

    Args:
        w_dim: Dw, size of a latent w.
        img_resolution: R, side of a picture in pixels, a power of two from 4 to 4096.
        img_channels: C, channels of a picture, at least 1.
        channel_base: width of the features is channel_base / 2 / cutoff, and at most `channel_max`.
        channel_max: largest width.
        num_layers: number of layers without the last one, which makes the picture.
        num_critical: number of critically sampled layers at the end, below `num_layers`.
        first_cutoff: cutoff frequency of the first layer, in cycles per picture.
        first_stopband: lowest frequency of the stopband of the first layer, in cycles per picture.
        last_stopband_rel: the same of the last layer, relative to R / 2.
        margin_size: pixels of margin at each side of the features, at least 0.
        output_scale: factor of the pictures.
        layer: further arguments of `AliasFreeLayer`.

    Raises:
        LaceError: for an argument out of range.

    References:
        Section 3 and appendix C of StyleGAN3 (arXiv 2106.12423).

    Example:
        >>> network = AliasFreeSynthesis(4, 16, channel_base=64, channel_max=4, num_layers=3, margin_size=2)
        >>> network(torch.randn(1, network.num_ws, 4)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2.0,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        **layer: Any,
    ) -> None:
        super().__init__()
        w_dim, img_channels = require_whole("w_dim", w_dim, 1), require_whole("img_channels", img_channels, 1)
        img_resolution = require_resolution(img_resolution)
        num_layers = require_whole("num_layers", num_layers, 1, MAX_LAYERS)
        num_critical = require_whole("num_critical", num_critical, 0, num_layers)
        if num_critical == num_layers:
            raise LaceError(
                f"A StyleGAN3 must have fewer critically sampled layers (num_critical) than layers (num_layers), "
                f"received {num_critical} and {num_layers}: correct them."
            )
        margin_size = require_whole("margin_size", margin_size, 0, 256)
        require_number("channel_base", channel_base, above=0)
        require_whole("channel_max", channel_max, 1)
        require_number("output_scale", output_scale)
        for name, frequency in (
            ("first_cutoff", first_cutoff),
            ("first_stopband", first_stopband),
            ("last_stopband_rel", last_stopband_rel),
        ):
            require_number(name, frequency, above=0)
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.num_ws, self.output_scale, last = num_layers + 2, output_scale, img_resolution / 2
        steps = [min(index / (num_layers - num_critical), 1.0) for index in range(num_layers + 1)]
        cutoffs = [first_cutoff * (last / first_cutoff) ** step for step in steps]
        stopbands = [first_stopband * (last * last_stopband_rel / first_stopband) ** step for step in steps]
        rates = [2 ** math.ceil(math.log2(min(2 * stopband, img_resolution))) for stopband in stopbands]
        halves = [
            max(stopband, rate / 2) - cutoff for stopband, rate, cutoff in zip(stopbands, rates, cutoffs, strict=True)
        ]
        sizes = [rate + 2 * margin_size for rate in rates[:-2]] + [img_resolution] * 2
        widths = [round(min(channel_base / 2 / cutoff, channel_max)) for cutoff in cutoffs[:-1]] + [img_channels]
        self.input = FourierInput(w_dim, widths[0], sizes[0], rates[0], cutoffs[0])
        self.layer_names = []
        for after in range(num_layers + 1):
            before = max(after - 1, 0)
            self.layer_names.append(f"L{after}_{sizes[after]}_{widths[after]}")
            self.add_module(
                self.layer_names[-1],
                AliasFreeLayer(
                    w_dim,
                    (widths[before], widths[after]),
                    (sizes[before], sizes[after]),
                    (rates[before], rates[after]),
                    (cutoffs[before], cutoffs[after]),
                    (halves[before], halves[after]),
                    to_rgb=after == num_layers,
                    critical=after >= num_layers - num_critical,
                    **layer,
                ),
            )

    def bytes_per_picture(self, dtype: torch.dtype, device: torch.device) -> int:
        """Return the peak memory of `forward` in bytes for each picture of a batch."""
        result: int = dtype.itemsize * max(getattr(self, name).numbers_per_picture(device) for name in self.layer_names)
        return result

    def forward(self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the pictures of ws (B, L, Dw), with features computed in `dtype`.

        `noise_mode` is accepted as by StyleGAN2 and has no effect: these networks have no noise.
        """
        x = self.input(ws[:, 0]).to(dtype)
        for index, name in enumerate(self.layer_names, start=1):
            x = getattr(self, name)(x, ws[:, index])
        result: Tensor = x.to(torch.promote_types(x.dtype, torch.float32)) * self.output_scale
        return result


class StyleGAN3Network(StyleNetwork):
    """Mapping and synthesis network of StyleGAN3, with state dict keys `mapping.*` and `synthesis.*`.

    Configuration T is the default; R has `synthesis_kwargs` conv_kernel 1, use_radial_filters True and twice the
    channels.

    Args:
        z_dim: Dz, size of a latent z, at least 1.
        w_dim: Dw, size of a latent w, at least 1.
        c_dim: size of the condition, 0 for an unconditional network.
        img_resolution: side of a picture in pixels, a power of two from 4 to 4096.
        img_channels: channels of a picture, at least 1.
        mapping_kwargs: further arguments of `MappingNetwork`, with 2 layers by default; None for none. `w_avg_beta`,
            `freeze_layers` and `freeze_embed` of published networks are ignored.
        synthesis_kwargs: further arguments of `AliasFreeSynthesis` and its layers; None for none. `num_fp16_res` and
            `magnitude_ema_beta` of the published networks are ignored.

    Raises:
        LaceError: for an argument that is unknown or out of range.

    Example:
        >>> layers = {"channel_base": 64, "channel_max": 4, "num_layers": 3, "margin_size": 2}
        >>> network = StyleGAN3Network(4, 6, img_resolution=16, synthesis_kwargs=layers)
        >>> network(torch.randn(2, 4)).shape
        torch.Size([2, 3, 16, 16])
    """

    kind = "stylegan3"

    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        c_dim: int = 0,
        img_resolution: int = 256,
        img_channels: int = 3,
        mapping_kwargs: MappingType[str, Any] | None = None,
        synthesis_kwargs: MappingType[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.c_dim = z_dim, w_dim, c_dim
        synthesis = checked_table("synthesis_kwargs", synthesis_kwargs, SYNTHESIS_NAMES, IGNORED)
        mapping = checked_table("mapping_kwargs", mapping_kwargs, MAPPING_NAMES, IGNORED_OF_MAPPING)
        self.synthesis = AliasFreeSynthesis(w_dim, img_resolution, img_channels, **synthesis)
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, **{"num_layers": 2, **mapping})
        self.num_ws = self.synthesis.num_ws


def stylegan3_config(init_kwargs: MappingType[str, Any]) -> dict[str, Any]:
    """Convert the constructor arguments stored with a published network to those of `StyleGAN3Network`.

    Args:
        init_kwargs: z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs, and beside them the arguments of
            the synthesis network.

    Returns:
        Arguments of `StyleGAN3Network`, with those of the synthesis network in `synthesis_kwargs`.

    Raises:
        LaceError: when a size is missing, and for an unknown argument.

    Example:
        >>> sizes = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 3}
        >>> stylegan3_config({**sizes, "num_layers": 3})["synthesis_kwargs"]
        {'num_layers': 3}
    """
    own = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    missing = [key for key in own if key not in init_kwargs]
    if missing:
        raise LaceError(
            f"The settings of a StyleGAN3 network must give {', '.join(own)}, and {missing[0]} is missing: get the "
            "file again."
        )
    synthesis = {name: value for name, value in init_kwargs.items() if name not in (*own, "mapping_kwargs")}
    return {
        **{key: init_kwargs[key] for key in own},
        "mapping_kwargs": checked_table(
            "mapping_kwargs", init_kwargs.get("mapping_kwargs"), MAPPING_NAMES, IGNORED_OF_MAPPING
        ),
        "synthesis_kwargs": checked_table("synthesis_kwargs", synthesis, SYNTHESIS_NAMES, IGNORED),
    }


SYNTHESIS_NAMES = (
    *names_of(AliasFreeSynthesis, without=("self", "w_dim", "img_resolution", "img_channels")),
    *LAYER_NAMES,
)
