"""Sampling and editing by attribute: train or reuse the classifier, sample, measure."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ..artifacts import Cache, file_sha256
from ..callbacks import ConditionalSampling, EnergyOptions, LatentEvaluation, SequentialEditing, TemperatureStrips
from ..classifiers import load_embedding
from ..data import FreshPairsDataModule, keep_pictures
from ..energies import build
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..metrics import GivenStatistics, read_statistics
from ..metrics.feature_space import FeatureSpace, RealPictures, build_feature_space
from ..query import Query, parse
from ..schema import Labels, Schema
from ..systems.editing import EditOptions, check_layers, parse_edit
from .building import build_node, cached, common_schema, device_of, generator_of, is_rank_zero, labeler_of, to_builtin
from .pairs import (
    check_test,
    classifier_of,
    data_of,
    given_classifier_of,
    given_pairs_of,
    more_pairs_of,
    pairs_generator_of,
    prior_pairs,
)
from .results import finish_loggers, log_config, start_loggers, trainer_for, training_minutes, write_results


def control(cfg: DictConfig) -> dict[str, float]:
    """Train (or cached) the latent classifier, sample by attribute, measure."""
    sampler = build_node(cfg.sampler)
    generator = generator_of(cfg.generator)
    labeler, judge = labeler_or_none(cfg), labeler_of(cfg.judge)
    schema = common_schema(labeler, judge)
    check_distance_codes(cfg)
    if cfg.task.more_pairs < 0 or (cfg.task.more_pairs and cfg.classifier.space == "x"):
        raise LaceError(
            f"task.more_pairs must be at least 0, and 0 for a classifier of pictures (space x), received "
            f"{cfg.task.more_pairs} in space {cfg.classifier.space}: set task.more_pairs=0."
        )
    if cfg.classifier.fresh_pairs < 0 or (cfg.classifier.fresh_pairs and cfg.classifier.space == "x"):
        raise LaceError(
            f"classifier.fresh_pairs must be at least 0, and 0 for a classifier of pictures (space x), received "
            f"{cfg.classifier.fresh_pairs} in space {cfg.classifier.space}: set classifier.fresh_pairs=0."
        )
    keep_pictures(cfg.task.pairs_pictures, generator, int(cfg.task.num_pairs), cfg.classifier.space)
    if cfg.classifier.calibrate and not cfg.task.holdout[0]:
        raise LaceError(
            "classifier.calibrate needs validation pairs, and task.holdout leaves none: set task.holdout=[0.02,0.02]."
        )
    what = edits_of(cfg, generator, schema) if cfg.task.name == "edit" else query_of(cfg, schema)
    given = given_classifier_of(cfg, generator, schema)
    cache = Cache(cfg.paths.cache)
    given_labels = given_pairs_of(cfg, generator, schema, cache)
    labelled = schema.names if given_labels is None else given_labels.schema.names
    known = given.schema if given else schema.part(cfg.classifier.attributes or labelled)
    for query in what[0] if isinstance(what[0], list) else [what[0]]:
        query.on(known)
    pairs_generator = pairs_generator_of(cfg, generator)
    feature_space = feature_space_of(cfg, generator, judge, cache)
    callback = _evaluation(cfg, generator, judge, sampler, what, feature_space, cache)
    pairs = given_labels or prior_pairs(cfg, pairs_generator, cache)
    if isinstance(callback, ConditionalSampling):
        callback.pairs = pairs.labels()
    more = None if given else more_pairs_of(cfg, pairs_generator, pairs, cache)
    node = to_builtin(cfg.classifier)
    data = cached(
        "data",
        [str(pairs.folder), len(pairs), more and str(more.folder), node, list(cfg.task.holdout), cfg.seed],
        lambda: data_of(cfg, node, cfg.seed, pairs, known, more),
    )
    check_test(data, len(pairs))
    module = given or classifier_of(
        cfg,
        node,
        generator,
        data,
        cache,
        lambda: FreshPairsDataModule(
            data, pairs_generator, labeler_of(cfg.labeler), int(node["fresh_pairs"]), float(node["fresh_share"])
        ),
    )
    if cfg.task.get("export") and is_rank_zero():
        module.classifier.save(Path(cfg.paths.output) / f"{cfg.task.export}.safetensors", torch.float16, pairs=data.key)
    loggers = start_loggers(cfg)
    try:
        trainer = trainer_for(cfg, loggers, callbacks=[callback], enable_progress_bar=False, enable_model_summary=False)
        log_config(cfg, loggers)
        figures = trainer.test(module, data, verbose=False)[0]
    finally:
        finish_loggers(loggers)
    seconds = None if given else module.classifier.metadata.get("seconds")
    metrics = {
        **{name: float(value) for name, value in figures.items() if name.startswith(("classifier/", "calibration/"))},
        **callback.evaluation.metrics,
        **training_minutes(seconds),
    }
    write_results(cfg, metrics, callback.evaluation.protocol, callback.evaluation.grid, callback.evaluation.frames)
    return metrics


def check_distance_codes(cfg: DictConfig) -> None:
    """Refuse (LaceError) another source of free attributes than there are."""
    if cfg.metrics.distance_codes not in ("same", "pairs"):
        raise LaceError(f"metrics.distance_codes must be one of same, pairs, received '{cfg.metrics.distance_codes}'.")


def feature_space_of(cfg: DictConfig, generator: Generator, judge: Labeler, cache: Cache) -> FeatureSpace | None:
    """Return what the Fréchet distance is measured on, and to; made once for all jobs of a sweep."""
    theirs = _given_statistics(cfg)
    depends = [
        to_builtin(cfg.judge),
        to_builtin(cfg.dataset),
        cfg.metrics.fid,
        theirs and theirs.protocol,
        generator.image_shape,
        str(cache.root),
    ]
    return cached(
        "features",
        depends,
        lambda: build_feature_space(
            cfg.metrics.fid,
            judge,
            _pictures(cfg),
            cfg.dataset.name,
            cache,
            str(device_of(cfg)),
            theirs,
            generator.image_shape,
        ),
    )


def labeler_or_none(cfg: DictConfig) -> Labeler | None:
    """Return the labeler; None for labeler=none, where pairs are given."""
    if cfg.labeler.get("_target_") is not None:
        return labeler_of(cfg.labeler)
    if cfg.task.pairs_from is None:
        raise LaceError(
            "Pairs need a labeler, and labeler=none: choose a labeler, or set task.pairs_from to pairs that have "
            "labels."
        )
    return None


def query_of(cfg: DictConfig, schema: Schema) -> tuple[Query, EnergyOptions]:
    """Return the query and how it becomes an energy; evaluated once on zeros, so that whatever is wrong with it shows
    now.
    """
    query = parse(cfg.query.text, schema)
    options = EnergyOptions(**{key: value for key, value in to_builtin(cfg.query).items() if key != "text"})
    free = Labels.constant(schema, 1, **dict.fromkeys(query.free, 0.0)) if query.free else None
    energy = build(
        query,
        free,
        options.logic,
        options.sigma,
        options.temperature,
        options.paper_temperature,
        options.gamma,
        options.hard,
    )
    energy.value_and_grad(torch.zeros(1, schema.num_logits))
    return query, options


def edits_of(
    cfg: DictConfig,
    generator: Generator,
    schema: Schema,
    kind: type = EditOptions,
    advice: str = "editing=sequential, or model=styleflow",
) -> tuple[list[Query], Any]:
    """Return the edits and how to make them, a `kind` of options, checked; `advice` is what to set for another kind's
    settings.
    """
    if not cfg.task.edits:
        raise LaceError('Editing needs edits and received none: write for example edits="glasses == 1, age == 0.8".')
    settings, names = to_builtin(cfg.editing), [field.name for field in fields(kind)]
    name = settings.pop("name", None)
    if not set(settings) <= set(names):
        raise LaceError(
            f"This editing takes {', '.join(names)}, and editing={name} has "
            f"{', '.join(sorted(set(settings) - set(names)))}: "
            f"set {advice}."
        )
    options = kind(**({"sigma": cfg.query.sigma} if "sigma" in names else {}), **settings)
    check_layers(options.layers, generator, schema)
    if kind is EditOptions and cfg.classifier.space == "x":
        raise LaceError("Editing needs a classifier of latents, and classifier.space is x: set classifier.space=w.")
    return [parse_edit(str(edit), schema) for edit in cfg.task.edits], options


def sampling_settings(cfg: DictConfig, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a sampling callback takes of the configuration beside what was built, `but` some."""
    return {
        key: value for key, value in to_builtin(cfg.metrics).items() if key not in ("fid", "reference", *but)
    } | to_builtin(cfg.callbacks)


