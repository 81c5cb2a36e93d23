"""Networks of conditional energies of pictures: residual blocks modulated by the condition."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import LaceError, suggest
from ...numerics.convolutions import patch_convolution


class StandardConv(nn.Conv2d):
    """3x3 convolution whose filters have mean 0 and standard deviation 1 (weight standardisation).

    Args:
        channels: channels of input and output, at least 1.

    References:
        Weight standardisation (arXiv 1903.10520).

    Example:
        >>> StandardConv(4)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution (B, C, H, W) of x (B, C, H, W)."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1)[:, None, None, None] + 1e-5)
        return F.conv2d(x, weight, self.bias, padding=1)


class Modulated(nn.Module):
    """The layer swish(gain · norm(conv(x)) + bias), whose gain and bias are linear in the condition.

    Without a condition the gain is 1 and the bias 0. The norm is an instance norm for up to 128 channels, and a group
    norm for more.

    Args:
        channels: channels C of input and output, at least 1.
        num_conditions: length N of the condition, at least 1.

    Example:
        >>> Modulated(4, 2)(torch.rand(3, 4, 8, 8), torch.eye(2)[[0, 1, 1]]).shape
        torch.Size([3, 4, 8, 8])
    """

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
        """Return features (B, C, H, W) of x (B, C, H, W) under conditions (B, N), or under none."""
        x = self.norm(self.conv(x))
        if condition is not None:
            gain, bias = self.map(condition)[:, :, None, None].chunk(2, 1)
            x = gain * x + bias
        return F.silu(x)


class ResidualBlock(nn.Module):
    """Two modulated convolutions beside the identity, and optionally a convolution to half the size after them.

    Args:
        channels: channels of the input, at least 1.
        num_conditions: length N of the condition, at least 1.
        out_channels: channels of the output at half the size; None keeps channels and size.

    Example:
        >>> ResidualBlock(4, 2, out_channels=8)(torch.rand(1, 4, 8, 8), None).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, channels: int, num_conditions: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.first, self.second = Modulated(channels, num_conditions), Modulated(channels, num_conditions)
        self.down = None if out_channels is None else nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return features of x (B, C, H, W) under conditions (B, N), or under none."""
        x = x + self.second(self.first(x, condition), condition)
        return x if self.down is None else F.silu(_halved(self.down(x)))


class Attention(nn.Module):
    """Self-attention over the places of a picture, with an eighth of the channels in queries and keys.

    The factor `gamma` of the attention is learnt and is 0 at first.

    Args:
        channels: channels of input and output, at least 1.

    References:
        Self-attention GAN (arXiv 1805.08318).

    Example:
        >>> x = torch.rand(1, 8, 4, 4)
        >>> torch.equal(Attention(8)(x), x)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, max(1, channels // 8), 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) plus `gamma` times its attention."""
        weights = (self.query(x).flatten(2).transpose(1, 2) @ self.key(x).flatten(2)).softmax(-1)
        result: Tensor = x + self.gamma * (self.value(x).flatten(2) @ weights.transpose(1, 2)).view_as(x)
        return result


