"""Progress of a training as one line: steps done, rate, time left and the latest figures."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from ..progress import bar


class TrainingLine(ProgressBar):
    """Lightning's progress bar as one line for a whole training, over the batches of all epochs.

    Example:
        >>> line = TrainingLine()
        >>> line.disable()
        >>> line.is_enabled
        False
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True
        self._line: Any = None

    def disable(self) -> None:
        """Show nothing, as Lightning asks of processes other than the first."""
        self.is_enabled = False

    def enable(self) -> None:
        """Show the line again."""
        self.is_enabled = True

    @staticmethod
    def place(trainer: pl.Trainer, batches: int) -> tuple[int, int | None]:
        """Return how many batches, or steps where these are limited, are done and how many there are in all.

        Args:
            trainer: the trainer in its fit.
            batches: number of batches of this epoch that are done.
        """
        epochs, each = trainer.max_epochs, trainer.num_training_batches
        if trainer.max_steps > 0:
            return trainer.global_step, trainer.max_steps
        if epochs is None or epochs < 0 or each == float("inf"):
            return trainer.global_step, None
        return trainer.current_epoch * int(each) + batches, epochs * int(each)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the line, at the place of the checkpoint that the training goes on from."""
        super().on_train_start(trainer, pl_module)
        done, total = self.place(trainer, 0)
        unit = "step" if trainer.max_steps > 0 or total is None else "batch"
        self._line = bar(f"training {type(pl_module).__name__}", total, unit, self.is_enabled, done)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the line on, with the latest figures."""
        if self._line is None or self._line.disable:
            return
        done, _ = self.place(trainer, batch_idx + 1)
        if (batch_idx + 1) % 10 == 0:
            self._line.set_postfix_str(self._figures(trainer, pl_module), refresh=False)
        self._line.update(done - self._line.n)

    def _figures(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
        figures = self.get_metrics(trainer, pl_module)
        values = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        return ", ".join(f"{name} {value:.3g}" for name, value in values.items())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the line."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the line."""
        self._close()

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