def strips_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return what a callback that draws strips takes of the configuration."""
    settings = sampling_settings(cfg)
    return {
        "strips": cfg.task.strips,
        **{key: settings[key] for key in ("num_samples", "batch_size", "seed", "progress")},
    }


def editing_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return what an editing callback takes of the configuration beside what was built: also who is in the picture, for
    ID.
    """
    embedding = load_embedding(to_builtin(cfg.task.identity), device_of(cfg))
    who = {"identity": embedding.distance, "identity_protocol": embedding.protocol} if embedding else {}
    return {**strips_settings(cfg), **who}


def _evaluation(
    cfg: DictConfig,
    generator: Generator,
    judge: Labeler,
    sampler: Any,
    what: tuple[Any, Any],
    feature_space: FeatureSpace | None,
    cache: Cache,
) -> LatentEvaluation:
    """Return what the test runs: sampling of (query, options), at several temperatures or one, or editing by (edits,
    options).
    """
    if cfg.task.name == "control":
        return ConditionalSampling(
            generator,
            judge,
            sampler,
            *what,
            feature_space,
            cache,
            labeler=labeler_or_none(cfg),
            **sampling_settings(cfg),
        )
    if cfg.task.name == "temperature":
        return TemperatureStrips(
            generator, judge, sampler, *what, list(cfg.task.temperatures), feature_space, cache, **strips_settings(cfg)
        )
    return SequentialEditing(generator, judge, sampler, *what, feature_space, cache, **editing_settings(cfg))


def _pictures(cfg: DictConfig) -> RealPictures | None:
    """Return what loads or draws the train pictures; None where they cannot be had."""
    data = build_node(cfg.dataset.module)
    return data if data.at_hand else None


def _given_statistics(cfg: DictConfig) -> GivenStatistics | None:
    """Return the statistics of `metrics.reference`, read once while the file stays the same."""
    path = cfg.metrics.get("reference")
    if path is None:
        return None
    content = file_sha256(path) if Path(path).is_file() else None
    return cached("statistics", [str(path), content], lambda: read_statistics(path))
