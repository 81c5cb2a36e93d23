"""Callbacks: they drive samplers and metrics inside the Trainer."""

from .grids import labelled_grid
from .quality import FeatureSpace, build_feature_space, measure_reference, reference_statistics
from .sampling import ConditionalSampling, EnergyOptions, Evaluation

__all__ = ["ConditionalSampling", "EnergyOptions", "Evaluation", "FeatureSpace", "build_feature_space", "labelled_grid",
           "measure_reference", "reference_statistics"]
