"""The layers of StyleGAN2: equalised linear maps and modulated convolutions without grouped kernels.

Parameter names and numerical results are those of StyleGAN2-ADA ("Training GANs with limited data", NeurIPS 2020), so
that its state dicts load here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..numerics.weight_cache import WeightCache

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


class FullyConnected(nn.Module):
    """Linear map with equalised learning rate, (B, I) -> (B, O), optionally followed by sqrt(2)·leaky-ReLU(0.2)."""

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
    """Upsample x (B, I, H, W) to (B, O, 2H, 2W): zero insertion with a true convolution by `kernel` (I, O, 3, 3), then
    low-pass.

    `fir` (O, 1, 4, 4) is the filter with gain 4. Filtering afterwards costs a quarter of folding the filter into the
    kernel.
    """
    return F.conv2d(F.conv_transpose2d(x, kernel, stride=2), fir, padding=1, groups=len(fir))


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, sqrt(2)·leaky-ReLU(0.2), clamp: (B, I, H, W) -> (B, O, R, R).

    y_o = d_o · (w_o * (s ⊙ x)),  d_o = (Σ_{i,k} (w_oik s_i)² + 1e-8)^(-1/2). The sample's scale s moves from the kernel
    to the input and the demodulation d to the output, so that one kernel serves the whole batch (no grouped
    convolution).
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
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("resample_filter", fir_filter())
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
        """Convolve x and finish it.

        Where x is a strip of a feature map, its features begin at row `first` of theirs.
        """
        # leaky-ReLU is positively homogeneous: the gain goes to its (small) factors instead of to the whole feature
        # map.
        gain = gain * SQRT_2
        style = self.affine(w)
        power = self.kept("power", self.weight, lambda weight: weight.float().square().sum((2, 3)).T.contiguous())
        scale = torch.rsqrt(style.float().square() @ power + 1e-8) * gain
        x = self._convolve(x * style[:, :, None, None].to(x.dtype))
        x = torch.addcmul((self.bias * gain)[:, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))
        if noise_mode != "none":
            noise = (
                self.noise_const[first : first + x.shape[2]]
                if noise_mode == "const"
                else torch.randn(len(x), 1, *x.shape[2:], device=x.device)
            )
            x = x.add_((noise * (self.noise_strength * gain)).to(x.dtype))
        # In place where no graph needs what was there: a pass over memory less.
        x = F.leaky_relu(x, 0.2, inplace=not x.requires_grad)
        if self.conv_clamp is None:
            return x
        limit = self.conv_clamp * gain / SQRT_2
        return x.clamp(-limit, limit) if x.requires_grad else x.clamp_(-limit, limit)


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
        x = F.conv2d(x * style[:, :, None, None].to(x.dtype), self.weight.to(x.dtype), self.bias.to(x.dtype))
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
