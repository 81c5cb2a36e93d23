"""Samplers: from an attribute energy and starting points to latents with the attributes."""

from .base import Sample, Sampler
from .euler import Euler
from .heun import Heun
from .langevin import Langevin
from .ode import ODE
from .predictor_corrector import PredictorCorrector
from .runge_kutta import RungeKutta, sample_settings

__all__ = ["ODE", "Euler", "Heun", "Langevin", "PredictorCorrector", "RungeKutta", "Sample", "Sampler", "sample_settings"]
