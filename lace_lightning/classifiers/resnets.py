"""Image networks for small pictures: two different families, so that one can label and the other judge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError


class ConvNorm(nn.Sequential):
    """3x3 convolution, batch normalisation, activation."""

    def __init__(self, in_channels: int, out_channels: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), activation()
        )


class ImageNetwork(nn.Module):
    """Pictures (B, 3, R, R) in [-1, 1] -> `features` (B, F) -> logits (B, num_logits)."""

    num_features: int
    head: nn.Module
    # Channels of a picture; None where any number is taken.
    channels: int | None = 3

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features (B, F): the last feature map, pooled."""
        return self.feature_maps(images)[-1].amax((2, 3))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return feature maps (B, C_i, H_i, W_i) from fine to coarse."""
        raise NotImplementedError

    def prepare(self, images: Tensor) -> None:
        """Adapt fixed parts to pictures (N, 3, R, R) before training; nothing to do for most networks."""

    @torch.no_grad()
    def scale_outputs(self, factors: Tensor) -> None:
        """Multiply the logits by `factors` (L,) from now on, in the weights of the head. Raises LaceError where it is
        not linear.
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
        return self.head(self.features(images))


class ResNet9(ImageNetwork):
    """Nine-layer residual network with max pooling, after the fast CIFAR-10 networks of the DAWNBench contest."""

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
    """Pre-activation residual block of a wide residual network."""

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
        return shortcut + self.conv1(F.silu(self.norm1(self.conv0(y))))


class WideResNet(ImageNetwork):
    """Wide residual network (pre-activation, strided, mean pooling) with SiLU."""

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
        return self.body(images).mean((2, 3))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for layer in self.body:
            if isinstance(layer, PreActivation) and layer.conv0.stride[0] == 2:
                maps.append(x)
            x = layer(x)
        return [*maps, x]


class BiasNorm(nn.BatchNorm2d):
    """Batch normalisation that learns a bias and no scale, with statistics that follow within a few batches."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad_(False)


class WhitenedVGG(ImageNetwork):
    """Plain convolutional network behind a frozen 2x2 convolution that whitens patches; trains in a few epochs.

    After "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498): whitening filters and their negatives,
    three blocks of two convolutions that begin as the identity, GELU, normalisation with biases alone, logits scaled by
    1/9. `prepare` sets the filters from pictures before training.
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
        """Set the first filters to the whitening transform of the 2x2 patches of pictures (N, 3, R, R); once."""
        if bool(self.whitened):
            return
        patches = F.unfold(images.float(), 2).permute(0, 2, 1).reshape(-1, 12)
        variances, directions = torch.linalg.eigh(torch.cov(patches.T.double()))
        filters = (directions / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.stem.weight.copy_(torch.cat([filters, -filters]))
        self.stem.bias.zero_()  # type: ignore[union-attr]
        self.whitened.fill_(True)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        # The filters for fine detail nearly cancel on flat patches: they need all the digits.
        with torch.autocast(images.device.type, enabled=False):
            x = F.gelu(self.stem(images.float()))
        maps = []
        for block in self.body:
            x = block(x)
            maps.append(x)
        return maps


class ScaledLinear(nn.Linear):
    """Linear map without bias, times a constant."""

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def inference_copy(network: ImageNetwork, dtype: torch.dtype = torch.float32) -> ImageNetwork:
    """Freeze a network for inference in `dtype`, channels last."""
    return network.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
