"""Energies E(u) of densities p ∝ exp(-E): terms, logic, pull-back, and building from a query."""

from .anchors import Affine, Anchor, Near
from .base import And, Energy, Not, Or, Pullback, Weighted, linearize
from .from_query import build
from .joint import Joint
from .logic import Cases, Cells, Certain, Count, PaperNot, PaperOr
from .region import WALL, Region
from .reward import Reward
from .terms import Continuous, Discrete, HalfLine, Interval, OneOf, Prior

__all__ = [
    "WALL",
    "Affine",
    "Anchor",
    "And",
    "Cases",
    "Cells",
    "Certain",
    "Continuous",
    "Count",
    "Discrete",
    "Energy",
    "HalfLine",
    "Interval",
    "Joint",
    "Near",
    "Not",
    "OneOf",
    "Or",
    "PaperNot",
    "PaperOr",
    "Prior",
    "Pullback",
    "Region",
    "Reward",
    "Weighted",
    "build",
    "linearize",
]
