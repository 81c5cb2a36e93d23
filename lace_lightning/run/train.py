"""Trainings: `Trainer.fit` that resumes from its last checkpoint, and the cache of trained states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.model_helpers import is_overridden

from ..artifacts import write_json
from ..cache import Cache, Entry, sealed_path
from ..callbacks import TrainingPictures, generator_grid
from ..errors import LaceError
from ..generators import Generator
from ..source import code_of
from ..training.checkpoints import SealedCheckpoints, newest_checkpoint, remove_checkpoints
from ..training.generator import GANTraining
from ..training.identity import IdentityTraining
from ..training.image_classifier import ImageClassifierTraining
from .identity import node_identity, part_of_data, training_identity
from .outputs import loggers_of, trainer_of, write_results
from .settings import Settings
from .study import in_first, is_rank_zero, say

if TYPE_CHECKING:
    from .study import Study


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


def train(
    study: Study,
    module: Any,
    data: pl.LightningDataModule,
    stages: Sequence[Stage],
    identity: Mapping[str, Any],
    loggers: list[Logger],
) -> float | None:
    """Train a module through its stages, or load its trained state from the cache.

    A training of a part of the data is kept apart from those of all of it. One that ends early, by `fast_dev_run` or
    by `max_time`, is used by this run and not kept; its last checkpoint is, from which the next run goes on.

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
    kind = type(module)
    own = {"class": kind.__name__, "code": code_of(kind), **identity, **training_identity(study.settings), "recipe": 2}
    entry = study.cache.entry("systems", own)
    part = part_of_data(study.settings)
    if part is not None:
        study.note_partial(f"{kind.__name__} is trained on a part of the data ({part})")
    with in_first(entry.making(f"the training of {kind.__name__}")):
        if entry.has(TRAINED):
            say(f"found {kind.__name__} {entry.key}")
            if is_rank_zero():
                # A process that was killed at its very end leaves them.
                remove_checkpoints(entry.folder)
        else:
            say(f"training {kind.__name__} {entry.key}", entry.why())
            seconds = _fit_stages(study, module, data, stages, entry, loggers)
            if seconds is not None:
                module.to(study.device)
                return seconds
    seconds_kept = module.load_trained(entry.folder / TRAINED).get("seconds")
    module.to(study.device)
    return None if seconds_kept is None else float(seconds_kept)


# File of a trained state.
TRAINED = "system.safetensors"


def _fit_stages(
    study: Study,
    module: Any,
    data: pl.LightningDataModule,
    stages: Sequence[Stage],
    entry: Entry,
    loggers: list[Logger],
) -> float | None:
    """Fit the stages and keep the trained state; return the seconds where the training ended early and is not kept."""
    folder, seconds, early = entry.folder, 0.0, None
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
        early = ended_early(trainer)
        if early is not None:
            break
    module.after_training(data)
    if early is not None:
        study.note_partial(f"the training of {type(module).__name__} ended early ({early})")
        return seconds
    if trainer.is_global_zero:
        with sealed_path(folder / TRAINED) as temporary:
            module.save_trained(temporary, seconds=seconds)
        remove_checkpoints(folder)
    trainer.strategy.barrier()
    return None


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
    settings: Settings,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: Path,
    loggers: list[Logger],
    every: Mapping[str, Any],
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> tuple[pl.Trainer, float]:
    """Train to the end, from the checkpoint in `folder` where there is one.

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
    # With a Timer of one's own, Lightning leaves `max_time` to it.
    last, clock = newest_checkpoint(folder), Timer(settings.trainer.get("max_time"))
    # `save_last` with no other checkpoint saves none at the end of epochs; left to itself it saves where it validates.
    checkpoint = ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False, **every)
    trainer = trainer_of(
        settings,
        loggers,
        callbacks=[clock, checkpoint, *callbacks],
        enable_progress_bar=settings.metrics.progress,
        plugins=[SealedCheckpoints()],
        **options,
    )
    if last is not None:
        say(f"found {last}")
    trainer.fit(module, data, ckpt_path=None if last is None else str(last), weights_only=True)
    # Where the end was there, nothing started. A smoke test leaves nothing to go on from.
    if clock.start_time("train") is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.save_checkpoint(folder / "last.ckpt")
        if is_rank_zero():
            write_json(folder / "steps.json", {"steps": trainer.global_step, "seconds": clock.time_elapsed("train")})
    return trainer, clock.time_elapsed("train")


def classifier_arguments(node: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
    """Return the arguments of `LatentClassifier` for the settings of a classifier and a generator.

    Args:
        node: settings of the classifier in plain containers.
        generator: the generator whose latents it classifies.

    Returns:
        Arguments by name, without the schema.
    """
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
        return _export(settings, metrics, lambda file: module.classifier().save(file, torch.float16, **metrics))


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
        return _export(settings, metrics, lambda file: module.embedding.eval().save(file, torch.float16, **metrics))


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
    if not is_overridden("test_step", module):
        return {}
    return {name: float(value) for name, value in trainer.test(module, data, verbose=False)[0].items()}
