"""What is measured: conditional accuracy, strength of edits, Fréchet distances."""

from .accuracy import ConditionalAccuracy
from .branches import BranchShares
from .diagnosis import SamplerDiagnosis
from .editing import EditStrength
from .fid import (
    FeatureStatistics,
    frechet_distance,
    inception_features,
    inception_weights,
    load_statistics,
    save_statistics,
)
from .layers import LayerShares, layers_of

__all__ = ["BranchShares", "ConditionalAccuracy", "EditStrength", "FeatureStatistics", "LayerShares",
           "SamplerDiagnosis", "frechet_distance",
           "inception_features", "inception_weights", "layers_of", "load_statistics", "save_statistics"]
