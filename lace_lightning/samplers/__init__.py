"""Samplers of latents from an attribute energy: flows, exact Markov chains, rejection and Langevin chains."""

from .annealed import Annealed
from .auto import Auto
from .base import Sample, Sampler
from .euler import Euler
from .filtered import Checked, Filtered
from .flow import Flow
from .gauss_newton import GaussNewton
from .heun import Heun
from .hmc import HamiltonianMC
from .importance import effective_sample_size, log_probability
from .langevin import FlatLangevin, Langevin
from .markov import Chain
from .ode import ODE
from .pcn import CrankNicolson
from .predictor_corrector import PredictorCorrector
from .rejection import Rejection
from .runge_kutta import RungeKutta, sample_settings
from .slice import EllipticalSlice
from .tuning import TunedChain

__all__ = [
    "ODE",
    "Annealed",
    "Auto",
    "Chain",
    "Checked",
    "CrankNicolson",
    "EllipticalSlice",
    "Euler",
    "Filtered",
    "FlatLangevin",
    "Flow",
    "GaussNewton",
    "HamiltonianMC",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "Rejection",
    "RungeKutta",
    "Sample",
    "Sampler",
    "TunedChain",
    "effective_sample_size",
    "log_probability",
    "sample_settings",
]
