"""Learning-rate schedules: linear warm-up with step decay, and one cycle."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch


def steps_per_epoch(trainer: pl.Trainer) -> int:
    """Return the optimizer's steps of an epoch, however early the training ends."""
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    # Data that do not know their length have no second epoch.
    return sys.maxsize if math.isinf(batches) else max(1, math.ceil(batches / trainer.accumulate_grad_batches))


def warmed_up(step: int, warmup_steps: int) -> float:
    """Return the factor of a linear warm-up: (step + 1)/warmup_steps, at most 1.

    Example:
        >>> warmed_up(0, 4), warmed_up(9, 4), warmed_up(0, 0)
        (0.25, 1.0, 1.0)
    """
    return min(1.0, (step + 1) / max(1, warmup_steps))


def by_steps(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    """Return what `configure_optimizers` returns for learning rates times `factor(step)`."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def with_staircase(
    optimizer: torch.optim.Optimizer, trainer: pl.Trainer, warmup_steps: int, decay: float, decay_epochs: int
) -> dict[str, Any]:
    """Return what `configure_optimizers` does: linear over `warmup_steps`, and times `decay` every `decay_epochs`
    epochs.
    """
    per_epoch = steps_per_epoch(trainer)

    def factor(step: int) -> float:
        return warmed_up(step, warmup_steps) * decay ** (step // per_epoch // decay_epochs)

    return by_steps(optimizer, factor)


def with_one_cycle(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], warmup_fraction: float, trainer: pl.Trainer
) -> dict[str, Any]:
    """Return what `configure_optimizers` does.

    Linear up to `rates`, one a parameter group, and down again, by steps.
    """
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        list(rates),
        total_steps=int(trainer.estimated_stepping_batches),
        pct_start=warmup_fraction,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
