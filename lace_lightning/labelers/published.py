"""A labeler out of somebody's published weights."""

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
    """Return a labeler from a published state dict of an image network by name (`densenet_bc`, `wide_resnet_cifar`).

    `schema` gives the network's outputs in plain containers, in their order; `options` go to `Labeler`. Raises
    LaceError for weights of another network; nothing in their file is run.
    """
    classifier = AttributeClassifier(Schema.from_config(schema), "x", network, arguments)
    load_published(classifier.network, weights)
    return Labeler(classifier, name=f"{network} {os.path.basename(weights)}", **options)
