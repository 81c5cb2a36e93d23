"""Tiny parts with random weights, which the examples of docstrings share."""

from __future__ import annotations

from torch import nn

from .classifiers import AttributeClassifier
from .generators import ModuleGenerator
from .labelers import Labeler
from .schema import Attribute, Schema
from .systems.lace import LACE


def tiny_schema() -> Schema:
    """Return a schema with one attribute, `hat`, of two classes.

    Example:
        >>> tiny_schema().names
        ('hat',)
    """
    return Schema("tiny", (Attribute("hat"),))


def tiny_generator() -> ModuleGenerator:
    """Return a generator of pictures (3, 16, 16) from latents of size 4.

    Example:
        >>> generator = tiny_generator()
        >>> tuple(generator(generator.prior(2)).shape)
        (2, 3, 16, 16)
    """
    decoder = nn.Sequential(nn.Linear(4, 768), nn.Tanh(), nn.Unflatten(1, (3, 16, 16)))
    return ModuleGenerator(decoder, 4, (3, 16, 16))


def tiny_labeler() -> Labeler:
    """Return a labeler of the pictures of `tiny_generator`, which serves as a judge too.

    Example:
        >>> tiny_labeler().schema == tiny_schema()
        True
    """
    return Labeler(AttributeClassifier(tiny_schema(), "x", "resnet9", {"width": 2}), precision="float32")


def tiny_lace() -> LACE:
    """Return LACE with a classifier of z, bound to `tiny_generator`.

    Example:
        >>> tiny_lace().space
        'z'
    """
    system = LACE(tiny_schema(), space="z", arguments={"input_dim": 4})
    system.bind(tiny_generator())
    return system
