"""Runs of Weights & Biases: curves on step axes of their own, tables with pictures, artefacts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.utilities import rank_zero_only

from .series import TRAINING, named_row
from .words import one_kind_a_column


class WandbLogger(LightningWandbLogger):
    """Logger of W&B with curves on step axes of their own, tables with pictures, and artefacts.

    Args:
        options: arguments of Lightning's WandbLogger and of `wandb.init`.

    Example:
        >>> WandbLogger(name="run", save_dir="folder", mode="offline").save_dir
        'folder'
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Without a value it has no effect but a warning of some versions of W&B.
        if self._wandb_init.get("anonymous") is None:
            self._wandb_init.pop("anonymous", None)
        self._axes: set[str] = set()

    @rank_zero_only
    def log_curve(self, rows: Iterable[Mapping[str, float]], series: str = TRAINING) -> None:
        """Log figures over the steps of a series.

        Args:
            rows: figures by name, each with `step`.
            series: name of the series.
        """
        axis = f"{series}/step"
        for row in rows:
            named = named_row(row, series)
            for name in [name for name in named if name not in self._axes]:
                # One by one: a pattern would compete with the pattern of Lightning's own axis.
                self.experiment.define_metric(name, **({} if name == axis else {"step_metric": axis}))
                self._axes.add(name)
            self.experiment.log(named)

    @rank_zero_only
    def log_table(  # type: ignore[override]
        self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], **_: Any
    ) -> None:
        """Log a table.

        Args:
            key: name of the table.
            columns: names of the columns.
            data: cells of each row: numbers, texts and PIL pictures.
        """
        import wandb

        rows = [
            [wandb.Image(value) if isinstance(value, Image.Image) else value for value in row]
            for row in one_kind_a_column(data)
        ]
        self.experiment.log({key: wandb.Table(columns=list(columns), data=rows)})

    @rank_zero_only
    def log_summary(self, figures: Mapping[str, Any]) -> None:
        """Log values of the whole run.

        Args:
            figures: numbers and texts by name.
        """
        self.experiment.summary.update(dict(figures))

    @rank_zero_only
    def log_files(self, name: str, paths: Sequence[Path]) -> None:
        """Log files as an artefact.

        Args:
            name: name of the artefact; letters that W&B does not take become `-`.
            paths: the files.
        """
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", name)[:120], type="results")
        for path in paths:
            artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact)
