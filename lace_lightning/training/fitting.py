"""Trainings that resume from their last checkpoint, and the cache of trained states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, Timer

from ..artifacts import write_json
from ..cache import Cache, Entry, sealed_path
from ..data.processes import in_first, is_rank_zero, note_found, say, say_found
from ..source import code_of
from .checkpoints import STEPS, SealedCheckpoints, newest_checkpoint, remove_checkpoints
from .curves import TrainingCurve, log_curve, read_curve, write_curve
from .progress_line import TrainingLine

# File of a trained state.
TRAINED = "system.safetensors"
# (module, data, folder, every, **options of the trainer) -> the trainer after its fit, and the seconds in all.
Fit = Callable[..., tuple[pl.Trainer, float]]


class Trainable(Protocol):
    """A LightningModule whose trained state can be stored in a file.

    Example:
        >>> from lace_lightning.systems.lace import LACE
        >>> all(hasattr(LACE, name) for name in ("after_training", "save_trained", "load_trained"))
        True
    """

    def after_training(self, data: pl.LightningDataModule) -> None:
        """Finish the training after its last step, for example by a calibration."""

    def save_trained(self, path: Path, **metadata: Any) -> None:
        """Write the trained state."""

    def load_trained(self, path: Path) -> dict[str, Any]:
        """Read the trained state, and return its metadata."""


@dataclass
class Stage:
    """A part of a training.

    Args:
        data: the data module.
        every: when a checkpoint is written, arguments of `ModelCheckpoint`.
        module: the module that is fitted in this part; None for the system itself.
        options: further arguments of the trainer.

    Example:
        >>> stage = Stage.of_epochs(pl.LightningDataModule(), 20)
        >>> stage.every["every_n_epochs"], stage.options
        (2, {'max_epochs': 20})
    """

    data: pl.LightningDataModule
    every: Mapping[str, Any]
    module: pl.LightningModule | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_epochs(cls, data: pl.LightningDataModule, epochs: int, module: pl.LightningModule | None = None) -> Stage:
        """Return a stage of a number of epochs, with about ten checkpoints."""
        every = {"every_n_epochs": max(1, epochs // 10), "save_on_train_epoch_end": True}
        return cls(data, every, module, {"max_epochs": epochs})


def train_or_load(
    cache: Cache,
    module: Any,
    data: pl.LightningDataModule,
    stages: Sequence[Stage],
    identity: Mapping[str, Any],
    fit: Fit,
    device: torch.device,
    note_partial: Callable[[str], None],
    loggers: Sequence[Any] = (),
) -> float | None:
    """Train a module through its stages, or load its trained state from the cache.

    A training that ends early, by `fast_dev_run` or by `max_time`, is used and not kept; its last checkpoint is, from
    which the next one goes on. The curve of a training is kept beside its trained state, and logged again with it.

    Args:
        cache: the cache.
        module: the module; afterwards it has the trained state.
        data: the data for work after the training, such as calibration.
        stages: the parts of the training.
        identity: everything that the trained state depends on, besides the class of the module.
        fit: trains one part: `fit_to_end` with the trainer of the caller.
        device: where the module is put at the end.
        note_partial: is told why a training that ended early is none of the settings.
        loggers: loggers that take the curve of a training that is found; `fit` logs the others.

    Returns:
        Seconds of training in all, None where they are not known.
    """
    kind = type(module)
    entry = cache.entry("systems", {"class": kind.__name__, "code": code_of(kind), **identity, "recipe": 3})
    with in_first(entry.making(f"the training of {kind.__name__}")):
        if entry.has(TRAINED):
            note_found(f"{kind.__name__} {entry.key}")
            log_curve(loggers, read_curve(entry.folder))
            if is_rank_zero():
                # A process that was killed at its very end leaves them.
                remove_checkpoints(entry.folder)
        else:
            say_found()
            say(f"training {kind.__name__} {entry.key}", entry.why())
            seconds = _fit_stages(module, data, stages, entry, fit, note_partial)
            if seconds is not None:
                module.to(device)
                return seconds
    seconds_kept = module.load_trained(entry.folder / TRAINED).get("seconds")
    module.to(device)
    return None if seconds_kept is None else float(seconds_kept)


def _fit_stages(
    module: Any,
    data: pl.LightningDataModule,
    stages: Sequence[Stage],
    entry: Entry,
    fit: Fit,
    note_partial: Callable[[str], None],
) -> float | None:
    """Fit the stages and keep the trained state; return the seconds where the training ended early and is not kept."""
    folder, seconds, early = entry.folder, 0.0, None
    offset, rows = 0, []
    for number, stage in enumerate(stages):
        trainer, more = fit(
            stage.module or module,
            stage.data,
            folder if number == 0 else folder / f"stage{number + 1}",
            stage.every,
            enable_model_summary=False,
            first_step=offset,
            **stage.options,
        )
        seconds += more
        rows += curve_of(trainer)
        offset += trainer.global_step
        early = ended_early(trainer) or _untrained(trainer, module)
        if early is not None:
            break
    module.after_training(data)
    if early is not None:
        note_partial(f"the training of {type(module).__name__} ended early ({early})")
        return seconds
    if trainer.is_global_zero:
        write_curve(folder, rows)
        with sealed_path(folder / TRAINED) as temporary:
            module.save_trained(temporary, seconds=seconds)
        remove_checkpoints(folder)
    trainer.strategy.barrier()
    return None


def _untrained(trainer: pl.Trainer, module: Any) -> str | None:
    """Return that no step was taken, None where one was or the module starts from given weights."""
    if trainer.global_step > 0 or dict(module.hparams).get("start") is not None:
        return None
    limits = f"trainer.max_epochs={trainer.max_epochs}, trainer.max_steps={trainer.max_steps}"
    return f"no step was taken: {limits}"


def curve_of(trainer: pl.Trainer) -> list[dict[str, float]]:
    """Return the rows of the curve of a training.

    Args:
        trainer: the trainer after `fit_to_end`.
    """
    found = (callback for callback in trainer.callbacks if isinstance(callback, TrainingCurve))  # type: ignore[attr-defined]
    return list(next(found).rows)


def ended_early(trainer: pl.Trainer) -> str | None:
    """Return why a training ended before its number of epochs or steps, None where it did not.

    Args:
        trainer: the trainer after its fit.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return f"trainer.fast_dev_run={trainer.fast_dev_run}"  # type: ignore[attr-defined]
    clock = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    left = clock.time_remaining("train")
    is_done = 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch or 0 <= trainer.max_steps <= trainer.global_step
    if left is None or left > 0 or is_done:
        return None
    return f"trainer.max_time was reached in epoch {trainer.current_epoch} of {trainer.max_epochs}"


