"""Trainings: `Trainer.fit` that resumes from its last checkpoint, and the cache of what was trained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden

from ..artifacts import Cache, atomic_path, digest, write_json
from ..callbacks import TrainingPictures, generator_grid
from ..errors import LaceError
from ..generators import Generator
from ..training.generator import GANTraining
from ..training.identity import IdentityTraining
from ..training.image_classifier import ImageClassifierTraining
from .outputs import loggers_of, trainer_of, write_results
from .settings import Settings
from .study import is_rank_zero

if TYPE_CHECKING:
    from .study import Study


class Trainable(Protocol):
    """A LightningModule whose trained state can be kept in a file."""

    def after_training(self, data: pl.LightningDataModule) -> None:
        """Do what follows the last training step."""

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
    """

    data: pl.LightningDataModule
    every: Mapping[str, Any]
    module: pl.LightningModule | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_epochs(cls, data: pl.LightningDataModule, epochs: int, module: pl.LightningModule | None = None) -> Stage:
        """Return a stage of so many epochs, with a checkpoint about every tenth of them."""
        every = {"every_n_epochs": max(1, epochs // 10), "save_on_train_epoch_end": True}
        return cls(data, every, module, {"max_epochs": epochs})


def train(
    study: Study,
    module: Any,
    data: pl.LightningDataModule,
    stages: Sequence[Stage],
    identity: Mapping[str, Any],
    loggers: list[Logger],
) -> float | None:
    """Train a module through its stages, or take its trained state from the cache.

    Args:
        study: the study that it is trained for.
        module: the module; afterwards it has the trained state.
        data: the data that follow-up work (calibration) reads.
        stages: the parts of the training.
        identity: everything that the trained state depends on.
        loggers: loggers of the training.

    Returns:
        Seconds of training in all, None where they are not known.
    """
    folder = study.cache.folder("systems", digest({"class": type(module).__name__, **identity}))
    file = folder / "system.safetensors"
    if not file.is_file():
        seconds = 0.0
        for number, stage in enumerate(stages):
            trainer, more = fit_to_end(
                study.settings,
                stage.module or module,
                stage.data,
                folder if number == 0 else folder / f"stage{number + 1}",
                loggers,
                stage.every,
                enable_model_summary=False,
                **stage.options,
            )
            seconds += more
        module.after_training(data)
        if trainer.is_global_zero:
            module.save_trained(file, seconds=seconds)
            for left in (*folder.rglob("last.ckpt"), *folder.rglob("steps.json")):
                left.unlink()
        trainer.strategy.barrier()
    seconds_kept = module.load_trained(file).get("seconds")
    module.to(study.device)
    return None if seconds_kept is None else float(seconds_kept)


def fit_to_end(
    settings: Settings,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: Path,
    loggers: list[Logger],
    every: Mapping[str, Any],
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> tuple[pl.Trainer, float]:
    """Train from the checkpoint in `folder`, if there is one, to the end.

    Args:
        settings: the settings of the run.
        module: the module.
        data: its data.
        folder: where checkpoints are.
        loggers: loggers of the training.
        every: when a checkpoint is written (see `ModelCheckpoint`); the end is written too.
        callbacks: further callbacks.
        options: further arguments of the trainer.

    Returns:
        The trainer, and the seconds of training in all.
    """
    # With a Timer of one's own, Lightning leaves `max_time` to it.
    last, clock = folder / "last.ckpt", Timer(settings.trainer.get("max_time"))
    # `save_last` with no other checkpoint saves none at the end of epochs; left to itself it saves where it validates.
    checkpoint = ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False, **every)
    trainer = trainer_of(
        settings,
        loggers,
        callbacks=[clock, checkpoint, *callbacks],
        enable_progress_bar=settings.metrics.progress,
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


def classifier_arguments(node: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
    """Return the arguments of `LatentClassifier` that settings of a classifier and a generator give."""
    arguments = {key: value for key, value in node["arguments"].items() if value is not None}
    if node["network"] == "mlp":
        arguments["input_dim"] = {"z": generator.z_dim, "w": generator.w_dim}.get(node["space"], 0)
    names = (
        "space",
        "network",
        "learning_rate",
        "warmup_steps",
        "decay",
        "decay_epochs",
        "weight_decay",
        "continuous_weight",
    )
    return {
        **{name: node[name] for name in names},
        "arguments": arguments,
        "generator_digest": generator.digest_for(node["space"]),
    }


def fit_classifier(settings: Settings) -> dict[str, float]:
    """Train an image classifier (labeler or judge), evaluate its moving average, export it."""
    data = settings.dataset.module.build()
    if getattr(data, "schema", None) is None:
        raise LaceError(
            f"A classifier is trained on labels, and dataset={settings.dataset.name} has none: choose another."
        )
    module = ImageClassifierTraining(data.schema, **settings.training)
    with loggers_of(settings) as loggers:
        metrics = _fit(settings, module, data, loggers)
        return _export(settings, metrics, lambda file: module.classifier().save(file, torch.float16, **metrics))


def fit_identity(settings: Settings) -> dict[str, float]:
    """Train an identity embedding, test it on people that it has not seen, export it."""
    data, module = settings.dataset.module.build(), IdentityTraining(**settings.training)
    with loggers_of(settings) as loggers:
        metrics = _fit(settings, module, data, loggers)
        return _export(settings, metrics, lambda file: module.embedding.eval().save(file, torch.float16, **metrics))


def fit_generator(settings: Settings) -> dict[str, float]:
    """Train a StyleGAN2 generator, export its moving average, draw a grid."""
    data, module = settings.dataset.module.build(), GANTraining(**settings.training)
    every = settings.task.pictures_kimg  # type: ignore[attr-defined]
    drawing = TrainingPictures(Path(settings.paths.output) / "samples.png", every)
    with loggers_of(settings) as loggers:
        metrics = _fit(settings, module, data, loggers, drawing)
        metrics["kimg"] = float(module.images_seen) / 1000
        return _export(settings, metrics, module.export, lambda: generator_grid(module))


def _export(
    settings: Settings,
    metrics: dict[str, float],
    save: Callable[[Path], None],
    draw: Callable[[], Any] = lambda: None,
) -> dict[str, float]:
    """Write the trained weights as <task.export>.safetensors, then draw, then write the results."""
    file = Path(settings.paths.output) / f"{settings.task.export}.safetensors"  # type: ignore[attr-defined]
    if is_rank_zero():
        save(file)
    write_results(settings, metrics, {"weights": file.name}, draw())
    return metrics


def _fit(
    settings: Settings,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    loggers: list[Logger],
    *callbacks: pl.Callback,
) -> dict[str, float]:
    """Fit, and test where the module has a test; a killed run goes on: the folder belongs to the settings."""
    task: Any = settings.task
    key = digest(
        {
            "network": settings.training,
            "data": settings.plain["dataset"],
            "seed": settings.seed,
            "epochs": settings.trainer["max_epochs"],
        }
    )
    folder = Cache(settings.paths.cache).folder("training", f"{task.export}-{key}")
    every = {"every_n_train_steps": task.checkpoint_steps}
    trainer, _ = fit_to_end(settings, module, data, folder, loggers, every, callbacks)
    if not is_overridden("test_step", module):
        return {}
    return {name: float(value) for name, value in trainer.test(module, data, verbose=False)[0].items()}
