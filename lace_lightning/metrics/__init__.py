"""What is measured: conditional accuracy, strength of edits, Fréchet distances."""

from .accuracy import ConditionalAccuracy
from .branches import BranchShares
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
from .reference import GivenStatistics, read_statistics
from .sampler_diagnostics import SamplerDiagnosis

__all__ = [
    "INCEPTION_FEATURES",
    "TENSORFLOW_RESIZE",
    "BranchShares",
    "ConditionalAccuracy",
    "EditStrength",
    "FeatureStatistics",
    "GivenStatistics",
    "LayerShares",
    "SamplerDiagnosis",
    "fid_name",
    "frechet_distance",
    "inception_features",
    "inception_weights",
    "layers_of",
    "load_statistics",
    "read_statistics",
    "save_statistics",
]
