"""Learning rates that warm up and then go down a staircase."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch


def with_staircase(optimizer: torch.optim.Optimizer, trainer: pl.Trainer, warmup_steps: int, decay: float,
                   decay_epochs: int) -> dict[str, Any]:
    """Return what `configure_optimizers` does: linear over `warmup_steps`, and times `decay` every `decay_epochs` epochs."""
    per_epoch = max(1, int(trainer.estimated_stepping_batches) // max(1, trainer.max_epochs or 1))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / max(1, warmup_steps)) * decay ** (step // per_epoch // decay_epochs)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
