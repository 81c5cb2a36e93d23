"""One run: instantiate, fit or reuse, test, write results. No maths."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from ..artifacts import check_writable
from ..errors import LaceError, suggest
from .control import control
from .looking import check_labelers, draw_portraits, pictures, reference, style_layers
from .model import edit, model
from .results import write_inputs
from .training import fit_classifier, fit_generator, fit_identity


def run(cfg: DictConfig) -> dict[str, float]:
    """Run the task of a configuration and return its metrics. Raises LaceError for anything wrong in it."""
    tasks = {
        "control": control,
        "edit": edit,
        "temperature": control,
        "fit_classifier": fit_classifier,
        "fit_generator": fit_generator,
        "fit_identity": fit_identity,
        "reference": reference,
        "check_labelers": check_labelers,
        "style_layers": style_layers,
        "draw_portraits": draw_portraits,
        "pictures": pictures,
        "model": model,
    }
    if cfg.task.name not in tasks:
        raise LaceError(f"The tasks are {', '.join(tasks)}, received '{cfg.task.name}'.{suggest(cfg.task.name, tasks)}")
    check_writable(cfg.paths.output)
    check_writable(Path(cfg.paths.cache).expanduser())
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.get("threads"):
        torch.set_num_threads(int(cfg.threads))
    write_inputs(cfg)
    return tasks[cfg.task.name](cfg)
