"""Energies E(u) >= 0 up to a constant, lower is better, p ∝ exp(-E): terms, logic, pull-back, and building from a query."""

from .base import And, Energy, Not, Or, Pullback, Weighted, linearize
from .from_query import build
from .logic import Cases, PaperNot, PaperOr
from .terms import Continuous, Discrete, HalfLine, Prior

__all__ = ["And", "Cases", "Continuous", "Discrete", "Energy", "HalfLine", "Not", "Or", "PaperNot", "PaperOr", "Prior",
           "Pullback", "Weighted", "build", "linearize"]
