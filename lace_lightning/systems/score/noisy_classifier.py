"""A classifier of pictures at any noise level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...classifiers.published import CIFAR10_MEAN, CIFAR10_STD
from ...errors import LaceError
from ...schema import Schema
from .network import Fourier

EMBEDDING = 128


class NoisyBlock(nn.Module):
    """Pre-activation block that adds the noise level between its convolutions; the way around is pooled and filled with
    zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = _norm(in_channels), _norm(out_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.level = nn.Linear(4 * EMBEDDING, out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.stride, self.more = stride, out_channels - in_channels

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.relu(self.norm0(x)))
        h = h + self.level(F.silu(embedding))[:, :, None, None]
        h = self.conv1(F.relu(self.norm1(h)))
        around = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return F.pad(around, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)) + h


class NoisyClassifier(nn.Module):
    """Pictures in [0, 1] (B, C, R, R) plus normals times σ (B,) -> logits (B, num_logits).

    Wide residual network (depth 6n + 4, `widen` times 16, 32, 64 channels) with group normalisation and Fourier
    features of log σ, as the classifier of the published conditional sampling, WRN-28-10. Channels are normalised by
    `mean` and `std`, then every picture by its own mean and deviation, so that the noise never overflows.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_logits: int = 10,
        channels: int = 3,
        depth: int = 10,
        widen: int = 2,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or widen < 1 or not len(mean) == len(std) == channels:
            raise LaceError(
                f"A noisy classifier needs a depth of 6n + 4 from 10, widen from 1 and a mean and a deviation for each "
                f"of "
                f"{channels} channels, received depth={depth}, widen={widen}, {len(mean)} means and {len(std)} "
                f"deviations."
            )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.embed = nn.Sequential(
            Fourier(EMBEDDING),
            nn.Linear(2 * EMBEDDING, 4 * EMBEDDING),
            nn.SiLU(),
            nn.Linear(4 * EMBEDDING, 4 * EMBEDDING),
        )
        self.stem = nn.Conv2d(channels, 16, 3, padding=1)
        blocks, width = [], 16
        for stage, wide in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for index in range((depth - 4) // 6):
                blocks.append(NoisyBlock(width, wide, 2 if stage and not index else 1))
                width = wide
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), _norm(width), nn.Linear(width, num_logits)

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        x = ((images - self.mean) / self.std).flatten(1)
        spread = x.std(1, correction=0, keepdim=True).clamp(min=x.shape[1] ** -0.5)
        h = self.stem(((x - x.mean(1, keepdim=True)) / spread).reshape(images.shape))
        embedding = self.embed(sigma.log())
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(F.relu(self.norm(h)).mean((2, 3)))


def label_log_p(schema: Schema, output: Tensor, values: Tensor, known: Tensor, sigma: float) -> Tensor:
    """Return log p(c_k|x) (B, K), 0 where an attribute is not known (B, K).

    `output` (B, L + V) has the schema's L logits and, for its V continuous attributes, log v: those are N(f, σ² + v),
    up to a constant.
    """
    columns, spread = [], schema.num_logits
    # Whatever stands where nothing is known.
    values = torch.where(known, values, 0.0)
    for index, attribute in enumerate(schema):
        logits = output[:, schema.slices[attribute.name]]
        if attribute.kind == "discrete":
            columns.append(-F.cross_entropy(logits, values[:, index].long(), reduction="none"))
        else:
            variance = sigma**2 + output[:, spread].exp()
            spread += 1
            columns.append(-(values[:, index] - logits[:, 0]).square() / (2 * variance) - variance.log() / 2)
    return torch.where(known, torch.stack(columns, dim=1), 0.0)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels)