def fit_to_end(
    trainer_of: Callable[..., pl.Trainer],
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: Path,
    every: Mapping[str, Any],
    callbacks: Sequence[pl.Callback] = (),
    max_time: Any = None,
    first_step: int = 0,
    progress: bool = True,
    **options: Any,
) -> tuple[pl.Trainer, float]:
    """Train to the end, from the checkpoint in `folder` where there is one.

    The loggers of the trainer that have `log_curve` get the curve up to the checkpoint again.

    Args:
        trainer_of: makes the trainer of arguments by name.
        module: the module.
        data: its data.
        folder: where checkpoints are.
        every: when a checkpoint is written, arguments of `ModelCheckpoint`; one is written at the end too.
        callbacks: further callbacks.
        max_time: the longest time of the training in all, as Lightning takes it; None for no limit.
        first_step: steps of earlier parts of the training, which are added to those of its curve.
        progress: whether to show a line of progress.
        options: further arguments of the trainer.

    Returns:
        The trainer, and the seconds of training in all.
    """
    # With a Timer of one's own, Lightning leaves `max_time` to it.
    last, clock = newest_checkpoint(folder), Timer(max_time)
    # `save_last` with no other checkpoint saves none at the end of epochs; left to itself it saves where it validates.
    checkpoint = ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False, **every)
    curve = TrainingCurve(first_step)
    shown = [TrainingLine()] if progress else []
    trainer = trainer_of(
        callbacks=[clock, checkpoint, curve, *shown, *callbacks],
        plugins=[SealedCheckpoints()],
        enable_progress_bar=progress,
        **options,
    )
    trainer.loggers = [*trainer.loggers, curve.logger]
    if last is not None:
        say(f"found {last}")
    trainer.fit(module, data, ckpt_path=None if last is None else str(last), weights_only=True)
    # Where the end was there, nothing started. A smoke test leaves nothing to go on from.
    if clock.start_time("train") is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.save_checkpoint(folder / "last.ckpt")
        if is_rank_zero():
            write_json(folder / STEPS, {"steps": trainer.global_step, "seconds": clock.time_elapsed("train")})
    return trainer, clock.time_elapsed("train")
