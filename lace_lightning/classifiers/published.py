"""Networks with published CIFAR-10 weights, DenseNet-BC and WideResNet, with the parameter names of those files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError
from ..unpickle.state import load_state
from .resnets import ImageNetwork

# Of CIFAR-10's train split in [0, 1]; published weights were trained on pictures that are normalised by them.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def _blocks(depth: int) -> int:
    """Return the number of blocks, of two layers each, of each of three stages; refuse other depths (LaceError)."""
    if depth < 10 or (depth - 4) % 6:
        raise LaceError(f"The depth of these networks must be 6n + 4, received {depth}: take 28, 100 or 190.")
    return (depth - 4) // 6


class Normalized(ImageNetwork):
    """Base class of image networks that normalise pictures x in [-1, 1] themselves: ((x + 1) / 2 - mean) / std.

    A subclass defines `feature_maps` or `features`, its linear head `fc` and `num_features`.

    Args:
        mean: mean of each channel of pictures in [0, 1], by which they are normalised.
        std: standard deviation of each channel of pictures in [0, 1], above 0, by which they are normalised.

    Example:
        >>> Normalized((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).normalize(torch.ones(1, 3, 1, 1)).flatten().tolist()
        [2.0, 2.0, 2.0]
    """

    mean: Tensor
    std: Tensor
    fc: nn.Linear

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None], persistent=False)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The last linear layer, which published files call `fc`."""
        return self.fc

    def normalize(self, images: Tensor) -> Tensor:
        """Return the normalised pictures (B, 3, R, R) of pictures in [-1, 1]."""
        return ((images + 1) / 2 - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        return self.feature_maps(images)[-1].mean((2, 3))


class Bottleneck(nn.Module):
    """Layer of a DenseNet-BC: BN-ReLU-1x1, BN-ReLU-3x3; its outputs are concatenated to its inputs.

    Args:
        in_channels: channels of the inputs.
        growth: channels that are added.

    Example:
        >>> tuple(Bottleneck(6, growth=2)(torch.zeros(2, 6, 4, 4)).shape)
        (2, 8, 4, 4)
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))], dim=1)


class Transition(nn.Module):
    """Transition between stages of a DenseNet-BC: BN-ReLU-1x1 to half the channels, mean pooling to half the side.

    Args:
        in_channels: channels of the inputs, an even number.

    Example:
        >>> tuple(Transition(6)(torch.zeros(2, 6, 4, 4)).shape)
        (2, 3, 2, 2)
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNetBC(Normalized):
    """DenseNet-BC for small pictures, with the parameter names of bearpaw's pytorch-classification.

    Published weights have depth 190 with growth 40, or depth 100 with growth 12.

    Args:
        num_logits: number L of logits, at least 1.
        depth: number of layers, 6n + 4 with n at least 1.
        growth: channels that a layer adds, at least 1.
        mean: mean of each channel of pictures in [0, 1], by which they are normalised.
        std: standard deviation of each channel of pictures in [0, 1], above 0, by which they are normalised.

    Raises:
        LaceError: when the depth is not 6n + 4.

    References:
        Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", CVPR 2017.

    Example:
        >>> network = DenseNetBC(num_logits=3, depth=10, growth=2)
        >>> tuple(network(torch.zeros(2, 3, 32, 32)).shape), network.num_features
        ((2, 3), 4)
    """

    dense1: nn.Module
    dense2: nn.Module
    dense3: nn.Module
    trans1: nn.Module
    trans2: nn.Module

    def __init__(
        self,
        num_logits: int = 10,
        depth: int = 190,
        growth: int = 40,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        super().__init__(mean, std)
        channels, blocks_a_stage = 2 * growth, _blocks(depth)
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for stage in (1, 2, 3):
            blocks = []
            for _ in range(blocks_a_stage):
                blocks.append(Bottleneck(channels, growth))
                channels += growth
            setattr(self, f"dense{stage}", nn.Sequential(*blocks))
            if stage < 3:
                setattr(self, f"trans{stage}", Transition(channels))
                channels //= 2
        self.bn, self.fc, self.num_features = nn.BatchNorm2d(channels), nn.Linear(channels, num_logits), channels

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        fine = self.dense1(self.conv1(self.normalize(images)))
        middle = self.dense2(self.trans1(fine))
        return [fine, middle, F.relu(self.bn(self.dense3(self.trans2(middle))))]


class WideBlock(nn.Module):
    """Pre-activation block; where the number of channels changes, the shortcut is a convolution of the activations.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        stride: stride of the first convolution; above 1 only where the number of channels changes.

    Example:
        >>> tuple(WideBlock(4, 8, stride=2)(torch.zeros(2, 4, 8, 8)).shape)
        (2, 8, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = (
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        )
        self.bn2, self.conv2 = (
            nn.BatchNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.convShortcut = (
            None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        result: Tensor = shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))
        return result


class WideBlocks(nn.Module):
    """Several blocks of one width, under the name `layer`.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        count: number of blocks, at least 1.
        stride: stride of the first block.

    Example:
        >>> tuple(WideBlocks(4, 8, count=2, stride=2)(torch.zeros(2, 4, 8, 8)).shape)
        (2, 8, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, count: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                WideBlock(out_channels if index else in_channels, out_channels, 1 if index else stride)
                for index in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


class WideResNetCIFAR(Normalized):
    """Wide residual network WRN-depth-widen, with the parameter names of xternalz's WideResNet-pytorch.

    Args:
        num_logits: number L of logits, at least 1.
        depth: number of layers, 6n + 4 with n at least 1.
        widen: factor of the widths 16, 32 and 64, at least 1.
        mean: mean of each channel of pictures in [0, 1], by which they are normalised.
        std: standard deviation of each channel of pictures in [0, 1], above 0, by which they are normalised.

    Raises:
        LaceError: when the depth is not 6n + 4.

    References:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016.

    Example:
        >>> network = WideResNetCIFAR(num_logits=3, depth=10, widen=1)
        >>> tuple(network(torch.zeros(2, 3, 32, 32)).shape), network.num_features
        ((2, 3), 64)
    """

    block1: nn.Module
    block2: nn.Module
    block3: nn.Module

    def __init__(
        self,
        num_logits: int = 10,
        depth: int = 28,
        widen: int = 10,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        super().__init__(mean, std)
        self.conv1, channels = nn.Conv2d(3, 16, 3, padding=1, bias=False), 16
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), 1):
            setattr(self, f"block{stage}", WideBlocks(channels, width, _blocks(depth), 1 if stage == 1 else 2))
            channels = width
        self.bn1, self.fc, self.num_features = nn.BatchNorm2d(channels), nn.Linear(channels, num_logits), channels

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        fine = self.block1(self.conv1(self.normalize(images)))
        middle = self.block2(fine)
        return [fine, middle, F.relu(self.bn1(self.block3(middle)))]


def load_published(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the state dict of a file into a network; no code in the file is run.

    Args:
        network: the network.
        path: file of its state dict (.safetensors, .pt, .pth), alone or under state_dict, model or net.

    Raises:
        LaceError: when the file is missing, damaged or of another network.
    """
    load_state(network, path, fix="check depth and width")
