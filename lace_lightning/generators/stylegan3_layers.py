"""The layers of StyleGAN3: Fourier features and alias-free modulated convolutions, in plain torch.

The mathematics is that of "Alias-Free Generative Adversarial Networks" (Karras et al., NeurIPS 2021); parameter names
and numerical results are those of its published networks, so that their state dicts load here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError
from ..numerics.weight_cache import WeightCache
from .arguments import MAX_RESOLUTION, require_choice, require_number, require_whole
from .stylegan2_layers import SQRT_2, FullyConnected

# Side of the largest map between two filters, which are computed a few channels at a time.
MAX_INNER = 4 * MAX_RESOLUTION


def lowpass_filter(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """Return a Kaiser-windowed low-pass filter of sum 1, float32.

    The ideal filter is sinc in one dimension and jinc, r ↦ c·J₁(2πcr)/r, in two.

    Args:
        taps: number of taps along an axis, at least 1.
        cutoff: cutoff frequency c, in cycles per picture, above 0.
        width: full width of the transition band, in cycles per picture, above 0.
        rate: sampling rate, in samples per picture, above 0.
        radial: whether the filter is radially symmetric in the plane.

    Returns:
        The filter (taps,), or (taps, taps) if `radial`; None for one tap.

    References:
        Appendix C of StyleGAN3 (arXiv 2106.12423).

    Example:
        >>> taps = lowpass_filter(12, cutoff=2.0, width=4.0, rate=16.0)
        >>> taps.shape, round(float(taps.sum()), 5)
        (torch.Size([12]), 1.0)
    """
    if taps == 1:
        return None
    # On the processor also where a network is built without memory: a filter follows from numbers alone.
    position = (torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2) / rate
    window = torch.from_numpy(np.kaiser(taps, _kaiser_beta(taps, width / (rate / 2))))
    if radial:
        radius = torch.hypot(position[:, None], position[None])
        ideal = torch.where(
            radius > 0, torch.special.bessel_j1(2 * math.pi * cutoff * radius) / (math.pi * radius), cutoff
        )
        window = torch.outer(window, window)
    else:
        ideal = torch.special.sinc(2 * cutoff * position)
    ideal = ideal * window
    return (ideal / ideal.sum()).float()


def _kaiser_beta(taps: int, width: float) -> float:
    """Return β of the window by Kaiser's rule; `width` of the transition is relative to half the sampling rate."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21) if attenuation > 21 else 0.0


