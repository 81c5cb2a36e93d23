"""The network of JEM: a wide residual network without normalisation, which chains could not live with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import LaceError

SLOPE = 0.2


class Block(nn.Module):
    """Pre-activation block, strided in its second convolution.

    The shortcut takes what came in before the activation.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, 1)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Sequential() if same else nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(x, SLOPE))
        return self.conv2(F.leaky_relu(y, SLOPE)) + self.shortcut(x)


class Body(nn.Module):
    """Pictures (B, 3, H, W) -> features (B, F)."""

    def __init__(self, depth: int, widen: int, num_logits: int, published: bool) -> None:
        super().__init__()
        blocks, channels = (depth - 4) // 6, 16
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        stages = []
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            layers = []
            for block in range(blocks):
                layers.append(Block(channels, width, 2 if stage and not block else 1))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3 = stages
        self.num_features = channels
        if published:
            # Published files hold this layer, and nothing uses it.
            self.linear = nn.Linear(channels, num_logits).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.leaky_relu(y, SLOPE).to(x.dtype).mean((2, 3))


class JEMNetwork(nn.Module):
    """Pictures (B, 3, H, W) -> logits (B, num_logits), with `energy_head` and a last column -E(x) (B, num_logits + 1).

    WideResNet of `depth` 6n + 4, 16·`widen` channels at full size; no normalisation, leaky ReLU, biases everywhere.
    With `bf16` convolutions run in bfloat16, channels last, and what follows them in the format of x. With `published`
    the parameters are those, by name and number, of the file that belongs to JEM's paper (depth 28, widen 10:
    36,478,389), with two layers that may go unused. Raises LaceError for a depth that has no blocks.
    """

    def __init__(
        self,
        num_logits: int,
        depth: int = 28,
        widen: int = 10,
        energy_head: bool = False,
        published: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise LaceError(
                f"The depth of JEM's network must be 6n + 4 and its width a factor from 1, received {depth} and "
                f"{widen}: "
                "take 10, 16 or 28."
            )
        self.f = Body(depth, widen, num_logits, published)
        self.energy_head, self.bf16 = energy_head, bf16
        if bf16:
            self.f.to(memory_format=torch.channels_last)
        if energy_head or published:
            self.energy_output = nn.Linear(self.f.num_features, 1).requires_grad_(energy_head)
        self.class_output = nn.Linear(self.f.num_features, num_logits)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.f(x.contiguous(memory_format=torch.channels_last) if self.bf16 else x)
        logits = self.class_output(features)
        return torch.cat([logits, self.energy_output(features)], 1) if self.energy_head else logits
