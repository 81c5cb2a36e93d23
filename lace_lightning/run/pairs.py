"""Latent/label pairs of a study: generated, loaded from the cache, or given by a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng

from ..data import LatentPairsDataModule, Latents, PairSet, cached_pairs, keep_pictures
from ..errors import LaceError
from ..schema import Schema
from ..seeds import RunSeeds
from ..systems.steered_latents import ControlledLatents
from ..training.fitting import Stage
from ..training.latent_classifier import LatentClassifier, classifier_arguments
from .nodes import cached
from .study import Study
from .train import train


def pairs_of(study: Study) -> PairSet:
    """Return the pairs of a study: given pairs, or pairs at latents of the prior.

    Args:
        study: the study.

    Returns:
        Pairs in a folder, complete.

    Raises:
        LaceError: when pairs must be generated and the study has no labeler.
    """
    pairs = study.settings.pairs
    return study.given or _make_pairs(study, pairs.count, pairs.seed)


def more_pairs_of(study: Study, pairs: PairSet) -> PairSet | None:
    """Return further pairs at latents that a first classifier was steered to.

    The first classifier is one network for all attributes.

    Args:
        study: the study.
        pairs: the pairs that the first classifier is trained on.

    Returns:
        `pairs.more` pairs, complete; None where that is 0.

    Raises:
        LaceError: when the study has no labeler, or no pair is left for tests.
    """
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
    """Return the number of epochs of a latent classifier's training on the pairs.

    Args:
        study: the study, with trainer.max_epochs.
        node: settings of the classifier in plain containers.

    Returns:
        The smaller of the classifier's and the trainer's number; the classifier's where the trainer has no limit (-1).
    """
    limit = study.settings.limits[0]
    chosen = node["max_epochs"] or limit
    # -1 is a training without end, which the classifier's own number of epochs ends.
    return min(limit, chosen) if limit >= 0 else chosen


def classifier_identity(study: Study, node: Mapping[str, Any], data: LatentPairsDataModule) -> dict[str, Any]:
    """Return everything that the training of a latent classifier depends on, for the key of the cache.

    Args:
        study: the study.
        node: settings of the classifier in plain containers.
        data: the data of the training.

    Returns:
        Plain containers.
    """
    return {
        "pairs": data.key,
        "known": data.schema.to_config(),
        # The batches follow from the pairs and `min_steps`: what was trained is named by their size.
        "classifier": {**{k: v for k, v in node.items() if k != "min_steps"}, "batch_size": data.batch_size},
        "seed": data.seed,
        "epochs": epochs_of(study, node),
        "steps": study.settings.limits[1],
        "holdout": list(study.settings.pairs.holdout),
        **({"features": study.generator.feature_name} if node["space"] == "features" else {}),
    }


def _make_pairs(study: Study, count: int, seed: int, latents: Latents | None = None) -> PairSet:
    """Generate pairs or the missing rest of them, or load them; of several processes one does, and the others wait."""
    labeler, generator, settings = study.labeler, study.pairs_generator, study.settings
    if labeler is None:
        raise LaceError("Pairs need a labeler, and labeler=none: choose a labeler, or set pairs.source.")
    return cached_pairs(
        study.cache,
        generator.to(study.device),
        labeler.to(study.device),
        count,
        seed,
        settings.pairs.batch_size,
        settings.metrics.progress,
        latents,
        keep_pictures(settings.pairs.pictures, generator, count, settings.classifier.space),
    )


def data_of(
    study: Study, node: Mapping[str, Any], seed: int, pairs: PairSet, known: Schema, more: PairSet | None = None
) -> LatentPairsDataModule:
    """Return the data module of pairs for the settings of a classifier, loaded once for all jobs of a sweep.

    Few pairs are in smaller batches, so that the training has `min_steps` steps.

    Args:
        study: the study, with the shares of validation and test pairs.
        node: settings of the classifier in plain containers.
        seed: seed of the order of the batches.
        pairs: the pairs.
        known: the attributes that are learned.
        more: further pairs for training, None for none.

    Raises:
        LaceError: where no pair is left for tests.
    """
    holdout = study.settings.pairs.holdout
    key = [str(pairs.folder), len(pairs), more and str(more.folder), dict(node), list(holdout), seed, known.to_config()]
    key += [study.generator.feature_name, epochs := epochs_of(study, node)]
    data = cached(
        "data",
        key,
        lambda: LatentPairsDataModule(
            pairs, node["space"], node["batch_size"], node["soft_labels"], holdout, seed, known, more, study.generator
        ),
    )
    data.ensure_steps(epochs, node["min_steps"])
    if not len(data.parts["test"][0]):
        raise LaceError(
            f"A system is measured on pairs that it has not seen, and of {len(pairs)} pairs none is left for that: set "
            "pairs.holdout=[0.1,0.1], or make more pairs."
        )
    return data
