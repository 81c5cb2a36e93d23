"""MobileNets for pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LaceError, suggest
from .published import Normalized

# Of ImageNet in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VARIANTS = ("v2", "v3_small", "v3_large")


class MobileNet(Normalized):
    """MobileNetV2 or V3 of torchvision, untrained, on pictures (B, 3, H, W) in [-1, 1] of any size.

    Pictures are cut and resized (bilinear, antialiased) before the first layer.

    Args:
        num_logits: number L of logits, at least 1.
        variant: v2, v3_small or v3_large.
        resolution: side in pixels that pictures are resized to, at least 32.
        width: factor of the number of channels, above 0.
        crop: part of a picture that is used: top, left, height and width as fractions of its sides, within [0, 1];
            None for all of it.
        mean: mean of each channel of pictures in [0, 1], by which they are normalised.
        std: standard deviation of each channel of pictures in [0, 1], above 0, by which they are normalised.

    Raises:
        LaceError: when the variant is unknown, the crop is not within the picture, or the resolution is below 32.

    References:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; Howard et al., "Searching
        for MobileNetV3", ICCV 2019.

    Example:
        >>> import torch
        >>> network = MobileNet(num_logits=3, variant="v3_small", resolution=32, width=0.25).eval()
        >>> tuple(network(torch.zeros(1, 3, 48, 40)).shape)
        (1, 3)
    """

    def __init__(
        self,
        num_logits: int = 10,
        variant: str = "v3_large",
        resolution: int = 128,
        width: float = 1.0,
        crop: Sequence[float] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        if variant not in VARIANTS:
            raise LaceError(
                f"The variant of MobileNet must be one of {', '.join(VARIANTS)}, received '{variant}'."
                f"{suggest(variant, VARIANTS)}"
            )
        if resolution < 32:
            raise LaceError(
                f"MobileNet halves pictures five times and needs a resolution of at least 32, received {resolution}: "
                "set its argument resolution to 32 or more."
            )
        crop = (0, 0, 1, 1) if crop is None else tuple(crop)
        if (
            len(crop) != 4
            or min(crop[:2]) < 0
            or min(crop[2:]) <= 0
            or max(crop[0] + crop[2], crop[1] + crop[3]) > 1 + 1e-6
        ):
            raise LaceError(
                "A crop must be top, left, height and width within the picture, in fractions of it, received "
                f"{list(crop)}: take [0, 0, 1, 1] for all of it."
            )
        # Torchvision is slow to import.
        from torchvision import models

        self.resolution, self.crop = resolution, crop
        network = getattr(models, f"mobilenet_{variant}")(num_classes=num_logits, width_mult=width)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                # Torchvision's V3 has 0.01, with which means change too slowly for trainings of a few epochs.
                layer.momentum = 0.1
        # The layers after the pooling belong to the features; the last one is the head.
        self.body, self.neck, self.fc = network.features, network.classifier[:-1], network.classifier[-1]
        self.num_features = self.fc.in_features

    def view(self, images: Tensor) -> Tensor:
        """Return the inputs (B, 3, resolution, resolution) in [-1, 1] of pictures (B, 3, H, W): cut and resized."""
        rows, columns = images.shape[-2:]
        top, left, height, width = (
            round(share * side) for share, side in zip(self.crop, (rows, columns, rows, columns), strict=True)
        )
        images = images[..., top : top + max(1, height), left : left + max(1, width)]
        size = (self.resolution, self.resolution)
        return (
            images if tuple(images.shape[-2:]) == size else F.interpolate(images, size, mode="bilinear", antialias=True)
        )

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        maps, x = [], self.normalize(self.view(images))
        for block in self.body:
            y = block(x)
            if y.shape[-1] < x.shape[-1]:
                maps.append(x)
            x = y
        # The first is the picture.
        return [*maps[1:], x]

    def features(self, images: Tensor) -> Tensor:
        result: Tensor = self.neck(super().features(images))
        return result
