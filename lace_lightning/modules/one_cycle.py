"""One cycle of learning rates over a whole training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch


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
