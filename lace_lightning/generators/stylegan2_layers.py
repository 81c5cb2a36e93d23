"""The layers of StyleGAN2: equalised linear maps and modulated convolutions without grouped kernels.

Parameter names and numerical results are those of StyleGAN2-ADA ("Training GANs with limited data", NeurIPS 2020), so
that its state dicts load here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError
from ..numerics.weight_cache import WeightCache

SQRT_2 = math.sqrt(2.0)


# Taps of the low-pass filter of the published networks.
TAPS = (1, 3, 3, 1)


def fir_filter(taps: Sequence[float] = TAPS) -> Tensor:
    """Return a low-pass filter (4, 4) of StyleGAN2: the outer product of four taps, of sum 1.

    Args:
        taps: four numbers, the same from either end, whose sum is not 0.

    Raises:
        LaceError: for other taps.

    Example:
        >>> float(fir_filter().sum())
        1.0
    """
    is_list = isinstance(taps, Sequence) and not isinstance(taps, (str, bytes)) and len(taps) == 4
    if not (
        is_list
        and all(isinstance(tap, (int, float)) and abs(tap) < 1e6 for tap in taps)
        and list(taps) == list(taps)[::-1]
        and abs(sum(taps)) > 1e-6
    ):
        received = ", ".join(str(tap)[:20] for tap in taps[:8]) if is_list else type(taps).__name__
        raise LaceError(
            f"The low-pass filter (resample_filter) of a StyleGAN2 must have four taps, the same from either end, such "
            f"as [1, 3, 3, 1], received {received}: give a generator that was trained with such a filter."
        )
    row = torch.tensor([float(tap) for tap in taps])
    return torch.outer(row, row) / float(sum(taps)) ** 2


def upsample(images: Tensor, taps: Tensor) -> Tensor:
    """Upsample pictures to twice their size, by zero insertion and then the filter with gain 4.

    Args:
        images: pictures or feature maps (B, C, H, W).
        taps: low-pass filter (4, 4) of sum 1.

    Returns:
        Pictures (B, C, 2H, 2W).

    Example:
        >>> upsample(torch.ones(1, 3, 4, 4), fir_filter()).shape
        torch.Size([1, 3, 8, 8])
    """
    channels = images.shape[1]
    kernel = (taps * 4).to(images.dtype).expand(channels, 1, 4, 4)
    return F.conv_transpose2d(images, kernel, stride=2, padding=1, groups=channels)


class FullyConnected(nn.Module):
    """A linear layer (B, I) -> (B, O) with equalised learning rate, optionally followed by √2·leaky-ReLU(0.2).

    Args:
        in_features: I, at least 1.
        out_features: O, at least 1.
        activation: "lrelu" for the leaky ReLU; any other value for none.
        lr_multiplier: λ, above 0. Weights are drawn with standard deviation 1/λ and multiplied by λ/√I in use; the bias
            is multiplied by λ.
        bias_init: value of the bias at the start.

    References:
        Section 4.1 of Progressive GAN (arXiv 1710.10196).

    Example:
        >>> layer = FullyConnected(3, 2, bias_init=1.0)
        >>> layer(torch.zeros(1, 3)).tolist()
        [[1.0, 1.0]]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(y, 0.2) * SQRT_2 if self.activation == "lrelu" else y


