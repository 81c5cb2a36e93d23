"""The network of JEM: a wide residual network without normalisation, whose outputs do not depend on the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import LaceError
from ...numerics.convolutions import patch_convolution

SLOPE = 0.2


class Block(nn.Module):
    """Pre-activation residual block, strided in its second convolution.

    The shortcut uses the input before the activation.

    Args:
        in_channels: channels of the input, at least 1.
        out_channels: channels of the output, at least 1.
        stride: stride of the second convolution in pixels, 1 or 2.

    References:
        Wide residual networks (arXiv 1605.07146).

    Example:
        >>> Block(4, 8, stride=2)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, 1)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Sequential() if same else nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of x (B, C, H, W)."""
        y = self.conv1(F.leaky_relu(x, SLOPE))
        result: Tensor = self.conv2(F.leaky_relu(y, SLOPE)) + self.shortcut(x)
        return result


class Body(nn.Module):
    """Convolutional part of the network: pictures (B, C, H, W) -> features (B, 64·widen).

    Args:
        depth: 6n + 4 layers, n at least 1; (depth - 4)/6 blocks in each of three stages.
        widen: factor of the widths 16, 32 and 64, at least 1.
        num_logits: number of logits of the unused layer of published files.
        published: add that layer.
        channels: channels C of a picture, at least 1.
        patch: stride of the first convolution in pixels, see `patch_convolution`.

    Example:
        >>> Body(10, 1, num_logits=2, published=False)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 64])
    """

    def __init__(
        self, depth: int, widen: int, num_logits: int, published: bool, channels: int = 3, patch: int = 1
    ) -> None:
        super().__init__()
        blocks, held = (depth - 4) // 6, 16
        self.conv1 = patch_convolution(channels, held, patch)
        stages = []
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            layers = []
            for block in range(blocks):
                layers.append(Block(held, width, 2 if stage and not block else 1))
                held = width
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3 = stages
        self.num_features = held
        if published:
            # Published files hold this layer, which is not used.
            self.linear = nn.Linear(held, num_logits).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, 64·widen) of pictures (B, C, H, W)."""
        y = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.leaky_relu(y, SLOPE).to(x.dtype).mean((2, 3))


class JEMNetwork(nn.Module):
    """Wide residual network from pictures (B, C, H, W) in [-1, 1] to logits (B, num_logits), without normalisation.

    Activations are leaky ReLUs with slope 0.2, and all convolutions have biases.

    Args:
        num_logits: number of logits, at least 1.
        depth: number of layers, 6n + 4 with n at least 1: 10, 16, 22, 28, ...
        widen: factor of the widths 16, 32 and 64, at least 1.
        energy_head: add a last column -E(x), so that outputs are (B, num_logits + 1).
        published: have the parameters of the published file, by name and number (36,478,389 for depth 28 and widen 10
            with 10 logits). It contains two layers that may be unused.
        bf16: compute convolutions in bfloat16, and the linear layers in the type of the input.
        channels: channels C of a picture, at least 1.
        patch: stride p of the first convolution in pixels, 1 or even; 1 is published. A larger p takes about 1/p² of
            the time.

    Raises:
        LaceError: for another depth or patch, and for `widen` below 1.

    References:
        JEM (arXiv 1912.03263); wide residual networks (arXiv 1605.07146).

    Example:
        >>> JEMNetwork(num_logits=2, depth=10, widen=1, energy_head=True)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        num_logits: int,
        depth: int = 28,
        widen: int = 10,
        energy_head: bool = False,
        published: bool = False,
        bf16: bool = False,
        channels: int = 3,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise LaceError(
                "JEM's network requires a depth of 6n + 4, n at least 1, and widen of at least 1, received "
                f"depth={depth} and widen={widen}: use a depth of 10, 16 or 28."
            )
        self.f = Body(depth, widen, num_logits, published, channels, patch)
        self.energy_head, self.bf16 = energy_head, bf16
        if bf16:
            self.f.to(memory_format=torch.channels_last)
        if energy_head or published:
            self.energy_output = nn.Linear(self.f.num_features, 1).requires_grad_(energy_head)
        self.class_output = nn.Linear(self.f.num_features, num_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_logits), or (B, num_logits + 1) with `energy_head`."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.f(x.contiguous(memory_format=torch.channels_last) if self.bf16 else x)
        logits = self.class_output(features)
        return torch.cat([logits, self.energy_output(features)], 1) if self.energy_head else logits
