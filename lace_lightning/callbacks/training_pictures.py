"""Pictures of a generator while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image

from ..artifacts import atomic_path
from ..pictures.convert import to_bytes
from ..pictures.grids import labelled_grid
from ..training.generator import GANTraining


def generator_grid(module: GANTraining, rows: int = 8, columns: int = 10) -> Image.Image:
    """Return a picture grid of the moving average, always of the same latents.

    Args:
        module: the training of a generator.
        rows: rows of the grid, at least 1.
        columns: columns of the grid, at least 1.
    """
    images = to_bytes(module.sample(rows * columns)).cpu()
    return labelled_grid(
        list(images.split(columns)), [""] * rows, f"{float(module.images_seen) / 1000:.0f} thousand pictures seen"
    )


class TrainingPictures(pl.Callback):
    """Write pictures of the moving average to a file, and give them to the loggers, at intervals of a training.

    Args:
        path: the PNG file, which is overwritten.
        every_kimg: thousand training pictures between two drawings, at least 0.001.

    Example:
        >>> TrainingPictures("samples.png", every_kimg=20.0).every
        20000
    """

    def __init__(self, path: str | Path, every_kimg: float = 20.0) -> None:
        self.path, self.every = Path(path), int(1000 * every_kimg)
        self.last = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the pictures when the next interval of training pictures is complete."""
        assert isinstance(pl_module, GANTraining)
        number = int(pl_module.images_seen) // self.every
        if number == self.last or not trainer.is_global_zero:
            return
        self.last = number
        grid = generator_grid(pl_module)
        with atomic_path(self.path) as temporary:
            grid.save(temporary, format="png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [grid])
