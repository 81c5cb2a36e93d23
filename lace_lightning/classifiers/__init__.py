"""Classifiers of latents and of pictures, and identity embeddings of pictures."""

from __future__ import annotations

import os

from ..weights import weight_path
from .base import AttributeClassifier
from .embedding import Embedding, IdentityEmbedding, ScriptedEmbedding, load_embedding
from .latent import LatentMLP
from .mobilenet import MobileNet
from .resnets import ResNet9, WideResNet

__all__ = [
    "AttributeClassifier",
    "Embedding",
    "IdentityEmbedding",
    "LatentMLP",
    "MobileNet",
    "ResNet9",
    "ScriptedEmbedding",
    "WideResNet",
    "load_classifier",
    "load_embedding",
]

SHIPPED = {name: f"{name}_classifier" for name in ("cifar10", "digits", "faces", "portraits")}


def load_classifier(name: str | os.PathLike[str]) -> AttributeClassifier:
    """Return a trained classifier, frozen.

    Args:
        name: cifar10, digits, portraits (latents w) or faces (latents z) for the shipped classifier of the shipped
            generator of that name, the name of other shipped weights, or a safetensors file that
            `AttributeClassifier.save` wrote.

    Returns:
        The classifier in evaluation mode.

    Raises:
        LaceError: when the name is unknown, or the file is missing, damaged or no classifier.

    Example:
        >>> classifier = load_classifier("cifar10")
        >>> classifier.space, classifier.schema.names
        ('w', ('label',))
    """
    return AttributeClassifier.load(weight_path(SHIPPED.get(str(name), name)))
