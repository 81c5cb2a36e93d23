"""Control a frozen, pre-trained image generator by attribute, with latent-space energy-based models.

>>> import lace_lightning as lace
>>> generator = lace.load_generator("cifar10")
>>> classifier = lace.load_classifier("cifar10")
>>> energy = classifier.energy("label == ship").pullback(generator.mapping)
>>> sample = lace.samplers.Heun()(energy, generator.prior(16, seed=0))
>>> images = generator.synthesis(generator.mapping(sample.z))
>>> images.shape
torch.Size([16, 3, 32, 32])
>>> bool((classifier.schema.decode(classifier(generator.mapping(sample.z))).column("label") == 8).float().mean() > 0.8)
True

Step by step, with a way back:

>>> editor = lace.Editor(generator, classifier, lace.samplers.Heun())
>>> before = editor.begin(generator.prior(4, seed=0))
>>> ship = editor.apply(before, "label == ship")
>>> truck = editor.apply(ship, "label == truck")
>>> generator.synthesis(truck.ws).shape
torch.Size([4, 3, 32, 32])
>>> truck.undo() is ship
True
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .deferred import defer_torchmetrics

__version__ = "0.2.0"

# Name -> module it comes from: importing the package stays cheap, and needs neither Hydra nor Lightning.
_NAMES = {
    "load_generator": "generators",
    "ModuleGenerator": "generators",
    "as_generator": "generators",
    "as_labeler": "labelers",
    "fit": "api",
    "draw": "api",
    "evaluate": "api",
    "edit": "api",
    "Samples": "systems.handover",
    "load_classifier": "classifiers",
    "Attribute": "schema",
    "Schema": "schema",
    "Labels": "schema",
    "Query": "query",
    "parse": "query",
    "Energy": "energies",
    "Labeler": "labelers",
    "LaceError": "errors",
    "FixedFlow": "exports",
    "export": "exports",
    "push": "hub",
    "pull": "hub",
    "Editor": "systems.editing",
    "EditOptions": "systems.editing",
    "project": "systems.projection",
    "Projected": "systems.projection",
    "ProjectionOptions": "systems.projection",
}
_MODULES = (
    "samplers",
    "energies",
    "generators",
    "classifiers",
    "labelers",
    "metrics",
    "seeds",
    "schema",
    "query",
    "weights",
)

__all__ = ["__version__", *_NAMES, *_MODULES]

# Before Lightning is imported, by this program or by the one that imports it.
defer_torchmetrics()


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f".{_NAMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
