"""The baselines: train a conditional model, let it draw what a query asks for, measure it as LACE is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import DictConfig

from ..artifacts import Cache, digest
from ..callbacks import ModelSampling
from ..errors import LaceError
from ..generators import Generator
from ..modules.conditional import ConditionalModel
from ..schema import Schema
from .building import build_node, common_schema, device_of, generator_of, is_first, labeler_of, plain
from .control import check_distance_codes, feature_space_of, labeler_or_none, query_of, sampling_settings
from .fitting import fit_to_end
from .pairs import data_of, given_pairs_of, prior_pairs
from .results import finish_loggers, log_config, start_loggers, trainer_for, write_results


def model(cfg: DictConfig) -> dict[str, float]:
    """Train (or go on training, or find) the model of `model`, sample by attribute, measure."""
    if cfg.model.get("_target_") is None:
        raise LaceError("The task 'model' needs a model and model=none: set model=latent_jem or another of conf/model.")
    generator = generator_of(cfg.generator)
    labeler, judge = labeler_or_none(cfg), labeler_of(cfg.judge)
    schema, cache = common_schema(labeler, judge), Cache(cfg.paths.cache)
    check_distance_codes(cfg)
    query, _ = query_of(cfg, schema)
    known = schema.part(cfg.task.attributes or schema.names)
    query.on(known)
    feature_space = feature_space_of(cfg, generator, judge, cache)
    module, data, key = _module_and_data(cfg, generator, known, cache)
    settings = {name: value for name, value in sampling_settings(cfg).items() if name != "posterior_sets"}
    callback = ModelSampling(generator, judge, module, query, feature_space, cache, **settings)
    if hasattr(data, "pairs"):
        callback.pairs = data.pairs.labels()
    loggers = start_loggers(cfg)
    try:
        folder = cache.folder("models", digest({"model": plain(cfg.model), "data": key, "seed": cfg.seed, "known": known.to_config(),
                                                "epochs": cfg.trainer.max_epochs, "steps": cfg.trainer.get("max_steps", -1)}))
        seconds = _train(cfg, module, data, folder, loggers)
        trainer = trainer_for(cfg, loggers, callbacks=[callback], enable_progress_bar=False, enable_model_summary=False)
        log_config(cfg, loggers)
        figures = trainer.test(module, data, verbose=False)[0]
    finally:
        finish_loggers(loggers)
    if cfg.task.export and is_first():
        module.save(Path(cfg.paths.output) / f"{cfg.task.export}.safetensors")
    metrics = {**{name.replace("test/", "model/", 1): float(value) for name, value in figures.items() if name.startswith("test/")},
               **callback.evaluation.metrics, "minutes/training": seconds / 60}
    write_results(cfg, metrics, callback.evaluation.protocol, callback.evaluation.grid, callback.evaluation.frames)
    return metrics


def _module_and_data(cfg: DictConfig, generator: Generator, schema: Schema, cache: Cache) -> tuple[Any, pl.LightningDataModule, str]:
    """Return the model, what it is trained on (pairs for w, the data set's pictures for x), and what that depends on."""
    kind = get_class(cfg.model._target_)
    if not issubclass(kind, ConditionalModel):
        raise LaceError(f"A model must be a ConditionalModel, received {kind.__name__}: correct model._target_.")
    torch.manual_seed(int(cfg.seed))
    node = {name: value for name, value in plain(cfg.model).items() if name != "batch_size"}
    module = build_node({**node, "schema": schema.to_config(), **({"w_dim": generator.w_dim} if kind.space == "w" else {}),
                         "_convert_": "all"})
    if kind.space == "x":
        pictures = build_node(cfg.dataset.module)
        if not pictures.schema.agrees_with(schema):
            raise LaceError(f"A model of pictures learns the labels of the data set, {', '.join(pictures.schema.names)}, and was asked for "
                            f"{', '.join(schema.names)}: set task.attributes=null, or dataset.module.attributes where it has that.")
        return module, pictures, digest(plain(cfg.dataset))
    pairs = given_pairs_of(cfg, generator, schema, cache) or prior_pairs(cfg, generator, cache)
    settings = {**plain(cfg.classifier), "space": "w", "soft_labels": False, "batch_size": int(cfg.model.batch_size)}
    data = data_of(cfg, settings, int(cfg.seed), pairs, schema)
    return module, data, data.key


def _train(cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, folder: Path, loggers: Any) -> float:
    """Train to the end, if it is not there yet; return the seconds of training in all."""
    _, seconds = fit_to_end(cfg, module, data, folder, loggers, {"every_n_train_steps": int(cfg.task.checkpoint_steps)},
                            enable_model_summary=False, limit_val_batches=0)
    module.to(device_of(cfg))
    return seconds
