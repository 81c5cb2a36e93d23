"""Names of figures over steps, each series with a step axis of its own."""

from __future__ import annotations

from collections.abc import Mapping

# Names of the series of a training, and of figures after each edit.
TRAINING, EDITING, TEMPERATURE = "training", "editing", "temperature"


def named_row(row: Mapping[str, float], series: str) -> dict[str, float]:
    """Return a row of a series under the names that loggers use.

    Args:
        row: figures by name, with `step`.
        series: name of the series, which becomes the first word of all names; `train/` is dropped.

    Example:
        >>> named_row({"step": 49, "train/loss": 0.5, "val/loss": 0.6}, "training")
        {'training/step': 49, 'training/loss': 0.5, 'training/val/loss': 0.6}
    """
    return {f"{series}/{name.removeprefix('train/')}": value for name, value in row.items()}
