"""Score networks: U-Nets that know the noise level, DDPM++ and NCSN++ of any size."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import LaceError, suggest
from ...unpickle import safe_unpickle

ROOT_HALF = math.sqrt(0.5)
EMBEDDINGS = ("positional", "fourier")
# What ends in a sum begins this close to nothing.
NOTHING = 1e-10


class Fourier(nn.Module):
    """A number (B,) as sines and cosines (B, 2·size) of random frequencies, which stay as they are."""

    frequencies: Tensor

    def __init__(self, size: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(size) * scale)

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * x[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Positional(nn.Module):
    """A number (B,) as sines and cosines (B, size) of frequencies from 1 down to 1e-4."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        half = size // 2
        self.register_buffer(
            "frequencies", torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half)), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        angles = x[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Resample(nn.Module):
    """Twice or half the size: copies and means of pixels, or the filter [1, 3, 3, 1] with zeros around the picture
    (`fir`).
    """

    def __init__(self, up: bool, fir: bool) -> None:
        super().__init__()
        self.up, self.fir = up, fir

    def forward(self, x: Tensor) -> Tensor:
        if not self.fir:
            return F.interpolate(x, scale_factor=2, mode="nearest") if self.up else F.avg_pool2d(x, 2)
        if self.up:
            return F.conv_transpose2d(x, 4 * _taps(x), stride=2, padding=1, groups=x.shape[1])
        return F.conv2d(x, _taps(x), stride=2, padding=1, groups=x.shape[1])


class Pixelwise(nn.Module):
    """Linear map of channels at every pixel, weight (in, out)."""

    def __init__(self, channels: int, scale: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(_fan_average(torch.empty(channels, channels), scale))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.T[:, :, None, None], self.bias)


class Attention(nn.Module):
    """Self-attention of pixels with one head; (x + attended)/√2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query, self.key, self.value = Pixelwise(channels), Pixelwise(channels), Pixelwise(channels)
        self.out = Pixelwise(channels, NOTHING)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        query, key, value = (part(h).flatten(2).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        return (x + self.out(attended)) * ROOT_HALF


class ResidualBlock(nn.Module):
    """Two convolutions with the noise level in between; resampled behind the first activation and on the way around;
    over √2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, embedding: int, dropout: float, resample: Resample | None = None
    ) -> None:
        super().__init__()
        self.norm0, self.conv0 = _norm(in_channels), _conv(in_channels, out_channels)
        self.level = _linear(embedding, out_channels)
        self.norm1, self.dropout, self.conv1 = (
            _norm(out_channels),
            nn.Dropout(dropout),
            _conv(out_channels, out_channels, scale=NOTHING),
        )
        same = in_channels == out_channels and resample is None
        self.skip = None if same else _conv(in_channels, out_channels, 1)
        self.resample = resample

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm0(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = self.conv0(h) + self.level(F.silu(embedding))[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        return ((x if self.skip is None else self.skip(x)) + h) * ROOT_HALF


class Step(nn.Module):
    """A residual block, and attention where there is some."""

    def __init__(self, block: ResidualBlock, attention: Attention | None = None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class FilteredConv(nn.Module):
    """Convolution to half the size behind the filter [1, 3, 3, 1]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        filtered = F.conv2d(x, _taps(x), padding=2, groups=x.shape[1])
        return F.conv2d(filtered, self.conv.weight, self.conv.bias, stride=2)


class Down(nn.Module):
    """The steps of one size on the way down, then half the size,
    joined by the picture itself where there is a pyramid.
    """

    def __init__(self, steps: Sequence[Step], shrink: ResidualBlock | None, pyramid: FilteredConv | None) -> None:
        super().__init__()
        self.steps, self.shrink, self.pyramid = nn.ModuleList(steps), shrink, pyramid

    def forward(self, h: Tensor, picture: Tensor, embedding: Tensor, held: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what goes on and the picture at its size; everything on the way is `held` for the way up."""
        for step in self.steps:
            h = step(h, embedding)
            held.append(h)
        if self.shrink is not None:
            h = self.shrink(h, embedding)
            if self.pyramid is not None:
                h = picture = (self.pyramid(picture) + h) * ROOT_HALF
            held.append(h)
        return h, picture


class Up(nn.Module):
    """The steps of one size on the way up, then twice the size."""

    def __init__(self, steps: Sequence[Step], grow: ResidualBlock | None) -> None:
        super().__init__()
        self.steps, self.grow = nn.ModuleList(steps), grow

    def forward(self, h: Tensor, embedding: Tensor, held: list[Tensor]) -> Tensor:
        for step in self.steps:
            h = step(torch.cat([h, held.pop()], dim=1), embedding)
        return h if self.grow is None else self.grow(h, embedding)


class ScoreNetwork(nn.Module):
    """Pictures x (B, C, R, R) about [-1, 1] and a number for their noise level (B,) -> (B, C, R, R).

    U-Net of BigGAN blocks (Song et al., Score-Based Generative Modeling through SDEs, ICLR 2021): `multipliers` times
    `nf` channels at each size, `blocks` blocks down and one more up, attention where the size is in `attention`. DDPM++
    has a `positional` embedding; NCSN++ a `fourier` embedding, filtered resampling (`fir`) and a residual `pyramid` of
    the input. Parameters are in the order of the published code, and with nf 128, multipliers (1, 2, 2, 2), 4 blocks
    the networks are the published ones.
    """

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        nf: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: Sequence[int] = (16,),
        dropout: float = 0.1,
        embedding: str = "positional",
        fir: bool = False,
        pyramid: bool = False,
    ) -> None:
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise LaceError(
                f"The embeddings of a noise level are {', '.join(EMBEDDINGS)}, received '{embedding}'."
                f"{suggest(embedding, EMBEDDINGS)}"
            )
        if nf < 8 or nf % 4 or resolution % 2 ** (len(multipliers) - 1) or blocks < 1:
            raise LaceError(
                f"A score network needs nf in fours from 8, at least one block and a resolution that can be halved "
                f"{len(multipliers) - 1} times, received nf={nf}, blocks={blocks} and resolution={resolution}."
            )
        self.features = Fourier(nf) if embedding == "fourier" else Positional(nf)
        width = 4 * nf
        self.embed = nn.Sequential(
            _linear(2 * nf if embedding == "fourier" else nf, width), nn.SiLU(), _linear(width, width)
        )

        def block(inside: int, outside: int, resample: Resample | None = None) -> ResidualBlock:
            return ResidualBlock(inside, outside, width, dropout, resample)

        self.stem = _conv(channels, nf)
        held, inside, picture, down = [nf], nf, channels, []
        for level, multiplier in enumerate(multipliers):
            steps, last = [], level == len(multipliers) - 1
            attends = resolution // 2**level in attention
            for _ in range(blocks):
                steps.append(Step(block(inside, nf * multiplier), Attention(nf * multiplier) if attends else None))
                inside = nf * multiplier
                held.append(inside)
            shrink = None if last else block(inside, inside, Resample(False, fir))
            down.append(Down(steps, shrink, FilteredConv(picture, inside) if pyramid and not last else None))
            if not last:
                picture = inside
                held.append(inside)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([Step(block(inside, inside), Attention(inside)), Step(block(inside, inside))])
        up = []
        for level, multiplier in reversed(list(enumerate(multipliers))):
            steps, attends = [], resolution // 2**level in attention
            for index in range(blocks + 1):
                attention_here = Attention(nf * multiplier) if attends and index == blocks else None
                steps.append(Step(block(inside + held.pop(), nf * multiplier), attention_here))
                inside = nf * multiplier
            up.append(Up(steps, block(inside, inside, Resample(True, fir)) if level else None))
        self.up = nn.ModuleList(up)
        self.norm, self.out = _norm(inside), _conv(inside, channels, scale=NOTHING)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        embedding = self.embed(self.features(level))
        picture, h = x, self.stem(x)
        held = [h]
        for down in self.down:
            h, picture = down(h, picture, embedding, held)
        for step in self.middle:
            h = step(h, embedding)
        for up in self.up:
            h = up(h, embedding, held)
        return self.out(F.silu(self.norm(h)))


def load_published(network: ScoreNetwork, path: str | os.PathLike[str]) -> None:
    """Load the moving average in a checkpoint of score_sde_pytorch, a list in the order of the parameters; nothing in
    it is run.

    Raises LaceError for a file that is none, or of another architecture than `network`'s.
    """
    data = safe_unpickle(path)
    average = data.get("ema") if isinstance(data, Mapping) else None
    shadow = average.get("shadow_params") if isinstance(average, Mapping) else None
    model = data.get("model") if isinstance(data, Mapping) else None
    if (
        not isinstance(shadow, list)
        or not all(isinstance(value, Tensor) for value in shadow)
        or not isinstance(model, Mapping)
    ):
        raise LaceError(
            f"The file '{path}' must be a checkpoint of score_sde_pytorch, with model and ema.shadow_params, and is "
            f"not: get "
            "it again, or give a file that ScoreModel.save wrote."
        )
    # The frequencies are not trained, so that the average leaves them out.
    theirs = [*shadow, *(value for name, value in model.items() if str(name).endswith("all_modules.0.W"))]
    ours = [*network.parameters(), *([network.features.frequencies] if isinstance(network.features, Fourier) else [])]
    shapes = [[tuple(value.shape) for value in values] for values in (theirs, ours)]
    if shapes[0] != shapes[1]:
        first = next(
            (place for place, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b), min(map(len, shapes))
        )
        raise LaceError(
            f"The checkpoint '{path}' must be of this configuration's network and is not ({len(theirs)} tensors, here "
            f"{len(ours)}; number {first} is the first that differs): take vp_sde_full for cifar10_ddpmpp_continuous "
            f"and "
            "ve_sde_full for cifar10_ncsnpp_continuous."
        )
    with torch.no_grad():
        for source, target in zip(theirs, ours, strict=True):
            target.copy_(source)


def _taps(x: Tensor) -> Tensor:
    """Return the filter [1, 3, 3, 1], of sum 1, for every channel of x: (C, 1, 4, 4)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)


def _fan_average(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Fill a weight (out, in, ...) with uniform values of variance scale over the mean of its inputs and outputs."""
    area = weight[0, 0].numel()
    bound = math.sqrt(3 * scale * 2 / (area * (weight.shape[0] + weight.shape[1])))
    with torch.no_grad():
        return weight.uniform_(-bound, bound)


def _conv(in_channels: int, out_channels: int, size: int = 3, scale: float = 1.0) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    _fan_average(conv.weight, scale)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    _fan_average(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)
