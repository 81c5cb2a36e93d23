"""Callbacks: they drive samplers and metrics inside the Trainer."""

from .editing import SequentialEditing, StepwiseEditing
from .evaluation import Evaluation, LatentEvaluation
from .grids import labelled_grid
from .model_editing import ModelEditing
from .model_sampling import ModelSampling
from .progress import TrainingPictures, generator_grid
from .quality import (
    Extractor,
    FeatureSpace,
    RealPictures,
    build_feature_space,
    inception_extractor,
    judge_extractor,
    measure_reference,
    reference_statistics,
)
from .sampling import ConditionalSampling, EnergyOptions
from .temperature import TemperatureStrips

__all__ = [
    "ConditionalSampling",
    "EnergyOptions",
    "Evaluation",
    "Extractor",
    "FeatureSpace",
    "LatentEvaluation",
    "ModelEditing",
    "ModelSampling",
    "RealPictures",
    "SequentialEditing",
    "StepwiseEditing",
    "TemperatureStrips",
    "TrainingPictures",
    "build_feature_space",
    "generator_grid",
    "inception_extractor",
    "judge_extractor",
    "labelled_grid",
    "measure_reference",
    "reference_statistics",
]