def convolve_up(x: Tensor, kernel: Tensor, fir: Tensor) -> Tensor:
    """Convolve feature maps after zero insertion to twice their size, then apply the low-pass filter.

    The convolution is a true one (with the turned kernel). Filtering afterwards costs a quarter of folding the filter
    into the kernel.

    Args:
        x: feature maps (B, I, H, W).
        kernel: weights (I, O, 3, 3).
        fir: low-pass filter (O, 1, 4, 4) with gain 4, the same for every channel.

    Returns:
        Feature maps (B, O, 2H, 2W).

    Example:
        >>> fir = (fir_filter() * 4).repeat(2, 1, 1, 1)
        >>> convolve_up(torch.ones(1, 3, 4, 4), torch.ones(3, 2, 3, 3), fir).shape
        torch.Size([1, 2, 8, 8])
    """
    return F.conv2d(F.conv_transpose2d(x, kernel, stride=2), fir, padding=1, groups=len(fir))


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution with noise, bias, √2·leaky-ReLU(0.2) and clamping: (B, I, H, W) -> (B, O, R, R).

    y_o = d_o · (w_o * (s ⊙ x)),  d_o = (Σ_{i,k} (w_oik s_i)² + 1e-8)^(-1/2). The scale s of a sample is applied to the
    input and the demodulation d to the output, and not to the kernel, so that one kernel serves the whole batch.

    Args:
        in_channels: I, at least 1.
        out_channels: O, at least 1.
        w_dim: Dw, size of the latent w (B, Dw) that gives the scale s.
        resolution: R, side of the output in pixels.
        up: whether the layer doubles the side; else the input has R pixels a side.
        conv_clamp: bound of the absolute value of the output at gain 1, above 0; None for none.
        use_noise: whether the layer adds noise, of which it then has a stored map.
        resample_filter: four taps of the low-pass filter (see `fir_filter`).

    References:
        Section 2.2 of StyleGAN2 (arXiv 1912.04958).

    Example:
        >>> layer = SynthesisLayer(3, 2, w_dim=5, resolution=8, up=True)
        >>> layer(torch.randn(1, 3, 4, 4), torch.randn(1, 5), "const").shape
        torch.Size([1, 2, 8, 8])
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        up: bool = False,
        conv_clamp: float | None = None,
        use_noise: bool = True,
        resample_filter: Sequence[float] = TAPS,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.conv_clamp, self.use_noise = resolution, up, conv_clamp, use_noise
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", fir_filter(resample_filter))
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.kept = WeightCache()

    def _kernel(self, dtype: torch.dtype) -> Tensor:
        turn = self.up  # a transposed convolution wants (I, O, 3, 3)
        return self.kept(
            ("kernel", dtype),
            self.weight,
            lambda weight: (weight.transpose(0, 1) if turn else weight).to(dtype, memory_format=torch.channels_last),
        )

    def _convolve(self, x: Tensor) -> Tensor:
        if not self.up:
            return F.conv2d(x, self._kernel(x.dtype), padding=1)
        channels = len(self.bias)
        fir = self.kept(
            ("fir", x.dtype), self.resample_filter, lambda taps: (taps * 4).to(x.dtype).repeat(channels, 1, 1, 1)
        )
        return convolve_up(x, self._kernel(x.dtype), fir)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, gain: float = 1.0, first: int = 0) -> Tensor:
        """Return the features of x (B, I, H, W) with style w (B, Dw).

        `noise_mode` is "const", "none" or "random"; `gain` multiplies the output. Where x is a strip of a feature map,
        its output begins at row `first` of the whole output.
        """
        # leaky-ReLU is positively homogeneous: the gain is multiplied into the small factors, not into the feature map.
        gain = gain * SQRT_2
        style = self.affine(w)
        power = self.kept("power", self.weight, lambda weight: weight.float().square().sum((2, 3)).T.contiguous())
        scale = torch.rsqrt(style.float().square() @ power + 1e-8) * gain
        x = self._convolve(x * style[:, :, None, None].to(x.dtype))
        x = torch.addcmul((self.bias * gain)[:, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))
        if self.use_noise and noise_mode != "none":
            noise = (
                self.noise_const[first : first + x.shape[2]]
                if noise_mode == "const"
                else torch.randn(len(x), 1, *x.shape[2:], device=x.device)
            )
            x = x.add_((noise * (self.noise_strength * gain)).to(x.dtype))
        # In place where no graph needs the input, which saves a pass over memory.
        x = F.leaky_relu(x, 0.2, inplace=not x.requires_grad)
        if self.conv_clamp is None:
            return x
        limit = self.conv_clamp * gain / SQRT_2
        return x.clamp(-limit, limit) if x.requires_grad else x.clamp_(-limit, limit)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to picture channels, without demodulation: (B, I, H, W) -> (B, C, H, W).

    Args:
        in_channels: I, at least 1.
        out_channels: C, at least 1.
        w_dim: Dw, size of the latent w (B, Dw) that scales the input.
        conv_clamp: bound of the absolute value of the output, above 0; None for none.

    Example:
        >>> ToRGB(4, 3, w_dim=5)(torch.randn(2, 4, 8, 8), torch.randn(2, 5)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) * self.weight_gain
        x = F.conv2d(x * style[:, :, None, None].to(x.dtype), self.weight.to(x.dtype), self.bias.to(x.dtype))
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


class Skip(nn.Module):
    """The residual path of the resnet architecture: a 1x1 convolution and filtered upsampling.

    Features (B, I, H, W) become (B, O, 2H, 2W). The learning rate of the convolution is equalised.

    Args:
        in_channels: I, at least 1.
        out_channels: O, at least 1.
        resample_filter: four taps of the low-pass filter (see `fir_filter`).

    Example:
        >>> Skip(4, 2)(torch.randn(1, 4, 8, 8), gain=1.0).shape
        torch.Size([1, 2, 16, 16])
    """

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, resample_filter: Sequence[float] = TAPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.register_buffer("resample_filter", fir_filter(resample_filter))

    def forward(self, x: Tensor, gain: float) -> Tensor:
        x = F.conv2d(x, (self.weight * self.weight_gain).to(x.dtype))
        return upsample(x, self.resample_filter) * gain
