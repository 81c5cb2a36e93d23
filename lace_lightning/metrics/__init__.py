"""What is measured: conditional accuracy and Fréchet distances."""

from .accuracy import ConditionalAccuracy
from .fid import (
    FeatureStatistics,
    frechet_distance,
    inception_features,
    inception_weights,
    load_statistics,
    save_statistics,
)

__all__ = ["ConditionalAccuracy", "FeatureStatistics", "frechet_distance", "inception_features", "inception_weights",
           "load_statistics", "save_statistics"]
