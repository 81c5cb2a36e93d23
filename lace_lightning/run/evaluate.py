"""Evaluations of a study as a test of Lightning: sampling, editing and temperatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from .. import __version__
from ..callbacks import (
    ConditionalSampling,
    Drawing,
    LatentEditing,
    SequentialEditing,
    SystemEvaluation,
    TemperatureStrips,
)
from ..callbacks.drawing import DIGESTS
from ..callbacks.evaluation import NOBODY
from ..classifiers import load_embedding
from ..data import LatentFolder
from ..data.processes import say
from ..errors import LaceError
from ..metrics.base import PictureMetric
from ..systems.base import System
from ..systems.handover import SampleFolder
from .identity import sample_recipe
from .nodes import Node
from .outputs import command_line, trainer_of
from .settings import DrawTask, Settings
from .study import Study, measured_by

# Folder of the samples that metrics.keep names, inside of that of the run.
SAMPLES = "samples"
# Prefix of a figure of a test -> prefix in the results.
KEPT = {"classifier/": "classifier/", "calibration/": "calibration/", "test/": "model/"}


def evaluation_of(study: Study) -> SystemEvaluation:
    """Return the evaluation that a study's task names.

    Args:
        study: the study, of the task control, model, edit or temperature.

    Returns:
        A callback that draws or edits samples during a test, and measures them.

    Raises:
        LaceError: for a metric that is no PictureMetric, and for an embedding that cannot be loaded.
    """
    settings, task = study.settings, study.settings.task
    common: dict[str, Any] = {
        **settings.metrics.model_dump(include={"num_samples", "batch_size", "seed", "progress"}),
        "metrics": metrics_of(settings),
        "report": {"command": command_line(), "version": __version__},
    }
    common["role"], note = measured_by(settings)
    if note is not None:
        common["report"]["judge_note"] = note
    # Files of CSV have no place for pictures.
    if any(name != "csv" and node is not None for name, node in settings.logger.items()):
        common["table"] = settings.metrics.table
    if isinstance(task, DrawTask):
        taken = ("batch_size", "seed", "progress", "report", "role", "table")
        kept = {name: common[name] for name in taken if name in common}
        query, *others = study.queries
        return Drawing(
            study.judge,
            query,
            settings.paths.output,
            task.ranges,
            sample_recipe(settings),
            others[0] if others else None,
            task.walk_frames,
            judged=task.judged and common["role"] != NOBODY,
            **kept,
        )
    common |= {"keep": settings.metrics.keep, "folder": Path(settings.paths.output) / SAMPLES}
    if task.name == "edit":
        embedding = load_embedding(task.identity.model_dump(), study.device)  # type: ignore[attr-defined]
        identity: dict[str, Any] = {}
        if embedding is not None:
            identity = {"identity": embedding.distance, "identity_protocol": embedding.protocol}
        if task.latents is not None:  # type: ignore[attr-defined]
            latents = LatentFolder(task.latents, study.generator, task.space)  # type: ignore[attr-defined]
            say(latents.summary())
            return LatentEditing(
                study.judge,
                study.queries,
                study.edit_options,
                latents,
                settings.paths.output,
                task.photographs,  # type: ignore[attr-defined]
                strips=task.strips,  # type: ignore[attr-defined]
                **identity,
                **common,
            )
        return SequentialEditing(
            study.judge,
            study.queries,
            study.edit_options,
            study.feature_space,
            study.cache,
            strips=task.strips,  # type: ignore[attr-defined]
            **identity,
            **common,
        )
    if task.name == "temperature":
        return TemperatureStrips(
            study.judge,
            study.queries[0],
            task.temperatures,  # type: ignore[attr-defined]
            study.feature_space,
            study.cache,
            strips=task.strips,  # type: ignore[attr-defined]
            **common,
        )
    names = {"pictures_per_class", "timing_repeats", "distance_codes", "posterior_sets"}
    own = settings.metrics.model_dump(include=names)
    return ConditionalSampling(study.judge, study.queries[0], study.feature_space, study.cache, **own, **common)


def check_folder(settings: Settings) -> None:
    """Refuse a folder that holds samples of another command, before anything is written there.

    Args:
        settings: settings of the run.

    Raises:
        LaceError: for the task draw in such a folder.
    """
    if isinstance(settings.task, DrawTask):
        count = sum(map(len, settings.task.ranges))
        SampleFolder(settings.paths.output, count, sample_recipe(settings)).check(DIGESTS)


def metrics_of(settings: Settings) -> list[PictureMetric]:
    """Return the metrics that a user added to the group `metrics`.

    Args:
        settings: settings of the run.

    Returns:
        New metrics, in the order of the configuration.

    Raises:
        LaceError: for an object that is no PictureMetric.

    Example:
        >>> metrics_of(Settings())
        []
    """
    result = []
    for name, content in settings.metrics.nodes.items():
        metric = Node(f"metrics.{name}", content).build()
        if not isinstance(metric, PictureMetric):
            raise LaceError(
                f"The setting metrics.{name} must be a PictureMetric, and {type(metric).__name__} is none: make it a "
                "subclass of lace_lightning.metrics.PictureMetric."
            )
        metric.name = name if type(metric).name == PictureMetric.name else metric.name
        result.append(metric)
    return result


def test_system(
    study: Study,
    system: System,
    data: pl.LightningDataModule | None,
    evaluation: SystemEvaluation,
    loggers: list[Logger],
) -> dict[str, float]:
    """Test a system on its data, and run the evaluation.

    Args:
        study: the study.
        system: the trained system.
        data: data whose test split is used; None for the evaluation alone.
        evaluation: the evaluation, as `evaluation_of` returns it.
        loggers: loggers of the test.

    Returns:
        Figures of the test and of the evaluation by name.
    """
    if data is None:
        evaluation.evaluation = evaluation.evaluate(system.to(study.device))
        for logger in loggers:
            logger.log_metrics({f"sampling/{name}": value for name, value in evaluation.evaluation.metrics.items()})
        return evaluation.evaluation.metrics
    trainer = trainer_of(
        study.settings, loggers, callbacks=[evaluation], enable_progress_bar=False, enable_model_summary=False
    )
    figures = trainer.test(system, data, verbose=False)[0]
    own = {
        ours + name.removeprefix(theirs): float(value)
        for name, value in figures.items()
        for theirs, ours in KEPT.items()
        if name.startswith(theirs)
    }
    return {**own, **evaluation.evaluation.metrics}
