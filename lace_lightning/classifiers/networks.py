"""Names of the image networks."""

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
    """Return a new image network by name.

    Args:
        name: a key of `IMAGE_NETWORKS`.
        arguments: arguments of its class.

    Returns:
        An untrained network from pictures (B, 3, R, R) in [-1, 1] to logits (B, num_logits).

    Raises:
        LaceError: when the name is unknown, or the network's class refuses the value of an argument.

    Example:
        >>> build_network("resnet9", num_logits=3, width=2).num_features
        8
    """
    if name not in IMAGE_NETWORKS:
        raise LaceError(
            f"The name of an image network must be one of {', '.join(IMAGE_NETWORKS)}, received '{name}'."
            f"{suggest(name, IMAGE_NETWORKS)}"
        )
    return IMAGE_NETWORKS[name](**arguments)
