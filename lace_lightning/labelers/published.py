"""Labelers from published weights of image networks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..classifiers import AttributeClassifier
from ..classifiers.published import load_published
from ..schema import Schema
from .labeler import Labeler


def published_labeler(
    network: str,
    weights: str | os.PathLike[str],
    schema: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler from a published state dict of an image network; no code in the file is run.

    Args:
        network: name of the network, a key of `IMAGE_NETWORKS` such as densenet_bc or wide_resnet_cifar.
        weights: file of its state dict (.safetensors, .pt, .pth).
        schema: attributes of the network's outputs in their order, in plain containers as `Schema.from_config` reads.
        arguments: arguments of the network besides the number of its outputs; None for its defaults.
        options: further arguments of `Labeler`: views, precision, max_batch, confidence.

    Returns:
        A labeler of pictures (B, 3, R, R) in [-1, 1].

    Raises:
        LaceError: when the network is unknown, or the file is missing, damaged or of another network.
    """
    classifier = AttributeClassifier(Schema.from_config(schema), "x", network, arguments)
    load_published(classifier.network, weights)
    return Labeler(classifier, name=f"{network} {os.path.basename(weights)}", **options)
