"""Trainable mapping and synthesis networks of StyleGAN2, with the parameter names of StyleGAN2-ADA."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import LaceError, listed
from .arguments import (
    MAX_LAYERS,
    built,
    checked_table,
    names_of,
    require_choice,
    require_number,
    require_resolution,
    require_whole,
)
from .stylegan2_layers import TAPS, FullyConnected, Skip, SynthesisLayer, ToRGB, fir_filter, upsample

ARCHITECTURES = ("skip", "resnet", "orig")
ANOTHER = "give a generator that was trained with one of these"
# Settings of the training, or of the hardware of the original, which change no picture.
IGNORED = ("num_fp16_res", "fp16_channels_last", "channels_last", "fused_modconv_default")
IGNORED_OF_MAPPING = ("w_avg_beta", "freeze_layers", "freeze_embed")


def normalize(x: Tensor) -> Tensor:
    """Scale rows to unit second moment: x / √(mean x² + 1e-8).

    Args:
        x: rows (B, D).

    Example:
        >>> normalize(torch.tensor([[3.0, -3.0]]))
        tensor([[ 1., -1.]])
    """
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class MappingNetwork(nn.Module):
    """The mapping network w = g(z): z is normalised, then passes layers with √2·leaky-ReLU, (B, Dz) -> (B, Dw).

    A condition (B, c_dim) is embedded, normalised and appended to z.

    Args:
        z_dim: Dz, at least 1.
        c_dim: size of the condition, 0 for an unconditional network.
        w_dim: Dw, at least 1.
        num_layers: number of layers, at least 1.
        lr_multiplier: multiplier of the learning rate of the layers, above 0.
        embed_features: size of the embedded condition; None takes `w_dim`.
        layer_features: width of the hidden layers; None takes `w_dim`.
        activation: "lrelu", the only one that is built.

    Raises:
        LaceError: for an argument out of range.

    References:
        Section 2 of StyleGAN (arXiv 1812.04948).

    Example:
        >>> MappingNetwork(4, 3, 6, num_layers=2)(torch.randn(2, 4), torch.eye(3)[:2]).shape
        torch.Size([2, 6])
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
    ) -> None:
        super().__init__()
        z_dim, c_dim, w_dim = (
            require_whole("z_dim", z_dim, 1),
            require_whole("c_dim", c_dim, 0),
            require_whole("w_dim", w_dim, 1),
        )
        num_layers = require_whole("num_layers", num_layers, 1, MAX_LAYERS)
        for name, width in (("embed_features", embed_features), ("layer_features", layer_features)):
            if width is not None:
                require_whole(name, width, 0)
        require_number("lr_multiplier", lr_multiplier, above=0)
        require_choice("activation", activation, ("lrelu",), ANOTHER)
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
    """The layers of one resolution: one or two modulated convolutions and, by the architecture, a picture output.

    On a CPU without a graph, feature maps above `budget` numbers are computed in strips of rows, sample by sample.
    Intermediate maps then stay in the cache of the processor and never exist whole. The last block does not keep its
    features either.

    Args:
        in_channels: channels of the input, half the resolution; 0 for the first block, which has a constant input.
        out_channels: channels of the features, at least 1.
        w_dim: Dw, size of a latent w.
        resolution: side of the features in pixels.
        img_channels: channels of the picture output.
        architecture: "skip" (a picture output in each block, summed), "resnet" (a residual path) or "orig" (neither).
        is_last: whether this is the highest resolution, which always has a picture output.
        conv_clamp: bound of the absolute value of features, above 0; None for none.
        use_noise: whether the layers add noise.
        resample_filter: four taps of the low-pass filter (see `fir_filter`).

    Example:
        >>> block = SynthesisBlock(4, 2, 5, 8, 3, "skip", is_last=True, conv_clamp=None)
        >>> x, image = block(torch.randn(1, 4, 4, 4), None, torch.randn(1, 3, 5), "none", torch.float32)
        >>> image.shape
        torch.Size([1, 3, 8, 8])
    """

    # 8 MiB in float32, four of which are held at a time; chosen by measurement.
    budget = 2**21
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        architecture: str,
        is_last: bool,
        conv_clamp: float | None,
        use_noise: bool = True,
        resample_filter: Sequence[float] = TAPS,
    ) -> None:
        super().__init__()
        layer: dict[str, Any] = {"conv_clamp": conv_clamp, "use_noise": use_noise, "resample_filter": resample_filter}
        self.in_channels, self.out_channels, self.resolution, self.img_channels = (
            in_channels,
            out_channels,
            resolution,
            img_channels,
        )
        self.architecture, self.is_last = architecture, is_last
        self.has_rgb = is_last or architecture == "skip"
        self.num_conv = 1 if in_channels == 0 else 2
        self.register_buffer("resample_filter", fir_filter(resample_filter))
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=True, **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, **layer)
        if self.has_rgb:
            self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels != 0 and architecture == "resnet":
            self.skip = Skip(in_channels, out_channels, resample_filter)

    def rows_at_once(self, device: torch.device) -> int:
        """Return the number of rows of the features that are computed at a time where no graph is kept."""
        if device.type != "cpu" or self.in_channels == 0:
            return self.resolution
        return min(self.resolution, max(16, self.budget // (self.out_channels * self.resolution) // 2 * 2))

    def bytes_per_picture(self, dtype: torch.dtype, device: torch.device) -> int:
        """Return the peak memory in bytes for each picture of a batch."""
        rows, area = self.rows_at_once(device), self.resolution**2
        below, features, image = self.in_channels * area // 4, self.out_channels * area, self.img_channels * area * 4
        # Features before, between and after the steps of a layer are three maps.
        maps = below + 3 * self.out_channels * self.resolution * rows
        if rows < self.resolution and not self.is_last:
            maps += features
        # The picture of half the size, its upsampled copy, the picture of this block, and the sum.
        return maps * dtype.itemsize + 13 * image // 4

    def _features(self, x: Tensor, ws: Tensor, noise_mode: str, first: int = 0, last: int | None = None) -> Tensor:
        """Return rows first .. last - 1 of the features of x (B, I, H, W); `first` and `last` are even.

        Only the rows of x are read that these features depend on.
        """
        gain, height = math.sqrt(0.5) if self.architecture == "resnet" else 1.0, 2 * x.shape[2]
        last = last or height
        begin, low, high = max(first - 4, 0), max(first - 1, 0), min(last + 1, height)
        x = x[:, :, begin // 2 : last // 2 + 2]
        # Zero padding of a strip is right only at the border of the picture: elsewhere two rows of conv0 are wrong,
        # then one of conv1.
        y = self.conv0(x, ws[:, 0], noise_mode, first=begin)[:, :, low - begin : high - begin]
        y = self.conv1(y, ws[:, 1], noise_mode, gain, first=low)[:, :, first - low : last - low]
        result: Tensor = (
            self.skip(x, gain)[:, :, first - begin : last - begin] + y if self.architecture == "resnet" else y
        )
        return result

    def _rgb(self, x: Tensor, ws: Tensor) -> Tensor | None:
        return self.torgb(x, ws[:, self.num_conv]).float() if self.has_rgb else None

    def _in_strips(self, x: Tensor, ws: Tensor, noise_mode: str, rows: int) -> tuple[Tensor | None, Tensor | None]:
        shape = (len(x), self.out_channels, self.resolution, self.resolution)
        features = None if self.is_last else torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        rgb = torch.empty(len(x), self.img_channels, *shape[2:]) if self.has_rgb else None
        for one, first in product(range(len(x)), range(0, self.resolution, rows)):
            own, place = slice(one, one + 1), slice(first, min(first + rows, self.resolution))
            part = self._features(x[own], ws[own], noise_mode, place.start, place.stop)
            if features is not None:
                features[own, :, place] = part
            if rgb is not None:
                rgb[own, :, place] = self.torgb(part, ws[own][:, self.num_conv])
        return features, rgb

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise_mode: str, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the features and the summed picture of x (B, I, H, W) with ws (B, num_conv + has_rgb, Dw)."""
        graph = torch.is_grad_enabled() and (ws.requires_grad or self.conv1.weight.requires_grad)
        rows = self.resolution if graph or noise_mode == "random" else self.rows_at_once(ws.device)
        if x is not None and rows < self.resolution:
            x, rgb = self._in_strips(x.to(dtype), ws, noise_mode, rows)
        else:
            if x is None:
                x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
                x = self.conv1(x, ws[:, 0], noise_mode)
            else:
                x = self._features(x.to(dtype), ws, noise_mode)
            rgb = self._rgb(x, ws)
        if image is not None:
            image = upsample(image, self.resample_filter)
        if rgb is not None:
            image = rgb if image is None else image + rgb
        return x, image


class SynthesisNetwork(nn.Module):
    """The synthesis network of StyleGAN2: ws (B, L, Dw) -> pictures (B, C, R, R), float32.

    Half precision is used at the four highest resolutions only: errors of coarse layers move parts of the picture,
    errors of fine layers are noise.

    Args:
        w_dim: Dw, size of a latent w.
        img_resolution: R, side of a picture in pixels, a power of two from 4 to 4096.
        img_channels: C, channels of a picture, at least 1.
        channel_base: width of the features is channel_base / resolution, and at most `channel_max`.
        channel_max: largest width.
        architecture: "skip", "resnet" or "orig" (see `SynthesisBlock`).
        conv_clamp: bound of the absolute value of features, above 0; None for none.
        channels: width of the features by resolution, where it differs from the rule; None for none.
        use_noise: whether the layers add noise.
        resample_filter: four taps of the low-pass filter, the same from either end (see `fir_filter`).
        activation: "lrelu", the only one that is built.

    Raises:
        LaceError: for an argument out of range.

    Example:
        >>> network = SynthesisNetwork(5, 8, channel_base=32)
        >>> network(torch.randn(2, network.num_ws, 5)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "skip",
        conv_clamp: float | None = None,
        channels: MappingType[int, int] | None = None,
        use_noise: bool = True,
        resample_filter: Sequence[float] = TAPS,
        activation: str = "lrelu",
    ) -> None:
        super().__init__()
        w_dim, img_channels = require_whole("w_dim", w_dim, 1), require_whole("img_channels", img_channels, 1)
        img_resolution = require_resolution(img_resolution)
        require_whole("channel_base", channel_base, img_resolution, 2**40)
        require_whole("channel_max", channel_max, 1)
        require_choice("architecture", architecture, ARCHITECTURES)
        require_choice("use_noise", use_noise, (True, False))
        require_choice("activation", activation, ("lrelu",), ANOTHER)
        conv_clamp = require_number("conv_clamp", conv_clamp, above=0, optional=True)
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.resolutions = [2**power for power in range(2, int(math.log2(img_resolution)) + 1)]
        widths = {r: min(channel_base // r, channel_max) for r in self.resolutions}
        widths.update(_widths(channels, self.resolutions))
        self.num_ws = 0
        for resolution in self.resolutions:
            block = SynthesisBlock(
                widths[resolution // 2] if resolution > 4 else 0,
                widths[resolution],
                w_dim,
                resolution,
                img_channels,
                architecture,
                resolution == img_resolution,
                conv_clamp,
                use_noise,
                resample_filter,
            )
            self.num_ws += block.num_conv
            setattr(self, f"b{resolution}", block)
        # Only the picture output of the last block has its own w; the others share that of the next layer.
        self.num_ws += 1

    def forward(self, ws: Tensor, noise_mode: str = "const", dtype: torch.dtype = torch.float32) -> Tensor:
        x, image, first = None, None, 0
        for block in self.blocks:
            x, image = block(
                x, image, ws[:, first : first + block.num_conv + block.has_rgb], noise_mode, self._dtype(block, dtype)
            )
            first += block.num_conv
        assert image is not None
        result: Tensor = image
        return result

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """The blocks, from coarse to fine."""
        return [getattr(self, f"b{resolution}") for resolution in self.resolutions]

    def _dtype(self, block: SynthesisBlock, dtype: torch.dtype) -> torch.dtype:
        return torch.float32 if dtype.itemsize < 4 and 16 * block.resolution <= self.img_resolution else dtype

    def bytes_per_picture(self, dtype: torch.dtype, device: torch.device) -> int:
        """Return the peak memory of `forward` in bytes for each picture of a batch."""
        return max(block.bytes_per_picture(self._dtype(block, dtype), device) for block in self.blocks)


def _widths(channels: Any, resolutions: Sequence[int]) -> dict[int, int]:
    """Return the table of widths with whole numbers as keys, of which a JSON file makes texts."""
    table = checked_table("channels", channels, [str(resolution) for resolution in resolutions])
    return {int(resolution): require_whole("channels", width, 1) for resolution, width in table.items()}


class StyleNetwork(nn.Module):
    """Base class of a mapping and a synthesis network that are trained and stored together.

    A subclass sets the attributes below; `kind` is the mark of its files.

    Example:
        >>> network = StyleGAN2Network(4, 6, img_resolution=8, synthesis_kwargs={"channel_base": 32})
        >>> isinstance(network, StyleNetwork), network.kind
        (True, 'stylegan2')
    """

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

    def forward(
        self, z: Tensor, c: Tensor | None = None, noise_mode: str = "const", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        result: Tensor = self.synthesis(self.broadcast(self.mapping(z, c)), noise_mode, dtype)
        return result


class StyleGAN2Network(StyleNetwork):
    """Mapping and synthesis network of StyleGAN2, with state dict keys `mapping.*` and `synthesis.*`.

    Args:
        z_dim: Dz, size of a latent z, at least 1.
        w_dim: Dw, size of a latent w, at least 1.
        c_dim: size of the condition, 0 for an unconditional network.
        img_resolution: side of a picture in pixels, a power of two from 4 to 4096.
        img_channels: channels of a picture, at least 1.
        mapping_kwargs: further arguments of `MappingNetwork`; None for none. `w_avg_beta`, `freeze_layers` and
            `freeze_embed` of published networks are ignored.
        synthesis_kwargs: further arguments of `SynthesisNetwork`; None for none. `num_fp16_res`,
            `fp16_channels_last`, `channels_last` and `fused_modconv_default` of published networks are ignored.

    Raises:
        LaceError: for an argument that is unknown or out of range.

    Example:
        >>> network = StyleGAN2Network(4, 6, img_resolution=8, synthesis_kwargs={"channel_base": 32})
        >>> network(torch.randn(2, 4)).shape
        torch.Size([2, 3, 8, 8])
    """

    kind = "stylegan2"

    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        c_dim: int = 0,
        img_resolution: int = 32,
        img_channels: int = 3,
        mapping_kwargs: MappingType[str, Any] | None = None,
        synthesis_kwargs: MappingType[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.c_dim = z_dim, w_dim, c_dim
        synthesis = checked_table("synthesis_kwargs", synthesis_kwargs, SYNTHESIS_NAMES, IGNORED)
        mapping = checked_table("mapping_kwargs", mapping_kwargs, MAPPING_NAMES, IGNORED_OF_MAPPING)
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis)
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, **mapping)
        self.num_ws = self.synthesis.num_ws


def network_from(kind: type[StyleNetwork], config: Any, tensors: MappingType[str, Tensor], fix: str) -> StyleNetwork:
    """Return a network with the tensors of a file, frozen, in float32.

    The network is first built without memory (on the meta device), and its shapes are compared with those of the
    tensors: settings in a file cannot ask for more memory than its tensors take.

    Args:
        kind: class of the network.
        config: constructor arguments in the file.
        tensors: tensors by the names of the network.
        fix: what to do where the tensors are not those of the network, the end of the message.

    Returns:
        The network, which shares the memory of tensors in float32.

    Raises:
        LaceError: where the arguments make no network, and where tensors are missing, left over, of another shape or
            not real.

    Example:
        >>> config = {"z_dim": 4, "w_dim": 4, "img_resolution": 8, "synthesis_kwargs": {"channel_base": 32}}
        >>> network_from(StyleGAN2Network, config, {}, "get the file again")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The network in the file must be a stylegan2 generator, and its tensor ...
    """
    arguments = checked_table("network", config, names_of(kind))

    def make() -> StyleNetwork:
        with torch.device("meta"):
            return kind(**arguments)

    network = built(kind.kind, make)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    received = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != received:
        name = next(name for name in (*wanted, *received) if wanted.get(name) != received.get(name))
        raise LaceError(
            f"The network in the file must be a {kind.kind} generator, and its tensor '{listed([name])}' is "
            f"{received.get(name, 'missing')} where {wanted.get(name, 'none')} was expected: {fix}."
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise LaceError(
                f"The tensors of a {kind.kind} generator must be real numbers, and '{name}' in the file is of "
                f"{str(tensor.dtype).removeprefix('torch.')}: get the file again."
            )
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    result: StyleNetwork = network.requires_grad_(False).eval()
    return result


MAPPING_NAMES = names_of(MappingNetwork, without=("self", "z_dim", "c_dim", "w_dim"))
SYNTHESIS_NAMES = names_of(SynthesisNetwork, without=("self", "w_dim", "img_resolution", "img_channels"))
