"""EfficientNet-Lite0, whose 1280 features of ImageNet are those of a Fréchet distance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import same_padding

# Of each stage: expansion, side of the kernel, stride of the first block, channels, number of blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
SIDE, FEATURES = 224, 1280


class Unit(nn.Module):
    """Convolution with TensorFlow's padding "same", batch normalisation, and min(max(x, 0), 6) where it is activated.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        kernel: side of the kernel.
        stride: its stride.
        groups: groups of the convolution.
        activated: whether the outputs are activated.

    Example:
        >>> tuple(Unit(3, 4, kernel=3, stride=2)(torch.zeros(1, 3, 8, 8)).shape)
        (1, 4, 4, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activated: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
        self.norm, self.activated = nn.BatchNorm2d(out_channels, eps=1e-3), activated

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(same_padding(x, self.conv.kernel_size[0], self.conv.stride[0])))
        return F.relu6(y) if self.activated else y


class InvertedResidual(nn.Module):
    """Wide 1x1 convolution, convolution of each channel, narrow 1x1 convolution, added to the inputs of equal shape.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        expansion: factor of the channels inside; with 1 there is no first convolution.
        kernel: side of the kernel.
        stride: its stride.

    Example:
        >>> tuple(InvertedResidual(4, 4, expansion=2, kernel=3, stride=1)(torch.zeros(1, 4, 8, 8)).shape)
        (1, 4, 8, 8)
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inside = in_channels * expansion
        self.expand = Unit(in_channels, inside) if expansion > 1 else nn.Identity()
        self.depthwise = Unit(inside, inside, kernel, stride, groups=inside)
        self.project = Unit(inside, out_channels, activated=False)
        self.added = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.added else y


class EfficientNetLite0(nn.Module):
    """Features (B, 1280) of pictures (B, 3, H, W) in [-1, 1], which are resized to 224 (bicubic, antialiased).

    References:
        Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; Lite0 leaves
        out squeeze-and-excitation and has ReLU6.

    Example:
        >>> tuple(EfficientNetLite0()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 1280)
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, channels, blocks = Unit(3, 32, 3, 2), 32, []
        for expansion, kernel, stride, width, count in STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(channels, width, expansion, kernel, 1 if index else stride))
                channels = width
        self.blocks, self.head = nn.Sequential(*blocks), Unit(channels, FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (SIDE, SIDE):
            images = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
        # As the weights, which are fast on a processor in this format.
        images = images.contiguous(memory_format=torch.channels_last)
        result: Tensor = self.head(self.blocks(self.stem(images))).mean((2, 3))
        return result