def phases(factor: int, padding: int) -> list[tuple[int, int]]:
    """Return the first tap and the offset of the first pixel for each phase of a zero-inserting upsampling.

    With z[factor·m] = x[m] and zeros elsewhere, y[i] = Σ_k taps[k]·z[i + k - padding] becomes
    y[factor·q + p] = Σ_t taps[first_p + factor·t]·x[q + t + offset_p] for phase p: no zero is multiplied.

    Args:
        factor: factor of the upsampling, at least 1.
        padding: zeros before the upsampled signal; negative for samples that are cropped.

    Returns:
        (first_p, offset_p) for p = 0, ..., factor - 1.

    Example:
        >>> phases(2, 1)
        [(1, 0), (0, 0)]
    """
    firsts = [(padding - p) % factor for p in range(factor)]
    return [(first, (p + first - padding) // factor) for p, first in enumerate(firsts)]


class Resampler:
    """Upsampling, a pointwise function and downsampling, with low-pass filters: (B, C, N, N) -> (B, C, M, M).

    A filter is a depthwise convolution along each axis; a radial filter is one convolution along both. Zeros are not
    inserted, and no pixel is computed that is dropped later. The map between the filters is large: above `budget`
    numbers, samples pass one by one and their channels in groups. On a CPU that map then stays in the cache of the
    processor.

    Args:
        up: factor of the upsampling, at least 1.
        down: factor of the downsampling, at least 1.
        padding: zeros before the upsampled map; negative for pixels that are cropped.
        out_size: M, side of the output in pixels.
        down_taps: number of taps of the downsampling filter, 1 for none.

    Example:
        >>> taps = lowpass_filter(4, cutoff=2.0, width=4.0, rate=16.0)
        >>> resample = Resampler(up=2, down=2, padding=3, out_size=8, down_taps=4)
        >>> resample(torch.randn(1, 3, 8, 8), taps, taps, torch.relu).shape
        torch.Size([1, 3, 8, 8])
    """

    budget = 2**21

    def __init__(self, up: int, down: int, padding: int, out_size: int, down_taps: int) -> None:
        self.up, self.down, self.phases, self.out_size = up, down, phases(up, padding), out_size
        self.inner_size = (out_size - 1) * down + down_taps
        self.kept = WeightCache()

    def __call__(
        self, x: Tensor, up_filter: Tensor | None, down_filter: Tensor | None, activate: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def resample(x: Tensor) -> Tensor:
            return self._downsample(activate(self._upsample(x, up_filter)), down_filter)

        group = self.channels_at_once(x.shape[1], x.device)
        if len(x) * x.shape[1] * self.inner_size**2 <= self._budget(x.device):
            return resample(x)
        return torch.cat(
            [torch.cat([resample(part) for part in sample.split(group, dim=1)], dim=1) for sample in x.split(1)]
        )

    def _budget(self, device: torch.device) -> int:
        return self.budget if device.type == "cpu" else 8 * self.budget

    def channels_at_once(self, channels: int, device: torch.device) -> int:
        """Return how many channels of a sample are resampled at a time where the map between the filters is large."""
        return min(channels, max(16, self._budget(device) // self.inner_size**2 // 16 * 16))

    def _filter(
        self, x: Tensor, taps: Tensor, axis: int, first: int = 0, step: int = 1, gain: int = 1, stride: int = 1
    ) -> Tensor:
        """Convolve each channel with every `step`-th tap of the turned filter along axis 2 or 3, or both (0)."""

        def make(taps: Tensor) -> Tensor:
            turned = taps.flip(tuple(range(taps.ndim)))[first::step] * gain
            kernel = turned if axis == 0 else turned[:, None] if axis == 2 else turned[None]
            return kernel.to(x.dtype).repeat(x.shape[1], 1, 1, 1)

        kernel = self.kept((axis, first, step, gain, x.shape[1], x.dtype), taps, make)
        strides = {0: (stride, stride), 2: (stride, 1), 3: (1, stride)}[axis]
        return F.conv2d(x, kernel, stride=strides, groups=x.shape[1])

    def _upsample(self, x: Tensor, taps: Tensor | None) -> Tensor:
        if taps is None:
            return x
        length, count = -(-self.inner_size // self.up), len(taps) // self.up
        offsets = [offset for _, offset in self.phases]
        for axis in (2, 3):
            low, high = max(0, -min(offsets)), max(0, max(offsets) + length + count - 1 - x.shape[axis])
            x = F.pad(x, (0, 0, low, high) if axis == 2 else (low, high))
            # The gain makes up for the zeros.
            parts = [
                self._filter(x.narrow(axis, low + offset, length + count - 1), taps, axis, first, self.up, self.up)
                for first, offset in self.phases
            ]
            # Interleaved in the order of memory: sample, row, column, channel.
            x = (
                torch.stack([part.permute(0, 2, 3, 1) for part in parts], dim=axis)
                .flatten(axis - 1, axis)
                .permute(0, 3, 1, 2)
            )
            x = x.narrow(axis, 0, self.inner_size)
        return x

    def _downsample(self, x: Tensor, taps: Tensor | None) -> Tensor:
        if taps is None:
            return x[:, :, :: self.down, :: self.down]
        if taps.ndim == 2:
            return self._filter(x, taps, 0, stride=self.down)
        return self._filter(self._filter(x, taps, 2, stride=self.down), taps, 3, stride=self.down)


class FourierInput(nn.Module):
    """The Fourier features that synthesis begins with: w (B, Dw) -> features (B, C, size, size), float32.

    Features are sin(2π(f·x + φ)) at positions x within ±size/(2·rate) pictures, multiplied by a matrix (C, C). The
    positions are rotated and translated by a function of w, and transformed by the buffer `transform` (3, 3), the
    inverse of the motion of the picture. Frequencies that `transform` moves towards the Nyquist limit fade out.

    Args:
        w_dim: Dw, size of a latent w.
        channels: C, number of frequencies.
        size: side of the features in pixels, with margins.
        rate: sampling rate, in pixels per picture.
        bandwidth: largest frequency, in cycles per picture, below rate / 2.

    References:
        Section 3 of StyleGAN3 (arXiv 2106.12423).

    Example:
        >>> FourierInput(4, channels=6, size=20, rate=16, bandwidth=2.0)(torch.randn(2, 4)).shape
        torch.Size([2, 6, 20, 20])
    """

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, w_dim: int, channels: int, size: int, rate: float, bandwidth: float) -> None:
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth
        direction = torch.randn(channels, 2)
        radius = direction.norm(dim=1, keepdim=True)
        # exp(-r²/2) of a normal vector in the plane is a uniform number; its root is the radius in a uniform disc.
        self.register_buffer("freqs", direction / radius * torch.exp(-radius.square() / 4) * bandwidth)
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnected(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def _motion(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return matrices (B, 2, 2) and shifts (B, 2) that map positions of the picture to those of the features."""
        pose = self.affine(w)
        cos, sin, right, down = (pose / pose[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
        shift = self.transform[:2, 2] - torch.stack([right, down], dim=1)
        return rotation @ self.transform[:2, :2], torch.einsum("bij,bj->bi", rotation, shift)

    def forward(self, w: Tensor) -> Tensor:
        matrix, shift = self._motion(w)
        freqs = self.freqs @ matrix
        phases = self.phases + shift @ self.freqs.T
        fade = (1 - (freqs.norm(dim=2) - self.bandwidth) / (self.rate / 2 - self.bandwidth)).clamp(0, 1)
        place = (torch.arange(self.size, device=w.device) - (self.size - 1) / 2) / self.rate
        # Angles (B, rows, columns, C).
        angles = (place[:, None] * freqs[:, None, :, 1])[:, :, None] + (
            place[:, None] * freqs[:, None, :, 0] + phases[:, None]
        )[:, None]
        features = torch.sin(2 * math.pi * angles) * fade[:, None, None]
        result: Tensor = (features @ (self.weight.T / math.sqrt(len(self.weight)))).permute(0, 3, 1, 2)
        return result


class AliasFreeLayer(nn.Module):
    """A modulated convolution, then bias and √2·leaky-ReLU(0.2) at a higher rate: (B, I, N, N) -> (B, O, M, M).

    y_o = d_o · (w_o * (s ⊙ x)) with weights and style of unit scale. The style s is applied to the input and the
    demodulation d to the output, so that one kernel serves the whole batch. Pairs are (before, after) the layer.

    Args:
        w_dim: Dw, size of a latent w.
        channels: (I, O).
        sizes: (N, M), sides in pixels, with margins.
        rates: sampling rates, in pixels per picture.
        cutoffs: cutoff frequencies, in cycles per picture.
        half_widths: half widths of the transition bands, in cycles per picture.
        to_rgb: whether this is the last layer: a 1x1 convolution without demodulation, non-linearity and filters.
        critical: whether the layer is critically sampled, and its downsampling filter never radial.
        conv_kernel: side of the kernel, 3 in configuration T and 1 in R.
        filter_size: taps of a filter for each unit of its factor, at least 1.
        lrelu_upsampling: factor of the sampling rate at which the leaky ReLU is applied, at least 1.
        use_radial_filters: whether downsampling filters are radially symmetric, as in configuration R.
        conv_clamp: bound of the absolute value of features, above 0; None for none.

    Raises:
        LaceError: for an argument out of range.

    References:
        Section 3 of StyleGAN3 (arXiv 2106.12423).

    Example:
        >>> layer = AliasFreeLayer(4, (3, 2), (20, 20), (16, 16), (2.0, 2.0), (6.0, 6.0))
        >>> layer(torch.randn(1, 3, 20, 20), torch.randn(1, 4)).shape
        torch.Size([1, 2, 20, 20])
    """

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(
        self,
        w_dim: int,
        channels: tuple[int, int],
        sizes: tuple[int, int],
        rates: tuple[int, int],
        cutoffs: tuple[float, float],
        half_widths: tuple[float, float],
        to_rgb: bool = False,
        critical: bool = False,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float | None = 256.0,
    ) -> None:
        super().__init__()
        require_whole("conv_kernel", conv_kernel, 1, 7)
        require_whole("filter_size", filter_size, 1, 32)
        require_whole("lrelu_upsampling", lrelu_upsampling, 1, 8)
        require_choice("use_radial_filters", use_radial_filters, (True, False))
        conv_clamp = require_number("conv_clamp", conv_clamp, above=0, optional=True)
        self.to_rgb, self.conv_clamp, self.in_size = to_rgb, conv_clamp, sizes[0]
        self.size = 1 if to_rgb else conv_kernel
        self.affine = FullyConnected(w_dim, channels[0], bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(channels[1], channels[0], self.size, self.size))
        self.bias = nn.Parameter(torch.zeros(channels[1]))
        self.register_buffer("magnitude_ema", torch.ones([]))
        inner = max(rates) * (1 if to_rgb else lrelu_upsampling)
        up, down = inner // rates[0], inner // rates[1]
        up_taps = 1 if to_rgb or up == 1 else filter_size * up
        down_taps = 1 if to_rgb or down == 1 else filter_size * down
        self.register_buffer("up_filter", lowpass_filter(up_taps, cutoffs[0], 2 * half_widths[0], inner))
        self.register_buffer(
            "down_filter",
            lowpass_filter(down_taps, cutoffs[1], 2 * half_widths[1], inner, use_radial_filters and not critical),
        )
        # Pixels are areas: both grids have the same centre at any two rates (appendix C.3).
        padding = (sizes[1] - 1) * down + 1 - (sizes[0] + self.size - 1) * up + up_taps + down_taps - 2
        self.resample = Resampler(up, down, (padding + up) // 2, sizes[1], down_taps)
        if self.resample.inner_size > MAX_INNER:
            raise LaceError(
                f"The features of a StyleGAN3 layer must have at most {MAX_INNER} pixels a side, and these settings "
                f"give {self.resample.inner_size}: take a smaller margin, filter or upsampling."
            )
        self.kept = WeightCache()

    def numbers_per_picture(self, device: torch.device) -> int:
        """Return how many numbers are held at the peak for each picture: around the convolution or in the filters."""
        outputs, inputs = self.weight.shape[:2]
        area, inner, group = (
            self.in_size**2,
            self.resample.inner_size,
            self.resample.channels_at_once(len(self.weight), device),
        )
        # The upsampled map is stacked from its phases, while the map that was upsampled along one axis is held.
        filters = 2 * group * inner * (inner + self.in_size) + (
            2 * outputs * self.resample.out_size**2 if group < outputs else 0
        )
        return max((2 * inputs + 2 * outputs) * area, (inputs + outputs) * area + filters)

    def _kernel(self, dtype: torch.dtype) -> Tensor:
        def make(weight: Tensor) -> Tensor:
            weight = weight if self.to_rgb else _unit(weight, (1, 2, 3))
            return weight.to(dtype, memory_format=torch.channels_last)

        return self.kept(("kernel", dtype), self.weight, make)

    def _scales(self, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the factors of input channels (B, I) and of output channels (B, O)."""
        style = self.affine(w)
        if self.to_rgb:
            return style / math.sqrt(style.shape[1]) * self.magnitude_ema.rsqrt(), None
        style = _unit(style, (1,))
        power = self.kept(
            "power", self.weight, lambda weight: _unit(weight, (1, 2, 3)).square().sum((2, 3)).T.contiguous()
        )
        return style * self.magnitude_ema.rsqrt(), torch.rsqrt(style.square() @ power + 1e-8) * SQRT_2

    def _activate(self, x: Tensor) -> Tensor:
        if not self.to_rgb:
            x = F.leaky_relu(x, 0.2, inplace=not x.requires_grad)
        if self.conv_clamp is None:
            return x
        limit = self.conv_clamp
        return x.clamp(-limit, limit) if x.requires_grad else x.clamp_(-limit, limit)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        before, after = self._scales(w)
        x = x * before[:, :, None, None].to(x.dtype)
        x = F.conv2d(x.contiguous(memory_format=torch.channels_last), self._kernel(x.dtype), padding=self.size - 1)
        if after is None:
            x = x + self.bias[:, None, None].to(x.dtype)
        else:
            # leaky-ReLU is positively homogeneous: its gain is multiplied into the small factors.
            x = torch.addcmul((self.bias * SQRT_2)[:, None, None].to(x.dtype), x, after[:, :, None, None].to(x.dtype))
        return self.resample(x, self.up_filter, self.down_filter, self._activate)


def _unit(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale x to unit mean square over `dims`."""
    return x * x.square().mean(dims, keepdim=True).rsqrt()
