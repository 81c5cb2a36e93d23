"""Score networks: U-Nets that are conditioned on the noise level, DDPM++ and NCSN++ of any size."""

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
# Scale of the initial weights of layers whose output is added to a skip connection.
NOTHING = 1e-10


class Fourier(nn.Module):
    """Random Fourier features: a number (B,) as sines and cosines (B, 2·size) of frequencies that are not trained.

    Args:
        size: number of frequencies, at least 1.
        scale: standard deviation of the frequencies, 0 or more.

    Example:
        >>> import torch
        >>> Fourier(4)(torch.zeros(3)).shape
        torch.Size([3, 8])
    """

    frequencies: Tensor

    def __init__(self, size: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(size) * scale)

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * x[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Positional(nn.Module):
    """Sinusoidal embedding: a number (B,) as sines and cosines (B, size) of frequencies from 1 down to 1e-4.

    Args:
        size: number of outputs, even and at least 4.

    Example:
        >>> import torch
        >>> Positional(4)(torch.zeros(1)).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """

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
    """Resize pictures (B, C, H, W) to twice or half their height and width.

    Args:
        up: whether to double the size; else it is halved.
        fir: whether to filter with [1, 3, 3, 1] and zeros around the picture; else pixels are copied or averaged.

    Example:
        >>> import torch
        >>> Resample(up=False, fir=False)(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])).item()
        4.0
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
    """Linear map of the channels at every pixel of (B, C, H, W), with a weight (in, out).

    Args:
        channels: number C of channels.
        scale: scale of the variance of the initial weights, above 0.

    Example:
        >>> import torch
        >>> Pixelwise(8)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, channels: int, scale: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(_fan_average(torch.empty(channels, channels), scale))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.T[:, :, None, None], self.bias)


class Attention(nn.Module):
    """Self-attention of the pixels of (B, C, H, W) with one head; returns (x + attended)/√2.

    Args:
        channels: number C of channels, a multiple of 4.

    Example:
        >>> import torch
        >>> Attention(8)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query, self.key, self.value = Pixelwise(channels), Pixelwise(channels), Pixelwise(channels)
        self.out = Pixelwise(channels, NOTHING)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        query, key, value = (part(h).flatten(2).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        result: Tensor = (x + self.out(attended)) * ROOT_HALF
        return result


class ResidualBlock(nn.Module):
    """Residual block of BigGAN: two convolutions with the noise level added in between; returns the sum over √2.

    Args:
        in_channels: channels of the input, a multiple of 4.
        out_channels: channels of the output, a multiple of 4.
        embedding: size of the embedding of the noise level.
        dropout: probability of dropout before the second convolution, in [0, 1).
        resample: resizing of both branches, after the first activation; None for none.

    Example:
        >>> import torch
        >>> block = ResidualBlock(8, 16, embedding=12, dropout=0.0, resample=Resample(up=False, fir=False))
        >>> block(torch.zeros(1, 8, 4, 4), torch.zeros(1, 12)).shape
        torch.Size([1, 16, 2, 2])
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
        result: Tensor = ((x if self.skip is None else self.skip(x)) + h) * ROOT_HALF
        return result


class Step(nn.Module):
    """A residual block, followed by attention where it is given.

    Args:
        block: the residual block.
        attention: attention on the output of the block, None for none.

    Example:
        >>> import torch
        >>> step = Step(ResidualBlock(8, 8, embedding=12, dropout=0.0), Attention(8))
        >>> step(torch.zeros(1, 8, 4, 4), torch.zeros(1, 12)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, block: ResidualBlock, attention: Attention | None = None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class FilteredConv(nn.Module):
    """Convolution to half the size after the filter [1, 3, 3, 1].

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.

    Example:
        >>> import torch
        >>> FilteredConv(3, 8)(torch.zeros(1, 3, 4, 4)).shape
        torch.Size([1, 8, 2, 2])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        filtered = F.conv2d(x, _taps(x), padding=2, groups=x.shape[1])
        return F.conv2d(filtered, self.conv.weight, self.conv.bias, stride=2)