class ScaleNetwork(nn.Module):
    """Network of one energy (B, 1) from pictures of one size.

    It has `stages` pairs of residual blocks. Each pair halves the size, and from the second on doubles the channels.

    Args:
        num_conditions: length N of the condition, at least 1.
        filter_dim: channels of the first pair, at least 1.
        stages: number of pairs, at least 1.
        attention: add self-attention after the second pair.
        channels: channels C of a picture, at least 1.
        patch: stride of the first convolution in pixels, see `patch_convolution`.

    Example:
        >>> ScaleNetwork(2, filter_dim=4, stages=1, attention=False)(torch.rand(3, 3, 8, 8), None).shape
        torch.Size([3, 1])
    """

    def __init__(
        self,
        num_conditions: int,
        filter_dim: int,
        stages: int,
        attention: bool,
        channels: int = 3,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.stem, held = patch_convolution(channels, filter_dim, patch), filter_dim
        blocks: list[nn.Module] = []
        for stage in range(stages):
            wider = held * (2 if stage else 1)
            blocks += [ResidualBlock(held, num_conditions), ResidualBlock(held, num_conditions, wider)]
            if attention and stage == 1:
                blocks.append(Attention(wider))
            held = wider
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(held, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return energies (B, 1) of pictures (B, C, H, W) under conditions (B, N), or under none."""
        x = F.silu(self.stem(x))
        for block in self.blocks:
            x = block(x) if isinstance(block, Attention) else block(x, condition)
        result: Tensor = self.head(F.silu(x).mean((2, 3)))
        return result


class ResidualEnergy(nn.Module):
    """Energies (B, S) of pictures (B, C, H, W) in [0, 1] at S scales, under conditions or under none.

    The first scale is the picture itself. With `multiscale` the pictures of the second and third scale have half and a
    quarter of its size, and S is 3. The default has 6,643,044 parameters for 10 conditions.

    Args:
        num_conditions: length N of the condition, at least 1.
        filter_dim: channels of the first blocks, at least 1.
        stages: pairs of residual blocks of the first scale, at least 1, and at least 3 with `multiscale`. The second
            scale has one pair less, the third two.
        multiscale: add the second and third scale.
        attention: add self-attention to the first scale, after its second pair.
        channels: channels C of a picture, at least 1.
        patch: stride p of the first convolution in pixels, 1 or even; 1 is published. A larger p takes about 1/p² of
            the time.

    Raises:
        LaceError: for `filter_dim` or `stages` below these bounds, and for another patch.

    References:
        Improved contrastive divergence training of energy-based models (arXiv 2012.01316).

    Example:
        >>> network = ResidualEnergy(2, filter_dim=4, stages=1, multiscale=False)
        >>> network(torch.rand(3, 3, 8, 8), torch.eye(2)[[0, 1, 1]]).shape
        torch.Size([3, 1])
    """

    def __init__(
        self,
        num_conditions: int,
        filter_dim: int = 64,
        stages: int = 4,
        multiscale: bool = True,
        attention: bool = True,
        channels: int = 3,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if filter_dim < 1 or stages < (3 if multiscale else 1):
            raise LaceError(
                "The energy network requires filter_dim of at least 1 and stages of at least 1, or 3 with multiscale, "
                f"received filter_dim={filter_dim} and stages={stages}: raise them."
            )
        depths = range(stages, stages - (3 if multiscale else 1), -1)
        self.scales = nn.ModuleList(
            ScaleNetwork(num_conditions, filter_dim, depth, attention and not index, channels, patch)
            for index, depth in enumerate(depths)
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return energies (B, S) of pictures (B, C, H, W) under conditions (B, N), or under none."""
        energies = []
        for scale in self.scales:
            energies.append(scale(x, condition))
            x = _halved(x)
        return torch.cat(energies, 1)


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 2, 1)


class SpectralConv(nn.Module):
    """Convolution without bias whose filters are divided by their largest singular value σ.

    Each call estimates σ by one step of power iteration from a stored vector. Training steps store the new vector.

    Args:
        in_channels: channels of the input, at least 1.
        out_channels: channels of the output, at least 1.
        size: side of the filters in pixels, odd.
        small: begin with weights of standard deviation 1e-10, and divide them by σ only where σ is above 1.

    References:
        Spectral normalisation (arXiv 1802.05957).

    Example:
        >>> convolution = SpectralConv(3, 4, small=True)
        >>> y = convolution(torch.ones(2, 3, 8, 8))
        >>> y.shape, bool(y.abs().max() < 1e-6)
        (torch.Size([2, 4, 8, 8]), True)
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
        """Return the convolution (B, O, H, W) of x (B, I, H, W)."""
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            right = F.normalize(matrix.T @ self.vector, dim=0)
            left = F.normalize(matrix @ right, dim=0)
        if self.training and torch.is_grad_enabled() and self.weight.requires_grad:
            self.vector.copy_(left)
        sigma = left @ (matrix @ right)
        # W/σ·min(σ, 1): small filters are not enlarged.
        return F.conv2d(x, self.weight / (sigma.clamp(min=1) if self.small else sigma), padding=self.padding)


class SpectralBlock(nn.Module):
    """Residual block with spectral normalisation, whose biases and gain are linear in the condition.

    Args:
        in_channels: channels of the input, at least 1.
        out_channels: channels of the output, at least 1.
        num_conditions: length N of the condition, at least 1.
        down: halve the size by a mean of 2x2 pixels.

    References:
        Implicit generation and modeling with energy-based models (arXiv 1903.08689).

    Example:
        >>> SpectralBlock(4, 8, num_conditions=2, down=True)(torch.rand(1, 4, 8, 8), None).shape
        torch.Size([1, 8, 4, 4])
    """

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
        """Return features of x (B, C, H, W) under conditions (B, N), or under none."""
        before, between, gain = (
            (0.0, 0.0, 1.0)
            if condition is None
            else (layer(condition)[:, :, None, None] for layer in (*self.biases, self.gain))
        )
        y = F.leaky_relu(self.first(x + before), 0.2)
        x = self.skip(x) + gain * self.second(y + between)
        return F.leaky_relu(F.avg_pool2d(x, 2) if self.down else x, 0.2)


class SpectralEnergy(nn.Module):
    """Energy (B, 1) of pictures (B, C, H, W) in [0, 1] by six residual blocks with spectral normalisation.

    The last layer is a sum over places and a linear map without spectral normalisation.

    Args:
        num_conditions: length N of the condition, at least 1.
        filter_dim: channels of the first two blocks, at least 1; the other four have twice as many.
        channels: channels C of a picture, at least 1.

    References:
        Implicit generation and modeling with energy-based models (arXiv 1903.08689).

    Example:
        >>> SpectralEnergy(2, filter_dim=4)(torch.rand(3, 3, 8, 8), torch.eye(2)[[0, 1, 1]]).shape
        torch.Size([3, 1])
    """

    def __init__(self, num_conditions: int, filter_dim: int = 128, channels: int = 3) -> None:
        super().__init__()
        n = filter_dim
        self.stem = SpectralConv(channels, n)
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
        """Return energies (B, 1) of pictures (B, C, H, W) under conditions (B, N), or under none."""
        x = F.leaky_relu(self.stem(x), 0.2)
        for block in self.blocks:
            x = block(x, condition)
        result: Tensor = self.head(F.relu(x).sum((2, 3)))
        return result


ENERGY_NETWORKS: dict[str, type[nn.Module]] = {"residual": ResidualEnergy, "spectral": SpectralEnergy}


def build_energy(num_conditions: int, name: str = "residual", **arguments: object) -> nn.Module:
    """Return a new network of conditional energies by name.

    Args:
        num_conditions: length of the condition, at least 1.
        name: "residual" or "spectral".
        arguments: arguments of the network by name; None leaves one at its default.

    Raises:
        LaceError: for an unknown name, and for arguments that the network refuses.

    Example:
        >>> type(build_energy(2, "spectral", filter_dim=4)).__name__
        'SpectralEnergy'
    """
    if name not in ENERGY_NETWORKS:
        raise LaceError(
            f"The energy networks are {', '.join(ENERGY_NETWORKS)}, and '{name}' was asked for."
            f"{suggest(name, ENERGY_NETWORKS)}"
        )
    # None leaves an argument out: configurations that build on others cannot drop a key.
    return ENERGY_NETWORKS[name](
        num_conditions, **{key: value for key, value in arguments.items() if value is not None}
    )
