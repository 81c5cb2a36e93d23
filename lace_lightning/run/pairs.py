"""Latent/label pairs of a study: made, found in the cache, or given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng

from ..data import LatentPairsDataModule, Latents, PairSet, is_filled, keep_pictures, make_pairs, pairs_identity
from ..errors import LaceError
from ..schema import Schema
from ..seeds import RunSeeds
from ..systems.steered_latents import ControlledLatents
from ..training.latent_classifier import LatentClassifier
from .nodes import cached
from .study import Study
from .train import Stage, classifier_arguments, train


def pairs_of(study: Study) -> PairSet:
    """Return the pairs of a study: those that are given, or those of the prior."""
    pairs = study.settings.pairs
    return study.given or _make_pairs(study, pairs.count, pairs.seed)


def more_pairs_of(study: Study, pairs: PairSet) -> PairSet | None:
    """Return pairs at latents that a first classifier (one network, all attributes) was steered to, None for none."""
    settings = study.settings
    if not settings.pairs.more:
        return None
    node, seed = settings.classifier.model_dump(), settings.pairs.seed
    # It shows the way, and needs neither to be right to the last percent nor calibrated.
    mode = {"mode": "single"} if "mode" in node["arguments"] else {}
    node |= {"fresh_pairs": 0, "calibrate": False, "attributes": None, "arguments": {**node["arguments"], **mode}}
    data = data_of(study, node, seed, pairs, pairs.schema)
    # It begins from its own seed, and what is trained after it begins the same whether it was trained or found.
    with isolate_rng():
        torch.manual_seed(seed)
        first = LatentClassifier(data.schema, **classifier_arguments(node, study.generator))
        train(study, first, data, _stages(study, node, data), _identity(study, node, data), loggers=[])
    latents = ControlledLatents(study.pairs_generator, first.classifier, seed + RunSeeds.OTHER)
    return _make_pairs(study, settings.pairs.more, latents.seed, latents)


def _stages(study: Study, node: Mapping[str, Any], data: LatentPairsDataModule) -> list[Stage]:
    return [Stage.of_epochs(data, epochs_of(study, node))]


def _identity(study: Study, node: Mapping[str, Any], data: LatentPairsDataModule) -> dict[str, Any]:
    return classifier_identity(study, node, data)


def epochs_of(study: Study, node: Mapping[str, Any]) -> int:
    """Return how many epochs a latent classifier is trained on the pairs."""
    limit = study.settings.limits[0]
    chosen = node["max_epochs"] or limit
    # -1 is a training without end, which the classifier's own number of epochs ends.
    return min(limit, chosen) if limit >= 0 else chosen


def classifier_identity(study: Study, node: Mapping[str, Any], data: LatentPairsDataModule) -> dict[str, Any]:
    """Return everything that the training of a latent classifier depends on."""
    return {
        "pairs": data.key,
        "known": data.schema.to_config(),
        "classifier": dict(node),
        "seed": data.seed,
        "epochs": epochs_of(study, node),
        "steps": study.settings.limits[1],
        "holdout": list(study.settings.pairs.holdout),
    }


def _make_pairs(study: Study, count: int, seed: int, latents: Latents | None = None) -> PairSet:
    """Make pairs, find them, or go on making them; of several processes one makes them and the others wait."""
    labeler, generator, settings = study.labeler, study.pairs_generator, study.settings
    if labeler is None:
        raise LaceError("Pairs need a labeler, and labeler=none: choose a labeler, or set pairs.source.")
    pictures = keep_pictures(settings.pairs.pictures, generator, count, settings.classifier.space)
    entry = study.cache.entry("pairs", pairs_identity(generator, labeler, count, seed, latents, pictures))
    title = "pairs" if latents is None else "more pairs"
    if is_filled(entry.folder):
        study.say(f"found {count} {title} {entry.key}")
    else:
        study.say(f"making {count} {title} {entry.key}", entry.why())
        entry.describe()
    return make_pairs(
        entry.folder,
        generator.to(study.device),
        labeler.to(study.device),
        count,
        seed,
        settings.pairs.batch_size,
        settings.metrics.progress,
        latents,
        pictures,
    )


def data_of(
    study: Study, node: Mapping[str, Any], seed: int, pairs: PairSet, known: Schema, more: PairSet | None = None
) -> LatentPairsDataModule:
    """Return the data module of pairs for the settings of a classifier; loaded once for all jobs of a sweep.

    Raises:
        LaceError: where no pair is left for tests.
    """
    holdout = study.settings.pairs.holdout
    key = [str(pairs.folder), len(pairs), more and str(more.folder), dict(node), list(holdout), seed, known.to_config()]
    data = cached(
        "data",
        key,
        lambda: LatentPairsDataModule(
            pairs, node["space"], node["batch_size"], node["soft_labels"], holdout, seed, known, more
        ),
    )
    data.setup()
    if not len(data.parts["test"][0]):
        raise LaceError(
            f"A system is measured on pairs that it has not seen, and of {len(pairs)} pairs none is left for that: set "
            "pairs.holdout=[0.1,0.1], or make more pairs."
        )
    return data
