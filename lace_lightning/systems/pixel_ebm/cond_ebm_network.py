"""Networks of conditional energies of pictures: residual blocks whose scales and biases the condition gives."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import LaceError, suggest


class StandardConv(nn.Conv2d):
    """3x3 convolution whose filters have mean 0 and standard deviation 1 (weight standardisation)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1)[:, None, None, None] + 1e-5)
        return F.conv2d(x, weight, self.bias, padding=1)


class Modulated(nn.Module):
    """swish(gain · norm(conv(x)) + bias), gain and bias linear in the condition (B, N); without a condition 1 and 0."""

    def __init__(self, channels: int, num_conditions: int) -> None:
        super().__init__()
        self.conv = StandardConv(channels)
        self.norm = (
            nn.InstanceNorm2d(channels, affine=True)
            if channels <= 128
            else nn.GroupNorm(math.gcd(32, channels), channels)
        )
        self.map = nn.Linear(num_conditions, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.norm(self.conv(x))
        if condition is not None:
            gain, bias = self.map(condition)[:, :, None, None].chunk(2, 1)
            x = gain * x + bias
        return F.silu(x)


class ResidualBlock(nn.Module):
    """Two modulated convolutions beside the identity.

    With `out_channels` a convolution to half the size behind them.
    """

    def __init__(self, channels: int, num_conditions: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.first, self.second = Modulated(channels, num_conditions), Modulated(channels, num_conditions)
        self.down = None if out_channels is None else nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = x + self.second(self.first(x, condition), condition)
        return x if self.down is None else F.silu(_halved(self.down(x)))


class Attention(nn.Module):
    """Self-attention over places with an eighth of the channels in keys; its share, `gamma`, begins at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, max(1, channels // 8), 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.query(x).flatten(2).transpose(1, 2) @ self.key(x).flatten(2)).softmax(-1)
        return x + self.gamma * (self.value(x).flatten(2) @ weights.transpose(1, 2)).view_as(x)


class ScaleNetwork(nn.Module):
    """One energy (B, 1) from pictures of one size: `stages` pairs of blocks, each to half the size, doubled channels
    from the second.
    """

    def __init__(self, num_conditions: int, filter_dim: int, stages: int, attention: bool) -> None:
        super().__init__()
        self.stem, channels = nn.Conv2d(3, filter_dim, 3, padding=1), filter_dim
        blocks: list[nn.Module] = []
        for stage in range(stages):
            wider = channels * (2 if stage else 1)
            blocks += [ResidualBlock(channels, num_conditions), ResidualBlock(channels, num_conditions, wider)]
            if attention and stage == 1:
                blocks.append(Attention(wider))
            channels = wider
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(channels, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = F.silu(self.stem(x))
        for block in self.blocks:
            x = block(x) if isinstance(block, Attention) else block(x, condition)
        return self.head(F.silu(x).mean((2, 3)))


class ResidualEnergy(nn.Module):
    """Energies (B, S) of pictures (B, 3, H, W) in [0, 1] at S scales under conditions (B, num_conditions), or under
    none.

    After "Improved Contrastive Divergence Training of Energy-Based Models" (arXiv 2012.01316): `stages` 4 pairs of
    residual blocks on the picture, with `multiscale` 3 on half of it and 2 on a quarter, attention in the first.
    6,643,044 parameters for `filter_dim` 64 and 10 conditions. Raises LaceError for a depth that has no pairs left.
    """

    def __init__(
        self,
        num_conditions: int,
        filter_dim: int = 64,
        stages: int = 4,
        multiscale: bool = True,
        attention: bool = True,
    ) -> None:
        super().__init__()
        if filter_dim < 1 or stages < (3 if multiscale else 1):
            raise LaceError(
                "The energy network needs filter_dim from 1 and stages from 1, 3 with multiscale; received "
                f"{filter_dim} and {stages}."
            )
        depths = range(stages, stages - (3 if multiscale else 1), -1)
        self.scales = nn.ModuleList(
            ScaleNetwork(num_conditions, filter_dim, depth, attention and not index)
            for index, depth in enumerate(depths)
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        energies = []
        for scale in self.scales:
            energies.append(scale(x, condition))
            x = _halved(x)
        return torch.cat(energies, 1)


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 2, 1)


class SpectralConv(nn.Module):
    """Convolution with its filters divided by their largest singular value σ; with `small` by 1 where σ is below 1.

    σ is estimated by one step of power iteration in every training step, from a vector that is kept.
    """

    vector: Tensor

    def __init__(self, in_channels: int, out_channels: int, size: int = 3, small: bool = False) -> None:
        super().__init__()
        self.weight, self.small, self.padding = (
            nn.Parameter(torch.empty(out_channels, in_channels, size, size)),
            small,
            size // 2,
        )
        nn.init.normal_(self.weight, 0.0, 1e-10) if small else nn.init.kaiming_uniform_(self.weight, math.sqrt(5))
        self.register_buffer("vector", F.normalize(torch.randn(out_channels), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            right = F.normalize(matrix.T @ self.vector, dim=0)
            left = F.normalize(matrix @ right, dim=0)
        if self.training and torch.is_grad_enabled() and self.weight.requires_grad:
            self.vector.copy_(left)
        sigma = left @ (matrix @ right)
        # W/σ·min(σ, 1): a filter that begins at nothing stays there until it has grown.
        return F.conv2d(x, self.weight / (sigma.clamp(min=1) if self.small else sigma), padding=self.padding)


class SpectralBlock(nn.Module):
    """Residual block with biases and gains for each condition and spectral normalisation."""

    def __init__(self, in_channels: int, out_channels: int, num_conditions: int, down: bool) -> None:
        super().__init__()
        self.first, self.second = (
            SpectralConv(in_channels, out_channels),
            SpectralConv(out_channels, out_channels, small=True),
        )
        self.biases = nn.ModuleList(nn.Linear(num_conditions, channels) for channels in (in_channels, out_channels))
        self.gain = nn.Linear(num_conditions, out_channels)
        for layer in (*self.biases, self.gain):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.ones_(self.gain.bias)
        self.skip = SpectralConv(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        self.down = down

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        before, between, gain = (
            (0.0, 0.0, 1.0)
            if condition is None
            else (layer(condition)[:, :, None, None] for layer in (*self.biases, self.gain))
        )
        y = F.leaky_relu(self.first(x + before), 0.2)
        x = self.skip(x) + gain * self.second(y + between)
        return F.leaky_relu(F.avg_pool2d(x, 2) if self.down else x, 0.2)


class SpectralEnergy(nn.Module):
    """Energy (B, 1) of pictures (B, 3, H, W) in [0, 1] under conditions (B, num_conditions), or under none.

    After "Implicit Generation and Modeling with Energy-Based Models" (arXiv 1903.08689): six residual blocks of
    `filter_dim` to twice as many channels, spectral normalisation of all but the last layer, a sum over places.
    """

    def __init__(self, num_conditions: int, filter_dim: int = 128) -> None:
        super().__init__()
        n = filter_dim
        self.stem = SpectralConv(3, n)
        plan = (
            (n, n, True),
            (n, n, False),
            (n, 2 * n, True),
            (2 * n, 2 * n, False),
            (2 * n, 2 * n, True),
            (2 * n, 2 * n, False),
        )
        self.blocks = nn.ModuleList(SpectralBlock(a, b, num_conditions, down) for a, b, down in plan)
        self.head = nn.Linear(2 * n, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = F.leaky_relu(self.stem(x), 0.2)
        for block in self.blocks:
            x = block(x, condition)
        return self.head(F.relu(x).sum((2, 3)))


ENERGY_NETWORKS: dict[str, type[nn.Module]] = {"residual": ResidualEnergy, "spectral": SpectralEnergy}


def build_energy(num_conditions: int, name: str = "residual", **arguments: object) -> nn.Module:
    """Return a new network of conditional energies by name. Raises LaceError for an unknown name."""
    if name not in ENERGY_NETWORKS:
        raise LaceError(
            f"The energy networks are {', '.join(ENERGY_NETWORKS)}, and '{name}' was asked for."
            f"{suggest(name, ENERGY_NETWORKS)}"
        )
    # None leaves an argument out: configurations that build on others cannot drop a key.
    return ENERGY_NETWORKS[name](
        num_conditions, **{key: value for key, value in arguments.items() if value is not None}
    )