class Down(nn.Module):
    """The encoder's steps at one size, then a block to half the size, to which the picture is added in a pyramid.

    Args:
        steps: the steps at this size.
        shrink: the block to half the size, None at the smallest size.
        pyramid: convolution that takes the picture to the next size, None without a pyramid.

    Example:
        >>> import torch
        >>> down, held = Down([Step(ResidualBlock(8, 8, embedding=12, dropout=0.0))], None, None), []
        >>> h, picture = down(torch.zeros(1, 8, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 12), held)
        >>> h.shape, len(held)
        (torch.Size([1, 8, 4, 4]), 1)
    """

    def __init__(self, steps: Sequence[Step], shrink: ResidualBlock | None, pyramid: FilteredConv | None) -> None:
        super().__init__()
        self.steps, self.shrink, self.pyramid = nn.ModuleList(steps), shrink, pyramid

    def forward(self, h: Tensor, picture: Tensor, embedding: Tensor, held: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return features and picture at the next size, and append all features to `held` for the decoder."""
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
    """The decoder's steps at one size, each on its input and the encoder's features, then a block to twice the size.

    Args:
        steps: the steps at this size.
        grow: the block to twice the size, None at the largest size.

    Example:
        >>> import torch
        >>> up = Up([Step(ResidualBlock(16, 8, embedding=12, dropout=0.0))], None)
        >>> up(torch.zeros(1, 8, 4, 4), torch.zeros(1, 12), held=[torch.zeros(1, 8, 4, 4)]).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, steps: Sequence[Step], grow: ResidualBlock | None) -> None:
        super().__init__()
        self.steps, self.grow = nn.ModuleList(steps), grow

    def forward(self, h: Tensor, embedding: Tensor, held: list[Tensor]) -> Tensor:
        """Return features at the next size; the encoder's features are taken from the end of `held`."""
        for step in self.steps:
            h = step(torch.cat([h, held.pop()], dim=1), embedding)
        return h if self.grow is None else self.grow(h, embedding)


class ScoreNetwork(nn.Module):
    """U-Net of BigGAN blocks: pictures (B, C, R, R) about [-1, 1] and their noise level (B,) -> (B, C, R, R).

    DDPM++ has a positional embedding. NCSN++ has a Fourier embedding, filtered resampling and a residual pyramid of the
    input. Parameters are in the order of the published code. With `nf=128`, `multipliers=(1, 2, 2, 2)` and `blocks=4`
    the networks are the published ones.

    With `patch` p above 1 the network works on patches of p by p pixels as p² channels each, which takes about 1/p² of
    the time.

    Args:
        resolution: side R of a picture in pixels, divisible by `patch`; R/`patch` is divisible by 2 once for each
            multiplier after the first.
        channels: channels C of a picture.
        nf: channels at full size, a multiple of 4 from 8.
        multipliers: factor of `nf` at each size, from the largest size to the smallest.
        blocks: residual blocks at each size of the encoder, at least 1; the decoder has one more.
        attention: sizes in patches at which there is attention.
        dropout: probability of dropout, in [0, 1).
        embedding: how the noise level is embedded, positional or fourier.
        fir: whether to resample with the filter [1, 3, 3, 1].
        pyramid: whether the encoder sees the input at every size.
        patch: side p of a patch in pixels, at least 1; 1 is published.

    Raises:
        LaceError: for an unknown embedding, and for sizes out of range.

    References:
        Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021, appendix H.
        Patches: Hoogeboom et al., Simple diffusion, ICML 2023.

    Example:
        >>> import torch
        >>> network = ScoreNetwork(resolution=8, nf=8, multipliers=(1, 2), attention=(4,))
        >>> network(torch.zeros(2, 3, 8, 8), torch.ones(2)).shape
        torch.Size([2, 3, 8, 8])
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
        patch: int = 1,
    ) -> None:
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise LaceError(
                f"The embedding of a noise level must be one of {', '.join(EMBEDDINGS)}, received '{embedding}'."
                f"{suggest(embedding, EMBEDDINGS)}"
            )
        halvings = len(multipliers) - 1
        if nf < 8 or nf % 4 or blocks < 1 or patch < 1 or resolution % (patch * 2**halvings):
            raise LaceError(
                f"A score network needs nf in fours from 8, at least one block and a resolution whose patches can be "
                f"halved {halvings} times, received nf={nf}, blocks={blocks}, resolution={resolution} and "
                f"patch={patch}: correct them."
            )
        self.patch, resolution, channels = patch, resolution // patch, channels * patch**2
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
        embedding, picture = self.embed(self.features(level)), x
        if self.patch > 1:
            picture = F.pixel_unshuffle(x, self.patch)
        h = self.stem(picture)
        held = [h]
        for down in self.down:
            h, picture = down(h, picture, embedding, held)
        for step in self.middle:
            h = step(h, embedding)
        for up in self.up:
            h = up(h, embedding, held)
        result: Tensor = self.out(F.silu(self.norm(h)))
        return F.pixel_shuffle(result, self.patch) if self.patch > 1 else result


def load_published(network: ScoreNetwork, path: str | os.PathLike[str]) -> None:
    """Load the moving average of a checkpoint of score_sde_pytorch, which is read as data and never executed.

    Args:
        network: the network, whose weights are replaced.
        path: file of the checkpoint, with `model` and `ema.shadow_params`.

    Raises:
        LaceError: for a file that is no such checkpoint, or one of another architecture.
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
            "not: get it again, or give a file that ScoreModel.save wrote."
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
            "and ve_sde_full for cifar10_ncsnpp_continuous."
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
