"""Runs of MLflow in a folder of files: parameters, figures over steps, pictures, tables and files as artefacts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger as LightningMLFlowLogger
from pytorch_lightning.utilities import rank_zero_only

from ..cache import flat
from .series import StepCurves
from .words import csv_text


def metric_name(name: str) -> str:
    """Return the name of a figure in MLflow.

    Args:
        name: name of the figure in metrics.json, behind `sampling/` or the name of a series.

    Example:
        >>> metric_name("sampling/acc/label/ship")
        'sampling/acc.label.ship'
    """
    first, slash, rest = re.sub(r"[^a-zA-Z0-9_/. -]+", "_", name).partition("/")
    return first + slash + rest.replace("/", ".")


class MLFlowLogger(LightningMLFlowLogger, StepCurves):
    """Logger of MLflow with curves, pictures, tables and files; a folder of files needs no server.

    Args:
        options: arguments of Lightning's MLFlowLogger.

    Example:
        >>> MLFlowLogger.__base__.__name__
        'MLFlowLogger'
    """

    def __init__(self, **options: Any) -> None:
        # MLflow 3 refuses a folder of files without the first, and asks a server about its use without the second.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # It warns of every new experiment.
        logging.getLogger(LightningMLFlowLogger.__module__).setLevel(logging.ERROR)
        super().__init__(**options)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Log settings by their dotted names."""
        super().log_hyperparams(flat(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures, with one `/` in a name: a figure is a file, so `acc` and `acc/smile` cannot be side by side."""
        super().log_metrics({metric_name(name): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Any], **_: Any) -> None:
        """Log pictures as PNG files.

        Args:
            key: name of the pictures.
            images: PIL pictures.
        """
        with TemporaryDirectory() as folder:
            for number, image in enumerate(images):
                path = Path(folder) / (f"{key}.png" if number == 0 else f"{key}_{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            self.experiment.log_artifacts(self.run_id, folder, "pictures")

    @rank_zero_only
    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        """Log a table as a CSV file, and its pictures as PNG files that the table names.

        Args:
            key: name of the table, which is its folder too.
            columns: names of the columns.
            data: cells of each row: numbers, texts and PIL pictures.
        """
        with TemporaryDirectory() as folder:
            rows, last = [], key.rpartition("/")[2]
            for number, row in enumerate(data):
                cells = []
                for value in row:
                    if isinstance(value, Image.Image):
                        name = f"{last}_{number:04d}.png"
                        value.save(Path(folder) / name)
                        value = name
                    cells.append(value)
                rows.append(cells)
            (Path(folder) / f"{last}.csv").write_text(csv_text(columns, rows), encoding="utf-8")
            self.experiment.log_artifacts(self.run_id, folder, key)

    @rank_zero_only
    def log_summary(self, figures: Mapping[str, Any]) -> None:
        """Log values of the whole run: numbers as figures, texts as tags.

        Args:
            figures: numbers and texts by name.
        """
        self.log_metrics({name: value for name, value in figures.items() if isinstance(value, (int, float))})
        for name, value in figures.items():
            if not isinstance(value, (int, float)):
                self.experiment.set_tag(self.run_id, name, str(value)[:5000])

    @rank_zero_only
    def log_files(self, name: str, paths: Sequence[Path]) -> None:
        """Log files as artefacts.

        Args:
            name: folder of the artefacts.
            paths: the files.
        """
        for path in paths:
            self.experiment.log_artifact(self.run_id, str(path), name)
