"""Mapping and synthesis networks of StyleGAN3, configurations T and R, with the parameter names of the published
networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LaceError
from .stylegan2_networks import MappingNetwork, StyleNetwork
from .stylegan3_layers import AliasFreeLayer, FourierInput

# Concern training alone, or the processor on which the original ran.
IGNORED = ("num_fp16_res", "magnitude_ema_beta")


class AliasFreeSynthesis(nn.Module):
    """ws (B, L, Dw) -> pictures (B, C, R, R), float32; features are computed in `dtype`. L = num_layers + 2.

    Cutoff and stopband frequencies grow geometrically from layer to layer until `num_critical` layers before the end;
    each layer has the smallest power of two that holds its stopband as sampling rate, and a margin of `margin_size`
    pixels.
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
        """Return how many bytes of feature maps are alive at the peak of `forward`, for each picture of a batch."""
        return dtype.itemsize * max(getattr(self, name).numbers_per_picture(device) for name in self.layer_names)

    def forward(self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype = torch.float32) -> Tensor:
        """Render ws (B, L, Dw). `noise_mode` is that of StyleGAN2 and changes nothing: these networks have no noise."""
        x = self.input(ws[:, 0]).to(dtype)
        for index, name in enumerate(self.layer_names, start=1):
            x = getattr(self, name)(x, ws[:, index])
        return x.to(torch.promote_types(x.dtype, torch.float32)) * self.output_scale


class StyleGAN3Network(StyleNetwork):
    """Mapping and synthesis together, as they are stored (state dict keys `mapping.*`, `synthesis.*`).

    Configuration T is the default; R has `synthesis_kwargs` conv_kernel 1, use_radial_filters True and twice the
    channels. Raises LaceError for settings that no published network has.
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
        synthesis = {key: value for key, value in (synthesis_kwargs or {}).items() if key not in IGNORED}
        mapping = {key: value for key, value in (mapping_kwargs or {}).items() if key != "w_avg_beta"}
        try:
            self.synthesis = AliasFreeSynthesis(w_dim, img_resolution, img_channels, **synthesis)
            self.mapping = MappingNetwork(z_dim, c_dim, w_dim, **{"num_layers": 2, **mapping})
        except TypeError as error:
            raise LaceError(
                f"A StyleGAN3 network must have the settings of the published ones and was given another ({error}): "
                "remove it from synthesis_kwargs or mapping_kwargs."
            ) from error
        self.num_ws = self.synthesis.num_ws


def stylegan3_config(init_kwargs: MappingType[str, Any]) -> dict[str, Any]:
    """Turn the constructor arguments stored with a published network into those of `StyleGAN3Network`.

    There, the arguments of synthesis stand beside the others (z_dim, c_dim, w_dim, img_resolution, img_channels,
    mapping_kwargs). Raises LaceError when one of the sizes is missing.
    """
    own = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    missing = [key for key in own if key not in init_kwargs]
    if missing:
        raise LaceError(
            f"The settings of a StyleGAN3 network must give {', '.join(own)}, and {missing[0]} is missing: get the "
            "file again."
        )
    synthesis = {key: value for key, value in init_kwargs.items() if key not in (*own, "mapping_kwargs", *IGNORED)}
    return {
        **{key: int(init_kwargs[key]) for key in own},
        "mapping_kwargs": dict(init_kwargs.get("mapping_kwargs") or {}),
        "synthesis_kwargs": synthesis,
    }
