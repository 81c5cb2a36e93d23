"""Expression network of fer: a small Xception on grey pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import SameConv, SeparableConv, same_padding

FER_EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# Shares of red, green and blue in grey (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)
SIDE = 64


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class XceptionBlock(nn.Module):
    """Two separable convolutions and max pooling beside a 1x1 convolution, all with batch normalisation; half the side.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.

    Example:
        >>> tuple(XceptionBlock(3, 4)(torch.zeros(1, 3, 8, 8)).shape)
        (1, 4, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(SameConv(in_channels, out_channels, 1, 2, bias=False), _norm(out_channels))
        self.conv1, self.norm1 = SeparableConv(in_channels, out_channels, bias=False), _norm(out_channels)
        self.conv2, self.norm2 = SeparableConv(out_channels, out_channels, bias=False), _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        result: Tensor = F.max_pool2d(same_padding(y, 3, 2, -torch.inf), 3, 2) + self.shortcut(x)
        return result


class FerNetwork(nn.Module):
    """Logits (B, 7) of the expressions `FER_EXPRESSIONS` of faces (B, 3, H, W) in [-1, 1].

    References:
        Arriaga, Valdenegro-Toro and Plöger, "Real-time Convolutional Neural Networks for Emotion and Gender
        Classification", 2017 (arXiv 1710.07557).

    Example:
        >>> tuple(FerNetwork()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 7)
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, bias=False), _norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, bias=False), _norm(8)
        self.blocks = nn.Sequential(*(XceptionBlock(max(8, width // 2), width) for width in (16, 32, 64, 128)))
        self.conv3 = SameConv(128, len(FER_EXPRESSIONS), 3)

    def forward(self, images: Tensor) -> Tensor:
        grey = (images.float() * images.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
        if grey.shape[-2:] != (SIDE, SIDE):
            grey = F.interpolate(grey, (SIDE, SIDE), mode="bilinear", align_corners=False)
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(grey))))))
        result: Tensor = self.conv3(self.blocks(x)).mean((2, 3))
        return result
