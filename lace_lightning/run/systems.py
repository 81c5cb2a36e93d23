"""Construction, training and export of the system of a study: LACE or another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.loggers import Logger

from ..artifacts import load_config
from ..configuration import config_folder
from ..data import FreshPairsDataModule, PairSet
from ..data.processes import is_rank_zero, say
from ..energies import Energy
from ..errors import LaceError
from ..schema import Schema
from ..systems.base import ConditionalModel, System
from ..systems.lace import LACE
from ..training.fitting import Stage
from ..training.latent_classifier import LatentClassifier, classifier_arguments
from ..weights import card, weight_names, weight_path
from .check import system_kind
from .identity import node_identity
from .pairs import classifier_identity, data_of, epochs_of, more_pairs_of
from .study import Study
from .train import train

# The value of task.weights that leaves the choice to the program.
AUTO = "auto"


def system_of(study: Study) -> System:
    """Return the system of a study, bound to its generator: untrained, or with given weights.

    Args:
        study: the study.

    Raises:
        LaceError: for weights of another generator, space or schema.
    """
    kind = system_kind(study.settings)
    # The first weights depend on the seed alone, and not on the random numbers that loading the study took.
    pl.seed_everything(study.settings.seed, workers=True, verbose=False)
    system = _lace(study) if kind is None else _model(study, kind)
    # A model reads the attributes before an edit off the picture: by the labeler, so that the judge is independent.
    labeler = study.labeler or (study.judge if study.settings.task.name == "edit" and kind is not None else None)
    return system.bind(study.generator, labeler)


def _lace(study: Study) -> System:
    settings, classifier = study.settings, study.settings.classifier
    sampler = settings.sampler.build()
    extra = _extra_energies(study)
    path = settings.task.weights  # type: ignore[attr-defined]
    is_free = path == AUTO and classifier.weights is None
    path = _shipped_classifier(study) if is_free else classifier.weights if path in (None, AUTO) else path
    if path is None:
        arguments = classifier_arguments(classifier.model_dump(), study.generator)
        return LACE(study.known, sampler, study.options, extra, **arguments)
    system = LACE.load(path, sampler, study.options, extra)
    if system.space != classifier.space:
        raise LaceError(
            f"The classifier '{path}' is for space {system.space}, and classifier.space is {classifier.space}: set "
            f"classifier.space={system.space}."
        )
    if not set(system.schema.attributes) <= set(study.schema.attributes):
        raise LaceError(
            f"The classifier '{path}' knows {', '.join(system.schema.names)}, and the labeler "
            f"{', '.join(study.schema.names)}: choose a labeler of its schema."
        )
    return system


def _shipped_classifier(study: Study) -> str | None:
    """Return the name of the shipped classifier of the study's generator and settings, None where there is none."""
    plain = study.settings.plain.get("classifier") or {}
    standard = yaml.safe_load((config_folder() / "classifier" / "latent.yaml").read_text(encoding="utf-8"))
    labeler = study.settings.plain.get("labeler")
    made_for = study.generator.digest_for(study.settings.classifier.space)
    for name in weight_names():
        if not name.endswith("_classifier"):
            continue
        # It stands for a training with the settings and the labels that it was trained with itself.
        about = card(name)
        if {**plain, "attributes": None} != {**standard, **about.get("settings", {})}:
            continue
        if labeler and any(labeler.get(key) != value for key, value in about["labeler"].items()):
            continue
        known = load_config(weight_path(name))
        schema = Schema.from_config(known["schema"])
        wanted = {attribute for query in study.queries for attribute in query.attributes}
        if known.get("generator") == made_for and study.schema.covers(schema) and wanted <= set(schema.names):
            say(f"classifier: {name}, shipped; task.weights=null trains one")
            return name
    return None


def _extra_energies(study: Study) -> dict[str, Energy]:
    """Return the energies that are added to that of the query, by name. Raises LaceError for another object."""
    energies = {}
    for name, node in study.settings.extra_energies.items():
        energy = node.build()
        if not isinstance(energy, Energy):
            raise LaceError(
                f"The setting '{node.key}' must be an Energy, and {type(energy).__name__} is none: make it a subclass "
                "of lace_lightning.energies.Energy, or a lace_lightning.energies.Reward of your function."
            )
        energies[name] = energy
    return energies


def _model(study: Study, kind: type[System]) -> System:
    settings = study.settings
    path = settings.task.weights  # type: ignore[attr-defined]
    # No model is shipped.
    path = None if path == AUTO else path
    if path is None:
        dims = {"w_dim": study.generator.w_dim} if kind.space == "w" else {}
        more = {"schema": study.known.to_config(), "_convert_": "all", **dims}
        model: System = settings.model.build("batch_size", **more)
    else:
        model = _given_model(study, kind, path)
    if isinstance(model, ConditionalModel):
        model.logic = settings.query.logic
    return model.to(study.device) if path is not None else model


def _given_model(study: Study, kind: type[System], path: str) -> System:
    if not issubclass(kind, ConditionalModel):
        raise LaceError(f"Weights of {kind.__name__} cannot be read by task.weights: set task.weights=null.")
    arguments = study.settings.model.arguments
    model: ConditionalModel = kind.load(
        path, **{name: arguments[name] for name in kind.draws_with if name in arguments}
    )
    own = study.generator.digest_for("w")
    made_for = model.metadata.get("generator", own)
    if kind.space == "w" and made_for != own:
        raise LaceError(
            f"The model '{path}' was trained on the latents of generator {made_for} and was given generator "
            f"{own}: load the other generator, or train one for this."
        )
    if not study.schema.covers(model.schema):
        raise LaceError(
            f"The model '{path}' knows {', '.join(model.schema.names)}, and the judge "
            f"{', '.join(study.schema.names)}: choose a judge of its schema."
        )
    model.given = True
    return model


