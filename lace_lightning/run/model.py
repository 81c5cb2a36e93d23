"""The baselines: train a conditional model, let it draw what a query asks for, or edit, and measure it as LACE is
measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import DictConfig

from ..artifacts import Cache, digest, file_sha256
from ..callbacks import LatentEvaluation, ModelEditing, ModelSampling
from ..errors import LaceError
from ..generators import Generator
from ..query import Query
from ..schema import Schema
from ..systems.base import ConditionalModel
from .building import build_node, common_schema, device_of, generator_of, is_rank_zero, labeler_of, to_builtin
from .control import (
    check_distance_codes,
    control,
    editing_settings,
    edits_of,
    feature_space_of,
    labeler_or_none,
    query_of,
    sampling_settings,
)
from .fitting import fit_to_end
from .pairs import check_test, data_of, given_pairs_of, pairs_generator_of, prior_pairs
from .results import finish_loggers, log_config, start_loggers, trainer_for, training_minutes, write_results


def edit(cfg: DictConfig) -> dict[str, float]:
    """Edit by a latent classifier, or by the model of `model` where there is one, and measure."""
    return control(cfg) if cfg.model.get("_target_") is None else model(cfg)


def model(cfg: DictConfig) -> dict[str, float]:
    """Train (or go on training, or find) the model of `model`, let it sample by attribute, or edit, and measure."""
    kind = _kind(cfg)
    generator = generator_of(cfg.generator)
    labeler, judge = labeler_or_none(cfg), labeler_of(cfg.judge)
    schema, cache = common_schema(labeler, judge), Cache(cfg.paths.cache)
    check_distance_codes(cfg)
    given, editing = _given(cfg, kind, generator, schema), cfg.task.name == "edit"
    known = given.schema if given else schema.part(cfg.task.attributes or schema.names)
    queries, options = _wanted(cfg, kind, generator, schema)
    for query in queries:
        kind.check_query(query)
        query.on(known)
    feature_space = feature_space_of(cfg, generator, judge, cache)
    # Whatever draws random weights comes before the model: it begins the same, and is trained the same, for both.
    settings = editing_settings(cfg) if editing else sampling_settings(cfg, but=("posterior_sets",))
    module = given or _module(cfg, kind, generator, known)
    callback: LatentEvaluation
    if editing:
        callback = ModelEditing(
            generator, judge, module, queries, options, feature_space, cache, labeler=labeler, **settings
        )
    else:
        callback = ModelSampling(
            generator, judge, module, queries[0], feature_space, cache, logic=options.logic, **settings
        )
    data, key = _data(cfg, module, generator, known, cache)
    if isinstance(callback, ModelSampling) and hasattr(data, "pairs"):
        callback.pairs = data.pairs.labels()
    loggers = start_loggers(cfg)
    try:
        # How it draws may change without another training.
        trained = {name: value for name, value in to_builtin(cfg.model).items() if name not in kind.draws_with}
        start = cfg.model.get("start")
        depends = {
            "model": trained,
            "data": key,
            "seed": cfg.seed,
            "known": known.to_config(),
            "epochs": cfg.trainer.max_epochs,
            "steps": cfg.trainer.get("max_steps", -1),
            "holdout": list(cfg.task.holdout),
            **({"start": file_sha256(start)} if start and Path(start).is_file() else {}),
        }
        seconds: float | None = (
            given.metadata.get("seconds")
            if given
            else _train(cfg, module, data, cache.folder("models", digest(depends)), loggers)
        )
        trainer = trainer_for(cfg, loggers, callbacks=[callback], enable_progress_bar=False, enable_model_summary=False)
        log_config(cfg, loggers)
        figures = trainer.test(module, data, verbose=False)[0]
    finally:
        finish_loggers(loggers)
    if cfg.task.export and is_rank_zero():
        made_for: dict[str, Any] = {"generator": generator.digest_for("w")} if kind.space == "w" else {}
        module.save(Path(cfg.paths.output) / f"{cfg.task.export}.safetensors", seconds=seconds, **made_for)
    metrics = {
        **{
            name.replace("test/", "model/", 1): float(value)
            for name, value in figures.items()
            if name.startswith("test/")
        },
        **callback.evaluation.metrics,
        **training_minutes(seconds),
    }
    write_results(cfg, metrics, callback.evaluation.protocol, callback.evaluation.grid, callback.evaluation.frames)
    return metrics


def _kind(cfg: DictConfig) -> type[ConditionalModel]:
    """Return the class of the model."""
    if cfg.model.get("_target_") is None:
        raise LaceError("The task 'model' needs a model and model=none: set model=latent_jem or another of conf/model.")
    kind = get_class(cfg.model._target_)
    if not issubclass(kind, ConditionalModel):
        raise LaceError(f"A model must be a ConditionalModel, received {kind.__name__}: correct model._target_.")
    return kind


def _wanted(
    cfg: DictConfig, kind: type[ConditionalModel], generator: Generator, schema: Schema
) -> tuple[list[Query], Any]:
    """Return the query, or the edits, and how they are made."""
    if cfg.task.name != "edit":
        query, options = query_of(cfg, schema)
        return [query], options
    if kind.edit_options is None:
        raise LaceError(
            f"Editing needs a model that edits, and {kind.__name__} only draws: set model=styleflow, or model=none for "
            f"LACE."
        )
    return edits_of(
        cfg, generator, schema, kind.edit_options, "editing=styleflow_v1, editing=styleflow_v2, or model=none for LACE"
    )


def _given(
    cfg: DictConfig, kind: type[ConditionalModel], generator: Generator, schema: Schema
) -> ConditionalModel | None:
    """Return the model of `task.weights`, checked against generator and schema, drawing as `model` says; None when it
    is to be trained.
    """
    path = cfg.task.get("weights")
    if path is None:
        return None
    module = kind.load(
        path, **{name: value for name, value in to_builtin(cfg.model).items() if name in kind.draws_with}
    )
    made_for = module.metadata.get("generator", generator.digest_for("w"))
    if kind.space == "w" and made_for != generator.digest_for("w"):
        raise LaceError(
            f"The model '{path}' was trained on the latents of generator {made_for} and was given generator "
            f"{generator.digest_for('w')}: load the other generator, or train one for this."
        )
    if not schema.covers(module.schema):
        raise LaceError(
            f"The model '{path}' knows {', '.join(module.schema.names)}, and the judge {', '.join(schema.names)}: "
            f"choose a "
            "judge of its schema."
        )
    return module.to(device_of(cfg))


def _module(cfg: DictConfig, kind: type[ConditionalModel], generator: Generator, schema: Schema) -> Any:
    """Return the model before it is trained."""
    torch.manual_seed(int(cfg.seed))
    node = {name: value for name, value in to_builtin(cfg.model).items() if name != "batch_size"}
    return build_node(
        {
            **node,
            "schema": schema.to_config(),
            **({"w_dim": generator.w_dim} if kind.space == "w" else {}),
            "_convert_": "all",
        }
    )


def _data(
    cfg: DictConfig, module: ConditionalModel, generator: Generator, schema: Schema, cache: Cache
) -> tuple[pl.LightningDataModule, str]:
    """Return what the model is trained on (pairs for w, the data set's pictures for x), and what that depends on."""
    if module.space == "x":
        pictures = build_node(cfg.dataset.module)
        there = pictures.schema
        if not there.covers(schema):
            raise LaceError(
                f"A model of pictures learns labels of the data set, {', '.join(there.names)}, and was asked for "
                f"{', '.join(schema.names)}: set task.attributes to some of these, or choose a judge of their schema."
            )
        if schema.names != there.names:
            module.columns = [there.index(name) for name in schema.names]
        return pictures, digest(to_builtin(cfg.dataset))
    pairs = given_pairs_of(cfg, generator, schema, cache) or prior_pairs(cfg, pairs_generator_of(cfg, generator), cache)
    settings = {
        **to_builtin(cfg.classifier),
        "space": "w",
        "soft_labels": False,
        "batch_size": int(cfg.model.batch_size),
    }
    data = data_of(cfg, settings, int(cfg.seed), pairs, schema)
    check_test(data, len(pairs))
    return data, data.key


def _train(
    cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, folder: Path, loggers: Any
) -> float:
    """Train to the end, if it is not there yet; return the seconds of training in all."""
    _, seconds = fit_to_end(
        cfg,
        module,
        data,
        folder,
        loggers,
        {"every_n_train_steps": int(cfg.task.checkpoint_steps)},
        enable_model_summary=False,
        limit_val_batches=0,
    )
    module.to(device_of(cfg))
    return seconds
