"""Classifier of pictures at any noise level, for guidance of score models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...classifiers.published import CIFAR10_MEAN, CIFAR10_STD
from ...errors import LaceError
from ...numerics.convolutions import patch_convolution
from ...schema import Schema
from .network import Fourier

EMBEDDING = 128


class NoisyBlock(nn.Module):
    """Pre-activation residual block that adds the noise level between its two convolutions.

    The skip connection is average-pooled and padded with zero channels.

    Args:
        in_channels: channels of the input, a multiple of 4.
        out_channels: channels of the output, a multiple of 4, at least `in_channels`.
        stride: factor by which height and width shrink, at least 1.

    Example:
        >>> import torch
        >>> NoisyBlock(8, 16, stride=2)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 4 * EMBEDDING)).shape
        torch.Size([1, 16, 2, 2])
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
        result: Tensor = F.pad(around, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)) + h
        return result


class NoisyClassifier(nn.Module):
    """Wide residual network for pictures in [0, 1] (B, C, R, R) plus noise of σ (B,), with logits (B, num_logits).

    It has 16, 32 and 64 channels times `widen`, group normalisation and Fourier features of log σ, as the published
    classifier (WRN-28-10) does. Channels are normalised by `mean` and `std`. Then every picture is normalised by its
    own mean and standard deviation, so that strong noise does not overflow. R is a multiple of 4·`patch`; σ is above 0.

    Args:
        num_logits: number of outputs, at least 1.
        channels: channels C of a picture.
        depth: number of layers, 6n + 4 for n from 1.
        widen: factor of the channels, at least 1.
        mean: mean of each of the C channels in [0, 1].
        std: standard deviation of each of the C channels, above 0.
        patch: stride p of the first convolution in pixels, 1 or even, which sees 2p by 2p pixels; 1 is published, with
            3 by 3 pixels. A larger p takes about 1/p² of the time.

    Raises:
        LaceError: for another depth, width or patch, or a mean and a deviation that are not one for each channel.

    References:
        Song et al., ICLR 2021, appendix I.

    Example:
        >>> import torch
        >>> NoisyClassifier(num_logits=2, widen=1)(torch.rand(3, 3, 8, 8), torch.ones(3)).shape
        torch.Size([3, 2])
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
        patch: int = 1,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or widen < 1 or not len(mean) == len(std) == channels:
            raise LaceError(
                f"A noisy classifier needs a depth of 6n + 4 from 10, widen from 1 and a mean and a deviation for each "
                f"of {channels} channels, received depth={depth}, widen={widen}, {len(mean)} means and {len(std)} "
                "deviations: correct them; 28 and 10 are published."
            )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.embed = nn.Sequential(
            Fourier(EMBEDDING),
            nn.Linear(2 * EMBEDDING, 4 * EMBEDDING),
            nn.SiLU(),
            nn.Linear(4 * EMBEDDING, 4 * EMBEDDING),
        )
        self.stem = patch_convolution(channels, 16, patch)
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
        result: Tensor = self.head(F.relu(self.norm(h)).mean((2, 3)))
        return result


def label_log_p(schema: Schema, output: Tensor, values: Tensor, known: Tensor, sigma: float) -> Tensor:
    """Return log p(c_k|x) (B, K) of each attribute up to a constant, 0 where an attribute is not known.

    A discrete attribute has a softmax, a continuous one the density N(f, σ² + v) with a variance v of its own.

    Args:
        schema: the K attributes.
        output: output (B, L + V) of the network: the schema's L logits, then log v for each of its V continuous
            attributes.
        values: labels (B, K), classes from 0 or values in [0, 1]; any number where they are not known.
        known: which labels are known, bool (B, K).
        sigma: σ, above 0.

    References:
        Eq. 4 of LACE (arXiv 2110.10873) for the terms without v.
    """
    columns, spread = [], schema.num_logits
    # Labels that are not known may hold any number, NaN included.
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
