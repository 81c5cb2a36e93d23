"""Callbacks: they drive samplers and metrics inside the Trainer."""

from .editing import SequentialEditing, StepwiseEditing
from .evaluation import Evaluation, LatentEvaluation
from .model_editing import ModelEditing
from .model_sampling import ModelSampling
from .sampling import ConditionalSampling, EnergyOptions
from .temperature import TemperatureStrips
from .training_pictures import TrainingPictures, generator_grid

__all__ = [
    "ConditionalSampling",
    "EnergyOptions",
    "Evaluation",
    "LatentEvaluation",
    "ModelEditing",
    "ModelSampling",
    "SequentialEditing",
    "StepwiseEditing",
    "TemperatureStrips",
    "TrainingPictures",
    "generator_grid",
]
