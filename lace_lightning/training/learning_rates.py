"""Learning-rate schedules: linear warm-up with step decay, and one cycle."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch


def steps_per_epoch(trainer: pl.Trainer) -> int:
    """Return the number of optimizer steps of an epoch, also when the training ends before the epoch does.

    Args:
        trainer: the trainer during `fit`.

    Returns:
        At least 1; `sys.maxsize` for data without a length, which have no second epoch.
    """
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    return sys.maxsize if math.isinf(batches) else max(1, math.ceil(batches / trainer.accumulate_grad_batches))


def warmed_up(step: int, warmup_steps: int) -> float:
    """Return the factor of a linear warm-up: (step + 1)/warmup_steps, at most 1.

    Args:
        step: number of the step, from 0.
        warmup_steps: length of the warm-up in steps; 0 for none.

    Returns:
        The factor, in (0, 1].

    Example:
        >>> warmed_up(0, 4), warmed_up(9, 4), warmed_up(0, 0)
        (0.25, 1.0, 1.0)
    """
    return min(1.0, (step + 1) / max(1, warmup_steps))


def by_steps(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    """Return the result of `configure_optimizers` for learning rates that are multiplied by `factor(step)`.

    Args:
        optimizer: the optimizer with its base learning rates.
        factor: function of the number of the step, from 0.

    Returns:
        The optimizer and a scheduler that steps after every optimizer step.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
        >>> by_steps(optimizer, lambda step: 0.5)["optimizer"].param_groups[0]["lr"]
        0.1
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def with_staircase(
    optimizer: torch.optim.Optimizer, trainer: pl.Trainer, warmup_steps: int, decay: float, decay_epochs: int
) -> dict[str, Any]:
    """Return the result of `configure_optimizers` for a linear warm-up, and a factor `decay` every `decay_epochs`.

    Args:
        optimizer: the optimizer with its base learning rates.
        trainer: the trainer during `fit`, which gives the steps of an epoch.
        warmup_steps: length of the warm-up in steps; 0 for none.
        decay: factor of the learning rate at each decay, above 0, at most 1.
        decay_epochs: epochs between two decays, at least 1.

    Returns:
        The optimizer and its scheduler.
    """
    per_epoch = steps_per_epoch(trainer)

    def factor(step: int) -> float:
        return warmed_up(step, warmup_steps) * decay ** (step // per_epoch // decay_epochs)

    return by_steps(optimizer, factor)


def with_one_cycle(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], warmup_fraction: float, trainer: pl.Trainer
) -> dict[str, Any]:
    """Return the result of `configure_optimizers` for one cycle: a linear rise to `rates`, then a linear fall.

    Args:
        optimizer: the optimizer.
        rates: peak learning rates, one for each parameter group, above 0.
        warmup_fraction: share of the steps, from 0 to 1, over which the learning rates rise.
        trainer: the trainer during `fit`, which gives the number of steps.

    Returns:
        The optimizer and its scheduler.

    References:
        Smith and Topin, Super-convergence (arXiv 1708.07120).
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
