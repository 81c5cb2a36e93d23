"""Layers of the face networks: TensorFlow's padding, separable convolutions, and dlib's residual blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Mean red, green and blue of faces, of 255, that dlib's networks and face-api's subtract.
FACE_MEAN = (122.782, 117.001, 104.298)


def same_padding(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Return feature maps with TensorFlow's padding "same", of which the larger half is at the right and at the bottom.

    Args:
        x: feature maps (B, C, H, W).
        kernel: side of the kernel.
        stride: its stride.
        value: value of the padding.

    Returns:
        Feature maps for which a convolution without padding gives ⌈H / stride⌉ rows and ⌈W / stride⌉ columns.

    Example:
        >>> same_padding(torch.ones(1, 1, 1, 2), kernel=3, stride=2).tolist()
        [[[[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]
    """
    rows, columns = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), value=value)


def minus_face_mean(pixels: Tensor, scale: float) -> Tensor:
    """Return the inputs of a network that subtracts the mean face colour.

    Args:
        pixels: pictures (B, 3, H, W) from 0 to 255.
        scale: divisor of the differences.

    Example:
        >>> minus_face_mean(torch.full((1, 3, 1, 1), 255.0), scale=1.0).flatten().round(decimals=3)
        tensor([132.2180, 137.9990, 150.7020])
    """
    return (pixels - pixels.new_tensor(FACE_MEAN)[:, None, None]) / scale


def face_pixels(images: Tensor, side: int, scale: float) -> Tensor:
    """Return the inputs of a network that subtracts the mean face colour.

    Args:
        images: pictures (B, 3, H, W) in [-1, 1].
        side: side in pixels that they are resized to (bilinear, not antialiased).
        scale: divisor of the differences.

    Returns:
        Inputs (B, 3, side, side).

    Example:
        >>> tuple(face_pixels(torch.ones(1, 3, 4, 4), side=2, scale=255.0).shape)
        (1, 3, 2, 2)
    """
    pixels = (images.float() + 1) * 127.5
    return minus_face_mean(F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False), scale)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's padding "same".

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        kernel: side of the kernel.
        stride: its stride.
        bias: whether it has a bias.

    Example:
        >>> tuple(SameConv(3, 4, kernel=3, stride=2)(torch.zeros(1, 3, 5, 4)).shape)
        (1, 4, 3, 2)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(same_padding(x, self.kernel_size[0], self.stride[0]))


class SeparableConv(nn.Module):
    """3x3 convolution of each channel, then 1x1 convolution over the channels, with TensorFlow's padding "same".

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        stride: stride of the first convolution.
        bias: whether the second has a bias.

    Example:
        >>> tuple(SeparableConv(3, 4, stride=2)(torch.zeros(1, 3, 5, 4)).shape)
        (1, 4, 3, 2)
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pointwise(self.depthwise(same_padding(x, 3, self.depthwise.stride[0])))
        return result


class AffineConv(nn.Conv2d):
    """Convolution, then a factor and an offset for each channel, as in dlib's networks without batch statistics.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        kernel: side of the kernel.
        stride: its stride.
        padding: zeros at each edge; None for half of the kernel at stride 1, and for none at another.

    Example:
        >>> tuple(AffineConv(3, 4, kernel=3, stride=2)(torch.zeros(1, 3, 5, 5)).shape)
        (1, 4, 2, 2)
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, padding: int | None = None
    ) -> None:
        inside = (kernel // 2 if stride == 1 else 0) if padding is None else padding
        super().__init__(in_channels, out_channels, kernel, stride, inside)
        self.scale, self.offset = nn.Parameter(torch.ones(out_channels)), nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale[:, None, None] + self.offset[:, None, None]


class DlibBlock(nn.Module):
    """dlib's residual block: where it halves the side, rows, columns and channels that are missing are zeros.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs, at least `in_channels`.
        stride: 1, or 2 for half the side.

    References:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.

    Example:
        >>> tuple(DlibBlock(2, 4, stride=2)(torch.zeros(1, 2, 8, 8)).shape)
        (1, 4, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = AffineConv(in_channels, out_channels, stride=stride)
        self.conv2 = AffineConv(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.stride > 1:
            x = F.avg_pool2d(x, 2)
        rows, columns = max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3])
        x, y = (
            F.pad(part, (0, columns - part.shape[3], 0, rows - part.shape[2], 0, y.shape[1] - part.shape[1]))
            for part in (x, y)
        )
        return F.relu(x + y)
