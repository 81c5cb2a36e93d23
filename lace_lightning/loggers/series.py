"""Names of figures over steps, each series with a step axis of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


class StepCurves:
    """Curves for a logger of Lightning that takes the step beside the figures.

    Example:
        >>> class Shown(StepCurves):
        ...     def log_metrics(self, metrics, step=None):
        ...         print(step, metrics)
        >>> Shown().log_curve([{"step": 49, "train/loss": 0.5}])
        49 {'training/loss': 0.5}
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures by name at a step; the logger defines it."""
        raise NotImplementedError(f"{type(self).__name__} must define log_metrics(metrics, step).")

    def log_curve(self, rows: Iterable[Mapping[str, float]], series: str = TRAINING) -> None:
        """Log figures over the steps of a series.

        Args:
            rows: figures by name, each with `step`.
            series: name of the series.
        """
        for row in rows:
            values = {name: value for name, value in row.items() if name != "step"}
            self.log_metrics(named_row(values, series), int(row["step"]))
