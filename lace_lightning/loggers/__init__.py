"""Loggers of runs: W&B, TensorBoard and MLflow with curves, pictures, tables and files; extras that they need."""

from .extras import check_extra
from .identity import RunIdentity
from .lasting import LastingLogger, training_names
from .series import named_row
from .words import plain_cell

__all__ = ["LastingLogger", "RunIdentity", "check_extra", "named_row", "plain_cell", "training_names"]
