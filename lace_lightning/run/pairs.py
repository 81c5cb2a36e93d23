"""Pairs of latents and labels, and the classifier that is trained on them: made, given, or found in the cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.seed import isolate_rng

from ..artifacts import Cache, digest
from ..classifiers import AttributeClassifier
from ..data import (
    FreshPairsDataModule,
    LatentPairsDataModule,
    Latents,
    PairSet,
    given_pairs,
    keep_pictures,
    make_pairs,
    pairs_key,
)
from ..errors import LaceError
from ..generators import Generator
from ..schema import Schema
from ..systems.steered_latents import ControlledLatents
from ..training.latent_classifier import LatentClassifier
from ..weights import weight_path
from .building import OTHER_SEEDS, cached, device_of, generator_of, labeler_of, to_builtin
from .fitting import fit_to_end
from .results import start_loggers


def pairs_generator_of(cfg: DictConfig, generator: Generator) -> Generator:
    """Return the generator of the pairs: the same, unless `task.pairs_truncation` gives it another truncation."""
    truncation = cfg.task.get("pairs_truncation")
    if truncation is None or truncation == cfg.generator.get("truncation"):
        return generator
    if "truncation" not in cfg.generator or cfg.classifier.space != "w":
        raise LaceError(
            "task.pairs_truncation needs a generator with truncation and a classifier of w (p(c|w) is the same at "
            "every "
            "truncation, p(c|z) is not): set task.pairs_truncation=null."
        )
    node = OmegaConf.create({**to_builtin(cfg.generator), "truncation": truncation})
    return generator_of(node)


def given_pairs_of(cfg: DictConfig, generator: Generator, schema: Schema, cache: Cache) -> PairSet | None:
    """Return the pairs of `task.pairs_from`, checked against what the run wants of them.

    None where it makes its own.
    """
    if cfg.task.pairs_from is None:
        return None
    for setting, wanted in (("task.more_pairs", 0), ("classifier.fresh_pairs", 0), ("classifier.soft_labels", False)):
        if OmegaConf.select(cfg, setting) != wanted:
            raise LaceError(
                f"Given pairs come without pictures and without a labeler that could make more, and {setting} is "
                f"{OmegaConf.select(cfg, setting)}: set {setting}={str(wanted).lower()}, or task.pairs_from=null."
            )
    pairs = given_pairs(generator, cfg.task.pairs_from, cache, int(cfg.task.pairs_seed))
    if cfg.classifier.space not in pairs.arrays:
        raise LaceError(
            f"The given pairs have {', '.join(pairs.arrays)}, and classifier.space is {cfg.classifier.space}: set "
            "classifier.space=w."
        )
    if not schema.covers(pairs.schema):
        raise LaceError(
            f"The judge must know every attribute of the given pairs, {', '.join(pairs.schema.names)}, and knows "
            f"{', '.join(schema.names)}: choose a judge of their schema."
        )
    return pairs


def prior_pairs(cfg: DictConfig, generator: Generator, cache: Cache) -> PairSet:
    """Make the pairs from the prior."""
    return _make_pairs(cfg, generator, cache, int(cfg.task.num_pairs), int(cfg.task.pairs_seed))


def more_pairs_of(cfg: DictConfig, generator: Generator, pairs: PairSet, cache: Cache) -> PairSet | None:
    """Make pairs where a first classifier (one network, all attributes) is steered to, from starting points of their
    own.
    """
    if not cfg.task.more_pairs:
        return None
    node, seed = to_builtin(cfg.classifier), int(cfg.task.pairs_seed)
    # It shows the way, and needs neither to be right to the last percent nor calibrated.
    node |= {"fresh_pairs": 0, "calibrate": False}
    node |= {
        "attributes": None,
        "arguments": {**node["arguments"], **({"mode": "single"} if "mode" in node["arguments"] else {})},
    }
    data = data_of(cfg, node, seed, pairs, pairs.schema)
    # It begins from its own seed, and what is trained after it begins the same whether it was trained or found.
    with isolate_rng():
        torch.manual_seed(seed)
        first = classifier_of(cfg, node, generator, data, cache).classifier
    latents = ControlledLatents(generator, first, seed + OTHER_SEEDS)
    return _make_pairs(cfg, generator, cache, int(cfg.task.more_pairs), latents.seed, latents)


def _make_pairs(
    cfg: DictConfig, generator: Generator, cache: Cache, count: int, seed: int, latents: Latents | None = None
) -> PairSet:
    """Make pairs, or go on making them; with several processes the first makes them and the others wait."""
    labeler = labeler_of(cfg.labeler)
    pictures = keep_pictures(cfg.task.pairs_pictures, generator, count, cfg.classifier.space)
    folder = cache.folder("pairs", pairs_key(generator, labeler, count, seed, latents, pictures))
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0:
        device = device_of(cfg)
        return make_pairs(
            folder,
            generator.to(device),
            labeler.to(device),
            count,
            seed,
            cfg.task.pairs_batch_size,
            cfg.callbacks.progress,
            latents,
            pictures,
        )
    while not ((folder / "meta.json").is_file() and PairSet(folder).complete):
        time.sleep(0.5)
    return PairSet(folder)


def data_of(
    cfg: DictConfig, node: dict[str, Any], seed: int, pairs: PairSet, known: Schema, more: PairSet | None = None
) -> LatentPairsDataModule:
    """Return the data module of pairs for a classifier node."""
    return LatentPairsDataModule(
        pairs, node["space"], node["batch_size"], node["soft_labels"], tuple(cfg.task.holdout), seed, known, more
    )


def check_test(data: LatentPairsDataModule, count: int) -> None:
    """Refuse (LaceError) data of `count` pairs of which none is left to measure on what was trained on the others."""
    data.setup()
    if not len(data.parts["test"][0]):
        raise LaceError(
            f"What is trained is measured on pairs that it has not seen, and of {count} none is left for that: set "
            "task.holdout=[0.1,0.1], or make more pairs."
        )


def given_classifier_of(cfg: DictConfig, generator: Generator, schema: Schema) -> LatentClassifier | None:
    """Return the classifier of `classifier.weights`, checked against generator, space and schema; None when it is to be
    trained.
    """
    if cfg.classifier.get("weights") is None:
        return None
    classifier = AttributeClassifier.load(weight_path(cfg.classifier.weights))
    classifier.check_generator(generator.digest_for(classifier.space))
    if classifier.space != cfg.classifier.space:
        raise LaceError(
            f"The classifier '{cfg.classifier.weights}' is for space {classifier.space}, and classifier.space is "
            f"{cfg.classifier.space}: set classifier.space={classifier.space}."
        )
    if not set(classifier.schema.attributes) <= set(schema.attributes):
        raise LaceError(
            f"The classifier '{cfg.classifier.weights}' knows {', '.join(classifier.schema.names)}, and the labeler "
            f"{', '.join(schema.names)}: choose a labeler of its schema."
        )
    module = LatentClassifier(
        classifier.schema,
        classifier.space,
        classifier.network_name,
        classifier.arguments,
        generator_digest=generator.digest_for(classifier.space),
    )
    module.classifier = classifier
    return module


def classifier_of(
    cfg: DictConfig,
    node: dict[str, Any],
    generator: Generator,
    data: LatentPairsDataModule,
    cache: Cache,
    fresh: Callable[[], FreshPairsDataModule] | None = None,
) -> LatentClassifier:
    """Train the latent classifier of a configuration node, or take it from this process or the cache."""
    epochs = min(int(cfg.trainer.max_epochs), node["max_epochs"] or int(cfg.trainer.max_epochs))
    depends = {
        "pairs": data.key,
        "classifier": node,
        "seed": data.seed,
        "epochs": epochs,
        "steps": cfg.trainer.get("max_steps", -1),
        "holdout": list(cfg.task.holdout),
    }
    folder = cache.folder("classifiers", digest(depends))
    return cached(
        "classifier",
        str(folder),
        lambda: _trained(
            cfg, node, generator, data, folder, epochs, fresh() if fresh and node["fresh_pairs"] else None
        ),
    )


def _trained(
    cfg: DictConfig,
    node: dict[str, Any],
    generator: Generator,
    data: LatentPairsDataModule,
    folder: Path,
    epochs: int,
    fresh: FreshPairsDataModule | None,
) -> LatentClassifier:
    """Train unless `folder` has the classifier, on the pairs, then on fresh ones; a killed training goes on at its last
    epoch.
    """
    arguments = {key: value for key, value in node["arguments"].items() if value is not None}
    if node["network"] == "mlp":
        arguments["input_dim"] = {"z": generator.z_dim, "w": generator.w_dim}.get(node["space"], 0)
    keys = (
        "space",
        "network",
        "learning_rate",
        "warmup_steps",
        "decay",
        "decay_epochs",
        "weight_decay",
        "continuous_weight",
    )

    def new(**settings: Any) -> LatentClassifier:
        return LatentClassifier(
            data.schema,
            arguments=arguments,
            generator_digest=generator.digest_for(node["space"]),
            **{**{key: node[key] for key in keys}, **settings},
        )

    module = new()
    file = folder / "classifier.safetensors"
    if not file.is_file():
        loggers = start_loggers(cfg, only_csv=True)
        trainer, seconds = _fit_pairs(cfg, module, data, loggers, folder, epochs)
        if fresh is not None:
            first, module = (
                module.classifier,
                new(learning_rate=node["fresh_learning_rate"], warmup_steps=0, decay=0.7, decay_epochs=1),
            )
            module.classifier = first
            trainer, more = _fit_pairs(cfg, module, fresh, loggers, folder / "fresh", fresh.epochs)
            seconds += more
        if node["calibrate"]:
            module.calibrate(data.val_dataloader())
        if trainer.is_global_zero:
            module.classifier.save(file, pairs=data.key, seconds=seconds)
            for left in (*folder.rglob("last.ckpt"), *folder.rglob("steps.json")):
                left.unlink()
        trainer.strategy.barrier()
    module.classifier = AttributeClassifier.load(file)
    return module


def _fit_pairs(
    cfg: DictConfig,
    module: LatentClassifier,
    data: pl.LightningDataModule,
    loggers: list[Logger],
    folder: Path,
    epochs: int,
) -> tuple[pl.Trainer, float]:
    """Train for so many epochs, a checkpoint about every tenth of them; return the trainer and the seconds of training
    in all.
    """
    every = {"every_n_epochs": max(1, epochs // 10), "save_on_train_epoch_end": True}
    return fit_to_end(cfg, module, data, folder, loggers, every, enable_model_summary=False, max_epochs=epochs)
