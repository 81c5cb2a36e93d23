"""The layers of StyleGAN2: equalised linear maps and modulated convolutions without grouped kernels.

Parameter names and numerical results are those of StyleGAN2-ADA ("Training GANs with limited data", NeurIPS 2020), so that
its state dicts load here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQRT_2 = math.sqrt(2.0)


def fir_filter() -> Tensor:
    """Return the 4x4 low-pass filter, the outer product of [1, 3, 3, 1] normalised to sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def upsample(images: Tensor, taps: Tensor) -> Tensor:
    """Upsample images (B, C, H, W) to (B, C, 2H, 2W): zero insertion, then the filter with gain 4."""
    channels = images.shape[1]
    kernel = (taps * 4).to(images.dtype).expand(channels, 1, 4, 4)
    return F.conv_transpose2d(images, kernel, stride=2, padding=1, groups=channels)


def upsampling_kernel(weight: Tensor, taps: Tensor) -> Tensor:
    """Fold zero insertion, 3x3 true convolution and low-pass filter into one 3x3 kernel with four output phases.

    `weight` is (O, I, 3, 3); the result is (4O, I, 3, 3), to be followed by a pixel shuffle. Every output pixel of the
    combined 6x6 kernel on a zero-inserted picture touches only 3x3 input pixels, which ones depends on its parity.
    """
    out_channels, in_channels = weight.shape[:2]
    kernel = F.conv2d(weight.reshape(-1, 1, 3, 3), (taps * 4)[None, None].to(weight.dtype), padding=3)
    kernel = kernel.flip((-2, -1)).reshape(out_channels, in_channels, 3, 2, 3, 2).flip((3, 5))
    return kernel.permute(0, 3, 5, 1, 2, 4).reshape(4 * out_channels, in_channels, 3, 3)


class FullyConnected(nn.Module):
    """Linear map with equalised learning rate, (B, I) -> (B, O), optionally followed by sqrt(2)·leaky-ReLU(0.2)."""

    def __init__(self, in_features: int, out_features: int, activation: str = "linear", lr_multiplier: float = 1.0,
                 bias_init: float = 0.0) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(y, 0.2) * SQRT_2 if self.activation == "lrelu" else y


def modulated_convolution(x: Tensor, weight: Tensor, style: Tensor, taps: Tensor, up: bool = False,
                          demodulate: bool = True, gain: float = 1.0) -> Tensor:
    """Convolve x (B, I, H, W) with `weight` (O, I, k, k) scaled per sample by `style` (B, I).

    y_o = gain · d_o · (w_o * (s ⊙ x)),  d_o = (Σ_{i,k} (w_oik s_i)² + 1e-8)^(-1/2). The sample's scale moves from the
    kernel to the input and the demodulation to the output, so that one kernel serves the whole batch (no grouped convolution).
    """
    dtype = x.dtype
    kernel = upsampling_kernel(weight, taps) if up else weight
    y = F.conv2d(x * style[:, :, None, None].to(dtype), kernel.to(dtype, memory_format=torch.channels_last),
                 padding=weight.shape[-1] // 2)
    if up:
        y = F.pixel_shuffle(y, 2)
    if demodulate:
        scale = torch.rsqrt(style.float().square() @ weight.float().square().sum((2, 3)).T + 1e-8) * gain
        y = y * scale[:, :, None, None].to(dtype)
    return y


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, sqrt(2)·leaky-ReLU(0.2), clamp: (B, I, H, W) -> (B, O, R, R)."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, up: bool = False,
                 conv_clamp: float | None = None) -> None:
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("resample_filter", fir_filter())
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, gain: float = 1.0) -> Tensor:
        # leaky-ReLU is positively homogeneous: the gain goes to its (small) factors instead of to the whole feature map.
        gain = gain * SQRT_2
        x = modulated_convolution(x, self.weight, self.affine(w), self.resample_filter, up=self.up, gain=gain)
        offset = (self.bias * gain)[:, None, None]
        if noise_mode == "const":
            offset = offset + self.noise_const * self.noise_strength * gain
        elif noise_mode == "random":
            noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=x.dtype)
            x = x + noise * (self.noise_strength * gain).to(x.dtype)
        x = F.leaky_relu(x + offset.to(x.dtype), 0.2)
        limit = None if self.conv_clamp is None else self.conv_clamp * gain / SQRT_2
        return x if limit is None else x.clamp(-limit, limit)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) * self.weight_gain
        x = modulated_convolution(x, self.weight, style, torch.empty(0), demodulate=False)
        x = x + self.bias.to(x.dtype)[:, None, None]
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


class Skip(nn.Module):
    """The residual path of the resnet architecture: equalised 1x1 convolution, then filtered upsampling."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.register_buffer("resample_filter", fir_filter())

    def forward(self, x: Tensor, gain: float) -> Tensor:
        x = F.conv2d(x, (self.weight * self.weight_gain).to(x.dtype))
        return upsample(x, self.resample_filter) * gain
