"""Training of image networks: labelers, judges, embeddings, generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.model_helpers import is_overridden

from ..artifacts import Cache, digest
from ..callbacks import TrainingPictures, generator_grid
from ..training.generator import GANTraining
from ..training.identity import IdentityTraining
from ..training.image_classifier import ImageClassifierTraining
from .building import build_node, is_rank_zero, to_builtin
from .fitting import fit_to_end
from .results import finish_loggers, log_config, start_loggers, write_results


def fit_classifier(cfg: DictConfig) -> dict[str, float]:
    """Train an image classifier (labeler or judge), evaluate its moving average, export it."""
    data = build_node(cfg.dataset.module)
    module = ImageClassifierTraining(data.schema, **to_builtin(cfg.network))
    metrics = _fit(cfg, module, data)
    return _export(cfg, metrics, lambda file: module.classifier().save(file, torch.float16, **metrics))


def fit_identity(cfg: DictConfig) -> dict[str, float]:
    """Train an identity embedding, test it on people that it has not seen, export it."""
    data, module = build_node(cfg.dataset.module), IdentityTraining(**to_builtin(cfg.network))
    metrics = _fit(cfg, module, data)
    return _export(cfg, metrics, lambda file: module.embedding.eval().save(file, torch.float16, **metrics))


def fit_generator(cfg: DictConfig) -> dict[str, float]:
    """Train a StyleGAN2 generator, export its moving average, draw a grid."""
    data, module = build_node(cfg.dataset.module), GANTraining(**to_builtin(cfg.network))
    pictures = TrainingPictures(Path(cfg.paths.output) / "samples.png", cfg.task.pictures_kimg)
    metrics = _fit(cfg, module, data, pictures)
    metrics["kimg"] = float(module.images_seen) / 1000
    return _export(cfg, metrics, module.export, lambda: generator_grid(module))


def _export(
    cfg: DictConfig, metrics: dict[str, float], save: Callable[[Path], None], draw: Callable[[], Any] = lambda: None
) -> dict[str, float]:
    """Write the trained weights as <task.export>.safetensors, then draw, then write the results; return the metrics."""
    file = Path(cfg.paths.output) / f"{cfg.task.export}.safetensors"
    if is_rank_zero():
        save(file)
    write_results(cfg, metrics, {"weights": file.name}, draw())
    return metrics


def _fit(
    cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, *callbacks: pl.Callback
) -> dict[str, float]:
    """Fit, and test where the module has a test; a killed run goes on: the folder belongs to the configuration, not the
    time.
    """
    key = digest(
        {
            "network": to_builtin(cfg.network),
            "data": to_builtin(cfg.dataset),
            "seed": cfg.seed,
            "epochs": cfg.trainer.max_epochs,
        }
    )
    folder = Cache(cfg.paths.cache).folder("training", f"{cfg.task.export}-{key}")
    loggers = start_loggers(cfg)
    try:
        log_config(cfg, loggers)
        trainer, _ = fit_to_end(
            cfg, module, data, folder, loggers, {"every_n_train_steps": int(cfg.task.checkpoint_steps)}, callbacks
        )
        if not is_overridden("test_step", module):
            return {}
        return {name: float(value) for name, value in trainer.test(module, data, verbose=False)[0].items()}
    finally:
        finish_loggers(loggers)
