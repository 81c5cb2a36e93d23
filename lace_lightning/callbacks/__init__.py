"""Callbacks of Lightning: measurement of systems in a test, pictures of a generator in training."""

from .drawing import Drawing
from .editing import SequentialEditing
from .evaluation import Evaluation, ResultTable, SystemEvaluation
from .latent_editing import LatentEditing
from .sampling import ConditionalSampling
from .temperature import TemperatureStrips
from .training_pictures import TrainingPictures, generator_grid

__all__ = [
    "ConditionalSampling",
    "Drawing",
    "Evaluation",
    "LatentEditing",
    "ResultTable",
    "SequentialEditing",
    "SystemEvaluation",
    "TemperatureStrips",
    "TrainingPictures",
    "generator_grid",
]
