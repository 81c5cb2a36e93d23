"""Image networks for small pictures, of different families for the labeler and the judge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError


class ConvNorm(nn.Sequential):
    """3x3 convolution, batch normalisation, activation.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        activation: class of the activation.

    Example:
        >>> tuple(ConvNorm(3, 4)(torch.zeros(2, 3, 8, 8)).shape)
        (2, 4, 8, 8)
    """

    def __init__(self, in_channels: int, out_channels: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), activation()
        )


class ImageNetwork(nn.Module):
    """Base class of image networks: pictures (B, 3, R, R) in [-1, 1] -> `features` (B, F) -> `head` -> logits (B, L).

    A subclass defines `num_features` (F), `head`, and `features` or `feature_maps`.

    Example:
        >>> class Colour(ImageNetwork):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.num_features, self.head = 3, nn.Linear(3, 2)
        ...
        ...     def features(self, images):
        ...         return images.mean((2, 3))
        >>> tuple(Colour()(torch.zeros(5, 3, 8, 8)).shape)
        (5, 2)
    """

    num_features: int
    head: nn.Module
    # Channels of a picture; None where any number is taken.
    channels: int | None = 3

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features (B, F) of pictures (B, 3, R, R): the maxima of the last feature map."""
        return self.feature_maps(images)[-1].amax((2, 3))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return feature maps (B, C_i, H_i, W_i) of pictures (B, 3, R, R), from fine to coarse."""
        raise NotImplementedError

    def prepare(self, images: Tensor) -> None:
        """Adapt fixed layers to pictures (N, 3, R, R) before training; most networks have none."""

    @torch.no_grad()
    def scale_outputs(self, factors: Tensor) -> None:
        """Multiply the logits by factors, in the weights of the head.

        Args:
            factors: a factor (L,) for each logit.

        Raises:
            LaceError: when the head is not linear.
        """
        if not isinstance(self.head, nn.Linear):
            raise LaceError(
                f"Scaling the logits of an image network needs a head that is a linear layer, and that of "
                f"{type(self).__name__} is {type(self.head).__name__}: set classifier.calibrate=false."
            )
        self.head.weight.mul_(factors.to(self.head.weight)[:, None])
        if self.head.bias is not None:
            self.head.bias.mul_(factors.to(self.head.bias))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, L) of pictures (B, 3, R, R) in [-1, 1]."""
        result: Tensor = self.head(self.features(images))
        return result


