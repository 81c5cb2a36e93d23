"""Residual discriminator for small pictures, used only to train generators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators.stylegan2_layers import SQRT_2, FullyConnected


class EqualConv(nn.Module):
    """Convolution with equalised learning rate and optional √2·leaky-ReLU(0.2), in the dtype of its input.

    With the activation there is a bias, and the size of a picture stays. Without it there is neither bias nor padding.

    Args:
        in_channels: channels of the input, at least 1.
        out_channels: channels of the output, at least 1.
        kernel: side of the filters in pixels, odd.
        activate: add a bias and apply the activation.

    References:
        Section 4.1 of progressive growing of GANs (arXiv 1710.10196).

    Example:
        >>> EqualConv(3, 4, 3)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, activate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if activate else None
        # The gain of the activation is folded into weight and bias (leaky-ReLU is positively homogeneous).
        self.gain = (SQRT_2 if activate else 1) / math.sqrt(in_channels * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution (B, O, H, W) of x (B, I, H, W)."""
        weight = (self.weight * self.gain).to(x.dtype, memory_format=torch.channels_last)
        if self.bias is None:
            return F.conv2d(x, weight)
        bias = (self.bias * SQRT_2).to(x.dtype)
        return F.leaky_relu(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2), 0.2)


class ResidualDown(nn.Module):
    """Two 3x3 convolutions and a 2x2 mean, beside a pooled 1x1 shortcut: (B, I, H, W) -> (B, O, H/2, W/2).

    Args:
        in_channels: channels I of the input, at least 1.
        out_channels: channels O of the output, at least 1.

    References:
        The residual discriminator of StyleGAN2 (arXiv 1912.04958), figure 7.

    Example:
        >>> ResidualDown(3, 4)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = EqualConv(in_channels, in_channels, 3)
        self.conv1 = EqualConv(in_channels, out_channels, 3)
        self.skip = EqualConv(in_channels, out_channels, 1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, O, H/2, W/2) of x (B, I, H, W)."""
        main = F.avg_pool2d(self.conv1(self.conv0(x)), 2)
        result: Tensor = (main + self.skip(F.avg_pool2d(x, 2))) * math.sqrt(0.5)
        return result


class Discriminator(nn.Module):
    """Residual network from pictures (B, C, R, R) in [-1, 1] to realness logits (B,).

    Args:
        channels: widths at the resolutions R, R/2, ... 4, one each; their number n decides R = 4·2^(n - 1) pixels.
        img_channels: channels C of the pictures, at least 1.
        group_size: the largest number of samples in a group of the minibatch deviation, at least 1. Groups have the
            greatest common divisor of this number and of B.

    References:
        StyleGAN2 (arXiv 1912.04958); minibatch standard deviation of section 3 of arXiv 1710.10196.

    Example:
        >>> Discriminator(channels=[4, 8])(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2])
    """

    def __init__(
        self, channels: Sequence[int] = (64, 128, 128, 128), img_channels: int = 3, group_size: int = 8
    ) -> None:
        super().__init__()
        self.group_size = group_size
        self.from_rgb = EqualConv(img_channels, channels[0], 1)
        self.blocks = nn.Sequential(*(ResidualDown(i, o) for i, o in pairwise(channels)))
        self.conv = EqualConv(channels[-1] + 1, channels[-1], 3)
        self.fc = FullyConnected(channels[-1] * 16, channels[-1], "lrelu")
        self.out = FullyConnected(channels[-1], 1)

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return logits (B,) float32; the residual blocks compute in `dtype`."""
        x = images.to(dtype, memory_format=torch.channels_last)
        x = self.blocks(self.from_rgb(x)).float()
        x = self.conv(torch.cat([x, self.minibatch_deviation(x)], dim=1))
        result: Tensor = self.out(self.fc(x.flatten(1)))[:, 0]
        return result

    def minibatch_deviation(self, x: Tensor) -> Tensor:
        """Return the mean standard deviation within groups of samples as one more channel (B, 1, H, W)."""
        batch, _, height, width = x.shape
        group = math.gcd(self.group_size, batch)
        y = x.reshape(group, -1, *x.shape[1:])
        deviation = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return deviation.repeat(group)[:, None, None, None].expand(batch, 1, height, width)
