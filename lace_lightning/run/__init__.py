"""One run: settings, study, system, evaluation, outputs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from ..artifacts import check_writable
from .check import SYSTEM_TASKS, check
from .evaluate import check_folder, evaluation_of, test_system
from .inspect import check_labelers, draw_portraits, pictures, reference, style_layers
from .outputs import finish, loggers_of, training_minutes, write_inputs, write_results
from .pairs import pairs_of
from .settings import Settings
from .study import Study, measured_by
from .systems import export, system_of, train_system, training_data
from .tracking import track_results
from .train import fit_classifier, fit_generator, fit_identity

__all__ = ["Settings", "Study", "check", "run"]

OTHER_TASKS: dict[str, Callable[[Settings], dict[str, float]]] = {
    "fit_classifier": fit_classifier,
    "fit_generator": fit_generator,
    "fit_identity": fit_identity,
    "reference": reference,
    "check_labelers": check_labelers,
    "style_layers": style_layers,
    "draw_portraits": draw_portraits,
    "pictures": pictures,
}


def run(settings: Settings) -> dict[str, float]:
    """Run the task of checked settings, and write its results into the folder of outputs.

    Args:
        settings: settings, as `check` returns them.

    Returns:
        Figures by name.

    Raises:
        LaceError: when a folder is not writable, parts do not fit together, or data are missing.
    """
    check_folder(settings)
    check_writable(settings.paths.output)
    check_writable(Path(settings.paths.cache).expanduser())
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.task.name in SYSTEM_TASKS:
        metrics = measure_system(settings)
    else:
        write_inputs(settings)
        metrics = OTHER_TASKS[settings.task.name](settings)
    finish(settings)
    return metrics


def measure_system(settings: Settings) -> dict[str, float]:
    """Train a system or load it from the cache, evaluate it, and write the results.

    Args:
        settings: settings of a task of `SYSTEM_TASKS`.

    Returns:
        Figures by name.

    Raises:
        LaceError: when parts do not fit together, or data are missing.
    """
    study = Study.of(settings)
    evaluation = evaluation_of(study)
    system = system_of(study)
    evaluation.check(system)
    # What is refused up to here leaves the results of an earlier run as they are.
    write_inputs(settings)
    # A given system needs no data, unless its classifier is measured on them.
    is_ready = system.given and not evaluation.needs_data
    pairs = pairs_of(study) if system.training_data() == "pairs" and not is_ready else None
    evaluation.use_labels(pairs.labels() if pairs is not None else None)
    data = None if is_ready else training_data(study, system, pairs)
    names = list(dict.fromkeys(name for query in study.queries for name in query.attributes))
    no_loggers: AbstractContextManager[list[Logger]] = nullcontext([])
    with no_loggers if is_ready and settings.task.name == "draw" else loggers_of(settings, names) as loggers:
        seconds = None if data is None else train_system(study, system, data, loggers)
        export(study, system, data, seconds)
        metrics = test_system(study, system, data, evaluation, loggers)
        metrics |= training_minutes(seconds)
        result = evaluation.evaluation
        if (note := measured_by(settings)[1]) is not None:
            result.protocol["judge_note"] = note
        if generator_found := study.generator.found:
            result.protocol["generator_found"] = generator_found
        if study.partial:
            result.protocol["partial"] = "; ".join(study.partial)
        # Before the loggers are closed: a network cannot take results away.
        write_results(settings, metrics, result.protocol, result.grid, result.frames, result.summary)
        track_results(settings, loggers, metrics, result)
    return metrics