class ResNet9(ImageNetwork):
    """Residual network of nine layers with max pooling, after the fast CIFAR-10 networks of the DAWNBench contest.

    Args:
        num_logits: number L of logits, at least 1.
        width: channels of the first layer, at least 1; the features have four times as many.

    Example:
        >>> network = ResNet9(num_logits=3, width=2)
        >>> tuple(network(torch.zeros(2, 3, 16, 16)).shape), network.num_features
        ((2, 3), 8)
    """

    def __init__(self, num_logits: int = 10, width: int = 64) -> None:
        super().__init__()
        self.num_features = 4 * width
        self.stem = ConvNorm(3, width)
        self.layer1 = nn.Sequential(ConvNorm(width, 2 * width), nn.MaxPool2d(2))
        self.residual1 = nn.Sequential(ConvNorm(2 * width, 2 * width), ConvNorm(2 * width, 2 * width))
        self.layer2 = nn.Sequential(ConvNorm(2 * width, 4 * width), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(ConvNorm(4 * width, 4 * width), nn.MaxPool2d(2))
        self.residual3 = nn.Sequential(ConvNorm(4 * width, 4 * width), ConvNorm(4 * width, 4 * width))
        self.head = nn.Linear(self.num_features, num_logits)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        x = self.layer1(self.stem(images))
        fine = x + self.residual1(x)
        middle = self.layer2(fine)
        coarse = self.layer3(middle)
        return [fine, middle, coarse + self.residual3(coarse)]


class PreActivation(nn.Module):
    """Pre-activation residual block of a wide residual network, with SiLU.

    Args:
        in_channels: channels of the inputs.
        out_channels: channels of the outputs.
        stride: stride of the first convolution and of the shortcut.

    Example:
        >>> tuple(PreActivation(4, 8, stride=2)(torch.zeros(2, 4, 8, 8)).shape)
        (2, 8, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = in_channels == out_channels and stride == 1
        self.skip = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm0(x))
        shortcut = x if self.skip is None else self.skip(y)
        result: Tensor = shortcut + self.conv1(F.silu(self.norm1(self.conv0(y))))
        return result


class WideResNet(ImageNetwork):
    """Wide residual network with SiLU: pre-activation blocks, strided convolutions, mean pooling.

    Args:
        num_logits: number L of logits, at least 1.
        widths: channels of each stage; each stage but the first halves the side.
        blocks: residual blocks of a stage, at least 1.

    References:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016.

    Example:
        >>> network = WideResNet(num_logits=3, widths=(4, 8), blocks=1)
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> tuple(network(images).shape), [tuple(maps.shape) for maps in network.feature_maps(images)]
        ((2, 3), [(2, 4, 8, 8), (2, 8, 4, 4)])
    """

    def __init__(self, num_logits: int = 10, widths: Sequence[int] = (48, 96, 192), blocks: int = 2) -> None:
        super().__init__()
        self.num_features = widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False)]
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(PreActivation(channels, width, 2 if stage and not block else 1))
                channels = width
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.SiLU())
        self.head = nn.Linear(channels, num_logits)

    def features(self, images: Tensor) -> Tensor:
        result: Tensor = self.body(images).mean((2, 3))
        return result

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for layer in self.body:
            if isinstance(layer, PreActivation) and layer.conv0.stride[0] == 2:
                maps.append(x)
            x = layer(x)
        return [*maps, x]


class BiasNorm(nn.BatchNorm2d):
    """Batch normalisation with a learned bias, without a learned scale, and with a momentum of 0.4.

    Args:
        channels: channels of the inputs.

    Example:
        >>> [name for name, value in BiasNorm(4).named_parameters() if value.requires_grad]
        ['bias']
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad_(False)


class WhitenedVGG(ImageNetwork):
    """Plain convolutional network after a frozen 2x2 convolution that whitens patches; it trains in a few epochs.

    The first layer has whitening filters and their negatives, which `prepare` sets from pictures before the training.
    Blocks of two convolutions, initialised as the identity where they can be, follow, with GELU and a normalisation
    that learns biases alone.

    Args:
        num_logits: number L of logits, at least 1.
        widths: channels of each block, at least 24 of the first; each block halves the side.
        scale: factor of the logits.

    References:
        Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv 2404.00498).

    Example:
        >>> network = WhitenedVGG(num_logits=3, widths=(24, 24))
        >>> network.prepare(torch.rand(4, 3, 8, 8) * 2 - 1)
        >>> tuple(network(torch.zeros(2, 3, 8, 8)).shape), bool(network.whitened)
        ((2, 3), True)
    """

    whitened: Tensor

    def __init__(self, num_logits: int = 10, widths: Sequence[int] = (64, 256, 256), scale: float = 1 / 9) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Conv2d(3, 24, 2)
        self.stem.weight.requires_grad_(False)
        self.register_buffer("whitened", torch.zeros([], dtype=torch.bool))
        layers: list[nn.Module] = []
        channels = 24
        for width in widths:
            layers.append(
                nn.Sequential(
                    self._convolution(channels, width),
                    nn.MaxPool2d(2),
                    BiasNorm(width),
                    nn.GELU(),
                    self._convolution(width, width),
                    BiasNorm(width),
                    nn.GELU(),
                )
            )
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = ScaledLinear(channels, num_logits, scale)

    @staticmethod
    def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.dirac_(convolution.weight.data[:in_channels])
        return convolution

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Set the first filters to the whitening transform of the 2x2 patches of pictures (N, 3, R, R).

        A second call changes nothing.

        Args:
            images: pictures (N, 3, R, R) in [-1, 1].
        """
        if bool(self.whitened):
            return
        patches = F.unfold(images.float(), 2).permute(0, 2, 1).reshape(-1, 12)
        variances, directions = torch.linalg.eigh(torch.cov(patches.T.double()))
        filters = (directions / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.stem.weight.copy_(torch.cat([filters, -filters]))
        self.stem.bias.zero_()  # type: ignore[union-attr]
        self.whitened.fill_(True)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        # On uniform patches the terms of a whitening filter nearly cancel, which needs the precision of float32.
        with torch.autocast(images.device.type, enabled=False):
            x = F.gelu(self.stem(images.float()))
        maps = []
        for block in self.body:
            x = block(x)
            maps.append(x)
        return maps


class ScaledLinear(nn.Linear):
    """Linear layer without bias whose outputs are multiplied by a constant.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
        scale: the constant.

    Example:
        >>> ScaledLinear(3, 2, scale=0.0)(torch.ones(1, 3)).abs().tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def inference_copy(network: ImageNetwork, dtype: torch.dtype = torch.float32) -> ImageNetwork:
    """Freeze a network for inference, in the memory format channels last; the network itself is changed.

    Args:
        network: the network.
        dtype: type of its weights.

    Returns:
        The network, in evaluation mode.
    """
    result: ImageNetwork = network.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return result
