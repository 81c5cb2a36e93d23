"""Labelers of digits: the class by a network; slant, thickness and width computed from the pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..classifiers import AttributeClassifier
from ..classifiers.resnets import ImageNetwork
from ..errors import LaceError
from ..pictures.strokes import NAMES, strokes_of
from ..schema import Attribute, Schema
from ..weights import weight_path
from .labeler import Labeler

DIGITS_SCHEMA = Schema(
    "digits", (Attribute("label", "discrete", 10), *(Attribute(name, "continuous") for name in NAMES))
)


class DigitAttributes(ImageNetwork):
    """Image network of digits; the features are those of the network of the class, and slant, thickness and width.

    Args:
        network: network whose logits (B, 10) are of the class.
        schema: the attributes, a part of `DIGITS_SCHEMA`.

    Example:
        >>> from lace_lightning.classifiers.networks import build_network
        >>> network = DigitAttributes(build_network("resnet9", num_logits=10, width=2), DIGITS_SCHEMA)
        >>> tuple(network(torch.zeros(2, 3, 32, 32)).shape), network.num_features
        ((2, 13), 11)
    """

    def __init__(self, network: ImageNetwork, schema: Schema) -> None:
        super().__init__()
        self.network, self.num_features = network, network.num_features + len(NAMES)
        self.head = _Head(network.head, schema)

    def features(self, images: Tensor) -> Tensor:
        own = self.network.features(images).float()
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([own, strokes_of(images)], 1)


class _Head(nn.Module):
    """Features (B, F + 3) -> the logits of the class, and the values of the other attributes, in the schema's order."""

    def __init__(self, head: nn.Module, schema: Schema) -> None:
        super().__init__()
        self.head, self.names = head, schema.names

    def forward(self, features: Tensor) -> Tensor:
        own, strokes = features[:, : -len(NAMES)], features[:, -len(NAMES) :]
        return torch.cat(
            [self.head(own) if name == "label" else strokes[:, NAMES.index(name), None] for name in self.names], 1
        )


def digit_labeler(
    classifier: str | os.PathLike[str] = "digits_labeler", attributes: Sequence[str] | None = None, **options: Any
) -> Labeler:
    """Return a labeler of digits: the class by a network; slant, thickness and width computed from the pixels.

    Args:
        classifier: name or file of an image classifier of the ten classes.
        attributes: names of the attributes; None for all: label, slant, thickness, width.
        options: further arguments of `Labeler`: views, precision, max_batch, confidence, name.

    Returns:
        A labeler of pictures (B, C, 32, 32) in [-1, 1].

    Raises:
        LaceError: for an unknown attribute, and a classifier of something else.

    Example:
        >>> labeler = digit_labeler(attributes=["label", "slant"])
        >>> labeler.labels(torch.full((1, 1, 32, 32), -1.0)).column("slant").tolist()
        [0.375]
    """
    network = AttributeClassifier.load(weight_path(classifier))
    if network.space != "x" or network.schema.num_logits != DIGITS_SCHEMA["label"].num_logits:
        raise LaceError(
            f"The labeler of digits needs an image classifier of ten classes, and '{classifier}' classifies "
            f"{', '.join(network.schema.names)} in space {network.space}: train one by +experiment=digits_labeler."
        )
    schema = DIGITS_SCHEMA if attributes is None else DIGITS_SCHEMA.part(list(attributes))
    whole = DigitAttributes(cast(ImageNetwork, network.network), schema)
    described = {"classifier": network.digest, "attributes": list(schema.names)}
    return Labeler(AttributeClassifier(schema, "x", whole, described), **{"name": str(classifier), **options})
