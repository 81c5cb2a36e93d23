"""Training to its end, however often it is killed on the way."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import Logger

from ..artifacts import atomic_path, write_json
from .building import is_rank_zero
from .results import trainer_for


def fit_to_end(
    cfg: DictConfig,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: Path,
    loggers: list[Logger],
    every: Mapping[str, Any],
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> tuple[pl.Trainer, float]:
    """Train from the checkpoint in `folder`, if there is one, to the end; return the trainer and the seconds of
    training in all.

    `every` says when a checkpoint is written (see `ModelCheckpoint`); the end is written too, so that a training that
    has ended is found.
    """
    # With a Timer of one's own, Lightning leaves `max_time` to it.
    last, clock = folder / "last.ckpt", Timer(cfg.trainer.get("max_time"))
    # `save_last` with no other checkpoint saves none at the end of epochs; left to itself it saves where it validates,
    # less often.
    checkpoint = ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False, **every)
    trainer = trainer_for(
        cfg,
        loggers,
        callbacks=[clock, checkpoint, *callbacks],
        enable_progress_bar=bool(cfg.callbacks.progress),
        **options,
    )
    if last.is_file() and is_rank_zero():
        print(f"found {last}", file=sys.stderr, flush=True)
    trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    # Where the end was there, nothing started.
    if clock.start_time("train") is not None:
        with atomic_path(last) if is_rank_zero() else nullcontext(last) as place:
            trainer.save_checkpoint(place)
        if is_rank_zero():
            write_json(folder / "steps.json", {"steps": trainer.global_step, "seconds": clock.time_elapsed("train")})
    return trainer, clock.time_elapsed("train")
