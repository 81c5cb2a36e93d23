"""Mapping and synthesis networks of StyleGAN2, trainable, with the parameter names of StyleGAN2-ADA."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .stylegan2_layers import FullyConnected, Skip, SynthesisLayer, ToRGB, fir_filter, upsample


def normalize(x: Tensor) -> Tensor:
    """Scale the rows of x (B, D) to unit second moment: x / sqrt(mean x² + 1e-8)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class MappingNetwork(nn.Module):
    """w = g(z): normalise z, then `num_layers` equalised layers with sqrt(2)·leaky-ReLU; (B, Dz) -> (B, Dw).

    With `c_dim` > 0 the condition (B, c_dim) is embedded, normalised and appended to z.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_layers: int = 8, lr_multiplier: float = 0.01,
                 embed_features: int | None = None, layer_features: int | None = None) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_layers = z_dim, c_dim, w_dim, num_layers
        embedded = (embed_features or w_dim) if c_dim > 0 else 0
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, embedded)
        widths = [z_dim + embedded] + [layer_features or w_dim] * (num_layers - 1) + [w_dim]
        for index in range(num_layers):
            setattr(self, f"fc{index}", FullyConnected(widths[index], widths[index + 1], "lrelu", lr_multiplier))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = normalize(z)
        if self.c_dim > 0:
            assert c is not None
            x = torch.cat([x, normalize(self.embed(c.to(x.dtype)))], dim=1)
        for index in range(self.num_layers):
            x = getattr(self, f"fc{index}")(x)
        return x


class SynthesisBlock(nn.Module):
    """One resolution: up to two modulated convolutions and, where the architecture has it, an image output."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, img_channels: int,
                 architecture: str, is_last: bool, conv_clamp: float | None) -> None:
        super().__init__()
        self.in_channels, self.architecture = in_channels, architecture
        self.has_rgb = is_last or architecture == "skip"
        self.num_conv = 1 if in_channels == 0 else 2
        self.register_buffer("resample_filter", fir_filter())
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=True, conv_clamp=conv_clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, conv_clamp=conv_clamp)
        if self.has_rgb:
            self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels != 0 and architecture == "resnet":
            self.skip = Skip(in_channels, out_channels)

    def forward(self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise_mode: str,
                dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Consume ws (B, num_conv + has_rgb, Dw), one row a layer."""
        if x is None:
            x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
            x = self.conv1(x, ws[:, 0], noise_mode)
        elif self.architecture == "resnet":
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, ws[:, 0], noise_mode)
            x = shortcut + self.conv1(x, ws[:, 1], noise_mode, gain=math.sqrt(0.5))
        else:
            x = self.conv1(self.conv0(x, ws[:, 0], noise_mode), ws[:, 1], noise_mode)
        if image is not None:
            image = upsample(image, self.resample_filter)
        if self.has_rgb:
            rgb = self.torgb(x, ws[:, self.num_conv]).float()
            image = rgb if image is None else image + rgb
        return x, image


class SynthesisNetwork(nn.Module):
    """ws (B, L, Dw) -> pictures (B, C, R, R), float32; features are computed in `dtype`.

    `channels` gives the width of a resolution where it differs from min(channel_base / resolution, channel_max).
    """

    def __init__(self, w_dim: int, img_resolution: int, img_channels: int = 3, channel_base: int = 32768,
                 channel_max: int = 512, architecture: str = "skip", conv_clamp: float | None = None,
                 channels: MappingType[int, int] | None = None) -> None:
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.resolutions = [2**power for power in range(2, int(math.log2(img_resolution)) + 1)]
        widths = {r: min(channel_base // r, channel_max) for r in self.resolutions}
        widths.update({int(r): int(width) for r, width in (channels or {}).items()})
        self.num_ws = 0
        for resolution in self.resolutions:
            block = SynthesisBlock(widths[resolution // 2] if resolution > 4 else 0, widths[resolution], w_dim, resolution,
                                   img_channels, architecture, resolution == img_resolution, conv_clamp)
            self.num_ws += block.num_conv
            setattr(self, f"b{resolution}", block)
        self.num_ws += 1  # the image output of the last block has a style of its own; the others share the next layer's

    def forward(self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype = torch.float32) -> Tensor:
        x, image, first = None, None, 0
        for resolution in self.resolutions:
            block = getattr(self, f"b{resolution}")
            x, image = block(x, image, ws[:, first : first + block.num_conv + block.has_rgb], noise_mode, dtype)
            first += block.num_conv
        assert image is not None
        return image


class StyleNetwork(nn.Module):
    """A mapping and a synthesis network together, as they are trained and stored; `kind` is what their files are marked with."""

    kind: ClassVar[str]
    z_dim: int
    w_dim: int
    c_dim: int
    num_ws: int
    mapping: MappingNetwork
    # ws (B, L, Dw), noise mode, dtype -> pictures; with `img_resolution` and `img_channels`.
    synthesis: Any

    def broadcast(self, w: Tensor) -> Tensor:
        """Give every layer the same w: (B, Dw) -> (B, L, Dw)."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def forward(self, z: Tensor, c: Tensor | None = None, noise_mode: str = "const",
                dtype: torch.dtype = torch.float32) -> Tensor:
        return self.synthesis(self.broadcast(self.mapping(z, c)), noise_mode, dtype)


class StyleGAN2Network(StyleNetwork):
    """Mapping and synthesis together, as they are trained and stored (state dict keys `mapping.*`, `synthesis.*`)."""

    kind = "stylegan2"

    def __init__(self, z_dim: int = 512, w_dim: int = 512, c_dim: int = 0, img_resolution: int = 32, img_channels: int = 3,
                 mapping_kwargs: MappingType | None = None, synthesis_kwargs: MappingType | None = None) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.c_dim = z_dim, w_dim, c_dim
        ignored = {"num_fp16_res", "use_noise", "resample_filter", "activation", "fp16_channels_last"}
        synthesis = {key: value for key, value in (synthesis_kwargs or {}).items() if key not in ignored}
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis)
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, **{k: v for k, v in (mapping_kwargs or {}).items()
                                                               if k not in {"activation", "w_avg_beta"}})
        self.num_ws = self.synthesis.num_ws
