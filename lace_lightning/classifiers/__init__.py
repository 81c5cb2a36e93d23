"""Classifiers of latents and of pictures, and the energies of queries about them."""

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

SHIPPED = {"cifar10": "cifar10_classifier"}


def load_classifier(name: str | os.PathLike[str]) -> AttributeClassifier:
    """Load a trained classifier: shipped ("cifar10": on w of the shipped generator), or a file of this program's."""
    return AttributeClassifier.load(weight_path(SHIPPED.get(str(name), name)))