def training_data(study: Study, system: System, pairs: PairSet | None) -> pl.LightningDataModule:
    """Return the data for training and tests of a system: pairs, or pictures of the data set.

    Args:
        study: the study.
        system: the system; the columns of its attributes are set where the data set has others too.
        pairs: the pairs, None for a system of pictures.

    Raises:
        LaceError: when the data set lacks an attribute of the system, or no pair is left for tests.
    """
    settings = study.settings
    if pairs is None:
        return _pictures(study, system)
    if isinstance(system, LACE):
        more = None if system.given else more_pairs_of(study, pairs)
        return data_of(study, settings.classifier.model_dump(), settings.seed, pairs, system.schema, more)
    batch_size = settings.model.get("batch_size") or settings.classifier.batch_size
    # A model is trained for the epochs of the trainer.
    changes = {"space": "w", "soft_labels": False, "batch_size": batch_size, "max_epochs": None}
    node = {**settings.classifier.model_dump(), **changes}
    return data_of(study, node, settings.seed, pairs, system.schema)


def _pictures(study: Study, system: System) -> pl.LightningDataModule:
    pictures: pl.LightningDataModule = study.settings.dataset.module.build()
    there = getattr(pictures, "schema", None)
    if there is None or not there.covers(system.schema):
        names = "none" if there is None else ", ".join(there.names)
        raise LaceError(
            f"A model of pictures learns labels of the data set, {names}, and was asked for "
            f"{', '.join(system.schema.names)}: set task.attributes to some of these, or choose a judge of "
            "their schema."
        )
    if system.schema.names != there.names and isinstance(system, ConditionalModel):
        system.columns = [there.index(name) for name in system.schema.names]
    return pictures


def train_system(study: Study, system: System, data: pl.LightningDataModule, loggers: list[Logger]) -> float | None:
    """Train a system to the end, or load its trained state from the cache.

    Args:
        study: the study.
        system: the system, which has the trained state afterwards; one with given weights is not trained.
        data: data of the training.
        loggers: loggers of the training.

    Returns:
        Seconds of the training; None where they are not known.
    """
    if system.given:
        # A classifier's file says when it was trained elsewhere; that is no training of this run.
        return getattr(system, "metadata", {}).get("seconds")
    if isinstance(system, LACE):
        node = study.settings.classifier.model_dump()
        system.calibrates = node["calibrate"]
        stages = [Stage.of_epochs(data, epochs_of(study, node))]
        if node["fresh_pairs"]:
            stages.append(_fresh_stage(study, system, data))
        return train(study, system, data, stages, classifier_identity(study, node, data), loggers)  # type: ignore[arg-type]
    every = {"every_n_train_steps": study.settings.task.checkpoint_steps}  # type: ignore[attr-defined]
    stage = Stage(data, every, options={"limit_val_batches": 0})
    return train(study, system, data, [stage], _model_identity(study, system, data), loggers)


def _fresh_stage(study: Study, system: LACE, data: Any) -> Stage:
    """Return the second training of a latent classifier, on pairs that are generated during the training."""
    node, labeler = study.settings.classifier, study.labeler
    assert labeler is not None
    fresh = FreshPairsDataModule(data, study.pairs_generator, labeler, node.fresh_pairs, node.fresh_share)
    changes = {"learning_rate": node.fresh_learning_rate, "warmup_steps": 0, "decay": 0.7, "decay_epochs": 1}
    arguments = {**classifier_arguments(node.model_dump(), study.generator), **changes}
    module = LatentClassifier(system.schema, **arguments)
    module.classifier = system.classifier
    return Stage.of_epochs(fresh, fresh.epochs, module)


def _model_identity(study: Study, system: System, data: pl.LightningDataModule) -> dict[str, Any]:
    """Return everything that the training of a model depends on."""
    settings = study.settings
    # How it draws may change without another training.
    trained = {name: value for name, value in settings.model.content.items() if name not in system.draws_with}
    key, batch_size = getattr(data, "key", None), getattr(data, "batch_size", None)
    return {
        "model": node_identity(trained),
        "data": node_identity(settings.plain["dataset"], "dataset") if key is None else key,
        "seed": settings.seed,
        "known": system.schema.to_config(),
        "epochs": settings.limits[0],
        "steps": settings.limits[1],
        "holdout": list(settings.pairs.holdout),
        # A model of latents without one takes that of the classifier, and few pairs make it smaller.
        **({} if settings.model.get("batch_size") == batch_size else {"batch_size": batch_size}),
    }


def export(study: Study, system: System, data: pl.LightningDataModule | None, seconds: float | None) -> None:
    """Write the trained system as <task.export>.safetensors, where task.export is set.

    Args:
        study: the study.
        system: the trained system.
        data: data of the training, whose key is stored with LACE; None where there is none.
        seconds: seconds of the training, which are stored with other systems; None where they are not known.

    Raises:
        LaceError: when the file cannot be written.
    """
    name = study.settings.task.export  # type: ignore[attr-defined]
    if not name or not is_rank_zero():
        return
    file = Path(study.settings.paths.output) / f"{name}.safetensors"
    if isinstance(system, LACE):
        system.save(file, pairs=getattr(data, "key", None))
    else:
        made_for = {"generator": study.generator.digest_for("w")} if system.space == "w" else {}
        system.save(file, seconds=seconds, **made_for)
