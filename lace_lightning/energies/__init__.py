"""Energies E(u) of densities p ∝ exp(-E): terms, logic, pull-back, and building from a query."""

from .anchors import Affine, Anchor, Near
from .base import And, Energy, Not, Or, Pullback, Weighted, linearize
from .from_query import build
from .joint import Joint
from .logic import Cases, PaperNot, PaperOr
from .region import WALL, Region
from .terms import Continuous, Discrete, HalfLine, Prior

__all__ = [
    "WALL",
    "Affine",
    "Anchor",
    "And",
    "Cases",
    "Continuous",
    "Discrete",
    "Energy",
    "HalfLine",
    "Joint",
    "Near",
    "Not",
    "Or",
    "PaperNot",
    "PaperOr",
    "Prior",
    "Pullback",
    "Region",
    "Weighted",
    "build",
    "linearize",
]
