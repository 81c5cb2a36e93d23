"""Metrics: conditional accuracy, strength of edits, Fréchet distances, diagnostics of samplers, names of figures.

Importing this package imports none of its modules: names are resolved when they are used, because tables of the command
line read `metrics.names` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accuracy import ConditionalAccuracy, judged_labels
    from .base import MeasuredBatch, PictureMetric, collect_figures
    from .branches import BranchShares
    from .ceiling import Ceiling
    from .editing import EditStrength
    from .fid import (
        INCEPTION_FEATURES,
        TENSORFLOW_RESIZE,
        FeatureStatistics,
        fid_name,
        frechet_distance,
        inception_features,
        inception_weights,
        load_statistics,
        save_statistics,
    )
    from .layers import LayerShares, layers_of
    from .names import Figure, figure_of
    from .reference import GivenStatistics, read_statistics
    from .sampler_diagnostics import SamplerDiagnosis

_MODULES = {
    "accuracy": ("ConditionalAccuracy", "judged_labels"),
    "base": ("MeasuredBatch", "PictureMetric", "collect_figures"),
    "branches": ("BranchShares",),
    "ceiling": ("Ceiling",),
    "editing": ("EditStrength",),
    "fid": (
        "INCEPTION_FEATURES",
        "TENSORFLOW_RESIZE",
        "FeatureStatistics",
        "fid_name",
        "frechet_distance",
        "inception_features",
        "inception_weights",
        "load_statistics",
        "save_statistics",
    ),
    "layers": ("LayerShares", "layers_of"),
    "names": ("Figure", "figure_of"),
    "reference": ("GivenStatistics", "read_statistics"),
    "sampler_diagnostics": ("SamplerDiagnosis",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "INCEPTION_FEATURES",
    "TENSORFLOW_RESIZE",
    "BranchShares",
    "Ceiling",
    "ConditionalAccuracy",
    "EditStrength",
    "FeatureStatistics",
    "Figure",
    "GivenStatistics",
    "LayerShares",
    "MeasuredBatch",
    "PictureMetric",
    "SamplerDiagnosis",
    "collect_figures",
    "fid_name",
    "figure_of",
    "frechet_distance",
    "inception_features",
    "inception_weights",
    "judged_labels",
    "layers_of",
    "load_statistics",
    "read_statistics",
    "save_statistics",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
