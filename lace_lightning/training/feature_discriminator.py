"""A discriminator on the features of a trained image classifier, beside the one on pixels."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..classifiers import AttributeClassifier
from ..classifiers.resnets import ImageNetwork
from ..pictures.convert import with_channels
from ..weights import weight_path


class FeatureDiscriminator(nn.Module):
    """Discriminator on the feature maps of a frozen image classifier, with a map of logits (B, P_i) for each of them.

    Each head mixes the channels with a fixed random matrix and applies two convolutions with spectral normalisation and
    a 1x1 convolution. Pretrained features make generators converge faster. The classifier must differ from the judge
    that measures the generator.

    Args:
        weights: an image classifier of 3 channels: the name of shipped weights, or the path of a .safetensors file.
        width: channels of each head, at least 1.

    Raises:
        LaceError: for weights that do not exist or are damaged.

    References:
        Ensembling off-the-shelf models for GAN training (arXiv 2112.09130); Projected GANs converge faster (arXiv
        2111.01007).

    Example:
        >>> import tempfile
        >>> from lace_lightning.schema import Attribute, Schema
        >>> classifier = AttributeClassifier(Schema("s", (Attribute("hat"),)), "x", "resnet9", {"width": 4})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     classifier.save(f"{folder}/classifier.safetensors")
        ...     discriminator = FeatureDiscriminator(f"{folder}/classifier.safetensors", width=2)
        >>> [logits.shape for logits in discriminator(torch.zeros(1, 3, 32, 32))][-1]
        torch.Size([1, 16])
    """

    def __init__(self, weights: str, width: int = 64) -> None:
        super().__init__()
        network = cast(ImageNetwork, AttributeClassifier.load(weight_path(weights)).network)
        self.network = network.to(memory_format=torch.channels_last)
        with torch.no_grad():
            channels = [features.shape[1] for features in self.network.feature_maps(torch.zeros(1, 3, 32, 32))]
        self.heads = nn.ModuleList(_Head(count, width) for count in channels)

    def train(self, mode: bool = True) -> FeatureDiscriminator:
        """Switch the heads to training or evaluation; the classifier stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return logits (B, P_i) float32 of pictures (B, C, R, R) in [-1, 1]; features are computed in `dtype`."""
        images = with_channels(images, 3, "of the discriminator on features")
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            return [
                head(features) for head, features in zip(self.heads, self.network.feature_maps(images), strict=True)
            ]


class _Head(nn.Module):
    """Features (B, C, H, W) -> logits (B, P)."""

    mix: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mix", torch.randn(width, channels, 1, 1) * channels**-0.5)
        self.conv0 = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.conv1 = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.conv0(nn.functional.conv2d(features, self.mix)), 0.2)
        result: Tensor = self.out(nn.functional.leaky_relu(self.conv1(x), 0.2)).flatten(1).float()
        return result
