"""Runs of TensorBoard: scalars, pictures, tables as text, and settings beside the figures (HParams)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger as LightningTensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from ..cache import flat
from .series import StepCurves
from .words import markdown_text


class TensorBoardLogger(LightningTensorBoardLogger, StepCurves):
    """Logger of TensorBoard with curves, pictures, tables as text, and settings beside the figures.

    Args:
        save_dir: folder of the files.
        options: further arguments of Lightning's TensorBoardLogger.

    Example:
        >>> TensorBoardLogger("folder", name="tensorboard", version="").log_dir
        'folder/tensorboard/'
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        super().__init__(save_dir, default_hp_metric=False, **options)
        self._settings: dict[str, Any] = {}

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Store settings until the figures are known: TensorBoard takes both together."""
        if not self._settings:
            self._settings = {name: _hparam(value) for name, value in flat(params).items()}

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Any], step: int | None = None) -> None:
        """Log pictures.

        Args:
            key: name of the pictures.
            images: PIL pictures.
            step: the step, 0 by default.
        """
        for number, image in enumerate(images):
            name = key if number == 0 else f"{key}/{number}"
            self.experiment.add_image(name, np.asarray(image.convert("RGB")), step or 0, dataformats="HWC")

    @rank_zero_only
    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        """Log a table as text, and the pictures of its first columns as pictures.

        Args:
            key: name of the table.
            columns: names of the columns.
            data: cells of each row: numbers, texts and PIL pictures.
        """
        self.experiment.add_text(key, markdown_text(columns, data), 0)
        pictures = [value for row in data for value in row if isinstance(value, Image.Image)]
        # All of them would be a page without end.
        self.log_image(f"{key}/pictures", pictures[:16])

    @rank_zero_only
    def log_summary(self, figures: Mapping[str, Any]) -> None:
        """Log the settings with numbers of the whole run.

        Args:
            figures: numbers and texts by name; texts become text.
        """
        from torch.utils.tensorboard.summary import hparams

        numbers = {name: float(value) for name, value in figures.items() if isinstance(value, (int, float))}
        for name in figures.keys() - numbers.keys():
            self.experiment.add_text(name, str(figures[name]), 0)
        writer = self.experiment._get_file_writer()
        for part in hparams(self._settings, {f"hparams/{name}": value for name, value in numbers.items()}):
            writer.add_summary(part)
        for name, value in numbers.items():
            self.experiment.add_scalar(f"hparams/{name}", value, 0)


def _hparam(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float)) else str(value)[:250]
