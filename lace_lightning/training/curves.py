"""Curves of trainings: figures over steps, kept in checkpoints and beside the trained state, and logged again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ..cache import is_whole, sealed_path

# File of a curve, beside the trained state.
CURVE = "curve.json"
Row = dict[str, float]


class _Rows(Logger):
    """Logger that hands figures to a function.

    Args:
        take: takes figures by name and the step.
    """

    name, version = "curve", ""

    def __init__(self, take: Any) -> None:
        super().__init__()
        self._take = take

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._take(metrics, 0 if step is None else step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Take no settings."""


class TrainingCurve(pl.Callback):
    """Keep the figures that a training logs, in its checkpoints too, and log those of before a stop again.

    Args:
        first_step: steps of earlier parts of the training, which are added to the steps, at least 0.

    Attributes:
        rows: figures by name, with `step` and `epoch`, in the order of the steps.
        logger: the logger that the trainer has to have.

    Example:
        >>> curve = TrainingCurve(first_step=100)
        >>> curve.logger.log_metrics({"train/loss": 0.5}, 49)
        >>> curve.logger.log_metrics({"epoch": 3}, 49)
        >>> curve.rows
        [{'step': 149, 'train/loss': 0.5, 'epoch': 3.0}]
    """

    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        self.rows: list[Row] = []
        self.logger = _Rows(self._add)

    def _add(self, metrics: Mapping[str, float], step: int) -> None:
        number = self.first_step + step
        if not self.rows or self.rows[-1]["step"] != number:
            self.rows.append({"step": number})
        self.rows[-1] |= {name: float(value) for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows up to a checkpoint."""
        self.rows = list(state_dict["rows"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the rows up to the checkpoint again: the loggers of this run do not know them."""
        log_curve(trainer.loggers, self.rows)


@rank_zero_only
def log_curve(loggers: Iterable[Any], rows: Sequence[Row]) -> None:
    """Log a curve to those loggers that take one.

    Args:
        loggers: the loggers; others than those with `log_curve` are left out.
        rows: the rows of the curve.
    """
    for logger in loggers:
        if rows and hasattr(logger, "log_curve"):
            logger.log_curve(rows)


def write_curve(folder: Path, rows: Sequence[Row]) -> None:
    """Write a curve beside the trained state, with a checksum.

    Args:
        folder: folder of the training.
        rows: the rows of the curve.

    Raises:
        LaceError: when it cannot be written.
    """
    with sealed_path(folder / CURVE) as temporary:
        temporary.write_text(json.dumps({"rows": list(rows)}), encoding="utf-8")


def read_curve(folder: Path) -> list[Row]:
    """Return the curve of a training; empty where none was kept, and, with a warning, where it is damaged.

    Args:
        folder: folder of the training.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_curve(Path(folder), [{"step": 49, "train/loss": 0.5}])
        ...     read_curve(Path(folder)), read_curve(Path(folder) / "other")
        ([{'step': 49, 'train/loss': 0.5}], [])
    """
    if not is_whole(folder / CURVE):
        return []
    return list(json.loads((folder / CURVE).read_text(encoding="utf-8"))["rows"])
