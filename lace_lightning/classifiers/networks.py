"""Every image network by its name."""

from __future__ import annotations

from ..errors import LaceError, suggest
from .mobilenet import MobileNet
from .published import DenseNetBC, WideResNetCIFAR
from .resnets import ImageNetwork, ResNet9, WhitenedVGG, WideResNet

IMAGE_NETWORKS: dict[str, type[ImageNetwork]] = {
    "resnet9": ResNet9,
    "wide_resnet": WideResNet,
    "whitened_vgg": WhitenedVGG,
    "densenet_bc": DenseNetBC,
    "wide_resnet_cifar": WideResNetCIFAR,
    "mobilenet": MobileNet,
}


def build_network(name: str, **arguments: object) -> ImageNetwork:
    """Return a new image network by name. Raises LaceError for an unknown name."""
    if name not in IMAGE_NETWORKS:
        raise LaceError(
            f"The image networks are {', '.join(IMAGE_NETWORKS)}, and '{name}' was asked "
            f"for.{suggest(name, IMAGE_NETWORKS)}"
        )
    return IMAGE_NETWORKS[name](**arguments)
