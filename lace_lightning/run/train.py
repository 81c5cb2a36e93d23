"""Trainings of a run: of systems, with the cache of trained states, and of image networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden

from ..cache import Cache
from ..callbacks import Evaluation, TrainingPictures, generator_grid
from ..data.processes import in_first, is_rank_zero
from ..errors import LaceError
from ..loggers import training_names
from ..training import fitting
from ..training.curves import write_curve
from ..training.fitting import Stage, train_or_load
from ..training.generator import GANTraining
from ..training.identity import IdentityTraining
from ..training.image_classifier import ImageClassifierTraining
from .identity import node_identity, part_of_data, training_identity
from .outputs import loggers_of, trainer_of, write_results
from .settings import Settings
from .tracking import track_results

if TYPE_CHECKING:
    from .study import Study


def train(
    study: Study,
    module: Any,
    data: pl.LightningDataModule,
    stages: Sequence[Stage],
    identity: Mapping[str, Any],
    loggers: list[Logger],
) -> float | None:
    """Train a module through its stages, or load its trained state from the cache; see `train_or_load`.

    A training of a part of the data is kept apart from those of all of it.

    Args:
        study: the study that it is trained for.
        module: the module; afterwards it has the trained state.
        data: the data for work after the training, such as calibration.
        stages: the parts of the training.
        identity: everything that the trained state depends on, besides settings of trainer and callbacks.
        loggers: loggers of the training.

    Returns:
        Seconds of training in all, None where they are not known.
    """
    settings, part = study.settings, part_of_data(study.settings)
    if part is not None:
        study.note_partial(f"{type(module).__name__} is trained on a part of the data ({part})")

    def fit(module: Any, data: Any, folder: Path, every: Any, **options: Any) -> tuple[pl.Trainer, float]:
        return fit_to_end(settings, module, data, folder, loggers, every, **options)

    own = {**identity, **training_identity(settings)}
    return train_or_load(study.cache, module, data, stages, own, fit, study.device, study.note_partial, loggers)


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
    """Train to the end with the trainer of the settings, from the checkpoint in `folder` where there is one.

    Args:
        settings: the settings of the run.
        module: the module.
        data: its data.
        folder: where checkpoints are.
        loggers: loggers of the training.
        every: when a checkpoint is written, arguments of `ModelCheckpoint`; one is written at the end too.
        callbacks: further callbacks.
        options: further arguments of the trainer.

    Returns:
        The trainer, and the seconds of training in all.
    """
    with training_names(loggers):
        return fitting.fit_to_end(
            partial(trainer_of, settings, loggers),
            module,
            data,
            folder,
            every,
            callbacks,
            settings.trainer.get("max_time"),
            progress=settings.metrics.progress,
            **options,
        )


def fit_classifier(settings: Settings) -> dict[str, float]:
    """Train an image classifier (labeler or judge), evaluate its moving average, and export it.

    Args:
        settings: settings of the task `fit_classifier`.

    Returns:
        Figures of the test by name.

    Raises:
        LaceError: for a data set without labels.
    """
    data = settings.dataset.module.build()
    if getattr(data, "schema", None) is None:
        raise LaceError(
            f"A classifier is trained on labels, and dataset={settings.dataset.name} has none: choose another."
        )
    module = ImageClassifierTraining(data.schema, **settings.training)
    with loggers_of(settings) as loggers:
        metrics = _fit(settings, module, data, loggers)
        return _export(
            settings, loggers, metrics, lambda file: module.classifier().save(file, torch.float16, **metrics)
        )


def fit_identity(settings: Settings) -> dict[str, float]:
    """Train an identity embedding, test it on people outside of the training, and export it.

    Args:
        settings: settings of the task `fit_identity`.

    Returns:
        Figures of the test by name.
    """
    data, module = settings.dataset.module.build(), IdentityTraining(**settings.training)
    with loggers_of(settings) as loggers:
        metrics = _fit(settings, module, data, loggers)
        return _export(
            settings, loggers, metrics, lambda file: module.embedding.eval().save(file, torch.float16, **metrics)
        )


def fit_generator(settings: Settings) -> dict[str, float]:
    """Train a StyleGAN2 generator, export its moving average, and draw a grid of samples.

    Args:
        settings: settings of the task `fit_generator`.

    Returns:
        The figure `kimg`: thousands of training pictures.
    """
    data, module = settings.dataset.module.build(), GANTraining(**settings.training)
    every = settings.task.pictures_kimg  # type: ignore[attr-defined]
    drawing = TrainingPictures(Path(settings.paths.output) / "samples.png", every)
    with loggers_of(settings) as loggers:
        metrics = _fit(settings, module, data, loggers, drawing)
        metrics["kimg"] = float(module.images_seen) / 1000
        return _export(settings, loggers, metrics, module.export, lambda: generator_grid(module))


def _export(
    settings: Settings,
    loggers: list[Logger],
    metrics: dict[str, float],
    save: Callable[[Path], None],
    draw: Callable[[], Any] = lambda: None,
) -> dict[str, float]:
    """Write the trained weights as <task.export>.safetensors, then draw, then write the results."""
    file = Path(settings.paths.output) / f"{settings.task.export}.safetensors"  # type: ignore[attr-defined]
    if is_rank_zero():
        save(file)
    grid = draw()
    write_results(settings, metrics, {"weights": file.name}, grid)
    track_results(settings, loggers, metrics, Evaluation(grid=grid))
    return metrics


def _fit(
    settings: Settings,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    loggers: list[Logger],
    *callbacks: pl.Callback,
) -> dict[str, float]:
    """Train, and test where the module has a test; a stopped run resumes from the folder of its settings."""
    task: Any = settings.task
    entry = Cache(settings.paths.cache).entry(
        "training",
        {
            "class": type(module).__name__,
            "network": settings.training,
            "data": node_identity(settings.plain["dataset"], "dataset"),
            "export": task.export,
            "seed": settings.seed,
            "epochs": settings.limits[0],
            "steps": settings.limits[1],
            **training_identity(settings),
            "recipe": 2,
        },
    )
    every = {"every_n_train_steps": task.checkpoint_steps}
    with in_first(entry.making(f"the training of {task.export}")):
        trainer, _ = fit_to_end(settings, module, data, entry.folder, loggers, every, callbacks)
        if is_rank_zero():
            write_curve(entry.folder, fitting.curve_of(trainer))
    if not is_overridden("test_step", module):
        return {}
    return {name: float(value) for name, value in trainer.test(module, data, verbose=False)[0].items()}
