"""Networks of face-api: expression, 68 landmarks, age and gender, and a descriptor of the person."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import AffineConv, DlibBlock, SameConv, SeparableConv, face_pixels, same_padding

EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")


class DenseBlock(nn.Module):
    """Layers of which each is given the sum of all before it; the output is the sum of all.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        layers: number of layers.
        first: whether it is the first of the network, which begins with a full convolution.

    Example:
        >>> tuple(DenseBlock(3, 4, layers=3)(torch.zeros(1, 3, 8, 8)).shape)
        (1, 4, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, layers: int, first: bool = False) -> None:
        super().__init__()
        self.conv0 = SameConv(in_channels, out_channels, 3, 2) if first else SeparableConv(in_channels, out_channels, 2)
        for index in range(1, layers):
            setattr(self, f"conv{index}", SeparableConv(out_channels, out_channels))
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        total = F.relu(self.conv0(x))
        for index in range(1, self.layers):
            total = total + getattr(self, f"conv{index}")(total if index == 1 else F.relu(total))
        result: Tensor = F.relu(total)
        return result


class DenseNetwork(nn.Module):
    """Dense blocks of doubling width from 32 on, mean over the picture, and a linear layer.

    Args:
        outputs: number of outputs.
        blocks: number of blocks.
        layers: layers of each block.

    Example:
        >>> tuple(DenseNetwork(outputs=5, blocks=2, layers=3)(torch.zeros(1, 3, 64, 64)).shape)
        (1, 5)
    """

    def __init__(self, outputs: int, blocks: int = 4, layers: int = 4) -> None:
        super().__init__()
        widths = [3, *(32 * 2**index for index in range(blocks))]
        for index in range(blocks):
            setattr(self, f"dense{index}", DenseBlock(widths[index], widths[index + 1], layers, first=index == 0))
        self.blocks, self.fc = blocks, nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = face_pixels(images, 112, 255.0)
        for index in range(self.blocks):
            x = getattr(self, f"dense{index}")(x)
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


class ExpressionNetwork(DenseNetwork):
    """Logits (B, 7) of the expressions `EXPRESSIONS` of faces (B, 3, H, W) in [-1, 1].

    Example:
        >>> tuple(ExpressionNetwork()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 7)
    """

    def __init__(self) -> None:
        super().__init__(len(EXPRESSIONS))


class LandmarkNetwork(DenseNetwork):
    """68 landmarks (B, 68, 2), x and y as shares of width and height, of faces (B, 3, H, W) in [-1, 1].

    The order is that of the data set 300-W: jaw 0 to 16, brows to 26, nose to 35, eyes to 47, lips to 67.

    Args:
        blocks: number of dense blocks.
        layers: layers of each block.

    Example:
        >>> tuple(LandmarkNetwork()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 68, 2)
    """

    def __init__(self, blocks: int = 4, layers: int = 4) -> None:
        super().__init__(136, blocks, layers)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = super().forward(images).unflatten(1, (68, 2))
        return result


class TinyLandmarkNetwork(LandmarkNetwork):
    """The smaller of the two landmark networks, with weights of its own.

    Example:
        >>> tuple(TinyLandmarkNetwork()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 68, 2)
    """

    def __init__(self) -> None:
        super().__init__(blocks=3, layers=3)


class ReductionBlock(nn.Module):
    """Two separable convolutions and max pooling beside a 1x1 convolution; half the side.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        activated: whether the inputs are rectified before the separable convolutions.

    Example:
        >>> tuple(ReductionBlock(3, 4)(torch.zeros(1, 3, 8, 8)).shape)
        (1, 4, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, activated: bool = True) -> None:
        super().__init__()
        self.activated = activated
        self.separable_conv0 = SeparableConv(in_channels, out_channels)
        self.separable_conv1 = SeparableConv(out_channels, out_channels)
        self.expansion_conv = SameConv(in_channels, out_channels, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.separable_conv0(F.relu(x) if self.activated else x)
        y = self.separable_conv1(F.relu(y))
        result: Tensor = F.max_pool2d(same_padding(y, 3, 2, -torch.inf), 3, 2) + self.expansion_conv(x)
        return result


class MainBlock(nn.Module):
    """Three rectified separable convolutions, added to their inputs.

    Args:
        channels: channels of inputs and outputs.

    Example:
        >>> tuple(MainBlock(3)(torch.zeros(1, 3, 8, 8)).shape)
        (1, 3, 8, 8)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for index in range(3):
            setattr(self, f"separable_conv{index}", SeparableConv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index in range(3):
            y = getattr(self, f"separable_conv{index}")(F.relu(y))
        return x + y


class AgeGenderNetwork(nn.Module):
    """Age in years (B,) and logits (B, 2) of male and female of faces (B, 3, H, W) in [-1, 1]: a small Xception.

    References:
        Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.

    Example:
        >>> age, gender = AgeGenderNetwork()(torch.zeros(1, 3, 64, 64))
        >>> tuple(age.shape), tuple(gender.shape)
        ((1,), (1, 2))
    """

    def __init__(self) -> None:
        super().__init__()
        self.entry_flow, self.middle_flow, self.exit_flow = (nn.ModuleDict() for _ in range(3))
        self.entry_flow["conv_in"] = SameConv(3, 32, 3, 2)
        self.entry_flow["reduction_block_0"] = ReductionBlock(32, 64, activated=False)
        self.entry_flow["reduction_block_1"] = ReductionBlock(64, 128)
        self.middle_flow["main_block_0"], self.middle_flow["main_block_1"] = MainBlock(128), MainBlock(128)
        self.exit_flow["reduction_block"] = ReductionBlock(128, 256)
        self.exit_flow["separable_conv"] = SeparableConv(256, 512)
        self.fc = nn.ModuleDict({"age": nn.Linear(512, 1), "gender": nn.Linear(512, 2)})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.entry_flow["conv_in"](face_pixels(images, 112, 255.0)))
        for part in (*list(self.entry_flow.values())[1:], *self.middle_flow.values(), *self.exit_flow.values()):
            x = part(x)
        x = F.relu(x).mean((2, 3))
        return self.fc["age"](x)[:, 0], self.fc["gender"](x)


# Blocks of the descriptor after its first layer: name, channels of the inputs and of the outputs, stride.
DESCRIPTOR_BLOCKS = (
    *((f"conv32_{index}", 32, 32, 1) for index in (1, 2, 3)),
    ("conv64_down", 32, 64, 2),
    *((f"conv64_{index}", 64, 64, 1) for index in (1, 2, 3)),
    ("conv128_down", 64, 128, 2),
    *((f"conv128_{index}", 128, 128, 1) for index in (1, 2)),
    ("conv256_down", 128, 256, 2),
    *((f"conv256_{index}", 256, 256, 1) for index in (1, 2)),
    ("conv256_down_out", 256, 256, 2),
)


class DescriptorNetwork(nn.Module):
    """Descriptors (B, 128), near each other for one person, of faces (B, 3, H, W) in [-1, 1]: dlib's ResNet.

    Two faces of one person are nearer than about 0.6 by the Euclidean distance.

    Example:
        >>> tuple(DescriptorNetwork()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 128)
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv32_down = AffineConv(3, 32, 7, 2)
        for name, inside, outside, stride in DESCRIPTOR_BLOCKS:
            setattr(self, name, DlibBlock(inside, outside, stride))
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv32_down(face_pixels(images, 150, 256.0))), 3, 2)
        for name, *_ in DESCRIPTOR_BLOCKS:
            x = getattr(self, name)(x)
        result: Tensor = self.fc(x.mean((2, 3)))
        return result
