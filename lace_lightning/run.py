"""One run: instantiate, fit or reuse, test, write results. No maths."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.seed import isolate_rng
from tqdm import tqdm

from . import __version__
from .artifacts import Cache, atomic_path, check_writable, digest, file_sha256, write_json
from .callbacks import (
    ConditionalSampling,
    EnergyOptions,
    FeatureSpace,
    LatentEvaluation,
    RealPictures,
    SequentialEditing,
    TemperatureStrips,
    TrainingPictures,
    build_feature_space,
    generator_grid,
    inception_extractor,
    judge_extractor,
    labelled_grid,
    measure_reference,
)
from .classifiers import AttributeClassifier, load_embedding
from .data import (
    ControlledLatents,
    FreshPairsDataModule,
    LatentPairsDataModule,
    Latents,
    PairSet,
    given_pairs,
    keep_pictures,
    make_pairs,
    pairs_key,
)
from .editing import EditOptions, check_layers, parse_edit
from .energies import build
from .errors import LaceError, suggest
from .generators import Generator, check
from .labelers import Labeler
from .metrics import GivenStatistics, LayerShares, layers_of, read_statistics
from .modules.gan import GANTraining
from .modules.identity import IdentityTraining
from .modules.image_classifier import ImageClassifierTraining
from .modules.latent_classifier import LatentClassifier
from .modules.losses import attribute_scores
from .pictures import numbers, shrunk, to_bytes
from .portraits import attribute_rows
from .query import Query, parse
from .report import results_table, text_table
from .schema import Labels, Schema
from .weights import weight_path

T = TypeVar("T")
_LOADED: dict[str, Any] = {}
# Added to the seed of what must not begin at the same latents as something else.
OTHER_SEEDS = 2**20


def plain(node: Any) -> Any:
    """Return a configuration node as plain containers."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def reuse(kind: str, key: Any, make: Callable[[], T]) -> T:
    """Return what was made for this key in this process, else make it: the jobs of a sweep load nothing twice."""
    name = f"{kind}-{digest(key)}"
    if name not in _LOADED:
        _LOADED[name] = make()
    return _LOADED[name]


def build_node(node: Any) -> Any:
    """Instantiate a configuration node; an error inside comes out as what it says, not as what Hydra wraps around it."""
    try:
        return instantiate(node)
    except HydraException as error:
        if isinstance(error.__cause__, LaceError):
            raise error.__cause__ from None
        raise LaceError(" ".join(str(error).split())) from error


def config_digest(cfg: DictConfig) -> str:
    """Return the digest of everything in the configuration that decides a result (not where it goes or who is told)."""
    settings = plain(cfg)
    return digest({key: value for key, value in settings.items() if key not in ("paths", "logger", "paper", "name", "sweep")})


def run(cfg: DictConfig) -> dict[str, float]:
    """Run the task of a configuration and return its metrics. Raises LaceError for anything wrong in it."""
    tasks = {"control": control, "edit": control, "temperature": control, "fit_classifier": fit_classifier,
             "fit_generator": fit_generator, "fit_identity": fit_identity, "reference": reference,
             "check_labelers": check_labelers, "style_layers": style_layers, "draw_portraits": draw_portraits,
             "pictures": pictures}
    if cfg.task.name not in tasks:
        raise LaceError(f"The tasks are {', '.join(tasks)}, received '{cfg.task.name}'.{suggest(cfg.task.name, tasks)}")
    check_writable(cfg.paths.output)
    check_writable(Path(cfg.paths.cache).expanduser())
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.get("threads"):
        torch.set_num_threads(int(cfg.threads))
    _write_inputs(cfg)
    return tasks[cfg.task.name](cfg)


# ------------------------------------------------------------------------------------------------ control


def control(cfg: DictConfig) -> dict[str, float]:
    """Train (or reuse) the latent classifier, sample by attribute, measure."""
    sampler = build_node(cfg.sampler)
    generator = reuse("generator", plain(cfg.generator), lambda: _generator(cfg.generator))
    labeler, judge = _labeler_or_none(cfg), _labeler(cfg.judge)
    schema = _schema(labeler, judge)
    if cfg.metrics.distance_codes not in ("same", "pairs"):
        raise LaceError(f"metrics.distance_codes must be one of same, pairs, received '{cfg.metrics.distance_codes}'.")
    if cfg.task.more_pairs < 0 or (cfg.task.more_pairs and cfg.classifier.space == "x"):
        raise LaceError(f"task.more_pairs must be at least 0, and 0 for a classifier of pictures (space x), received "
                        f"{cfg.task.more_pairs} in space {cfg.classifier.space}: set task.more_pairs=0.")
    if cfg.classifier.fresh_pairs < 0 or (cfg.classifier.fresh_pairs and cfg.classifier.space == "x"):
        raise LaceError(f"classifier.fresh_pairs must be at least 0, and 0 for a classifier of pictures (space x), received "
                        f"{cfg.classifier.fresh_pairs} in space {cfg.classifier.space}: set classifier.fresh_pairs=0.")
    keep_pictures(cfg.task.pairs_pictures, generator, int(cfg.task.num_pairs), cfg.classifier.space)
    if cfg.classifier.calibrate and not cfg.task.holdout[0]:
        raise LaceError("classifier.calibrate needs validation pairs, and task.holdout leaves none: set task.holdout=[0.02,0.02].")
    what = _edits(cfg, generator, schema) if cfg.task.name == "edit" else _query(cfg, schema)
    given = _given_classifier(cfg, generator, schema)
    cache = Cache(cfg.paths.cache)
    given_labels = _given_pairs(cfg, generator, schema, cache)
    labelled = schema.names if given_labels is None else given_labels.schema.names
    known = given.schema if given else schema.part(cfg.classifier.attributes or labelled)
    for query in what[0] if isinstance(what[0], list) else [what[0]]:
        query.on(known)
    pairs_generator = _pairs_generator(cfg, generator)
    theirs = _given_statistics(cfg)
    depends = [plain(cfg.judge), plain(cfg.dataset), cfg.metrics.fid, theirs and theirs.protocol, generator.image_shape, str(cache.root)]
    feature_space = reuse("features", depends, lambda: build_feature_space(
        cfg.metrics.fid, judge, _pictures(cfg), cfg.dataset.name, cache, str(_device(cfg)), theirs, generator.image_shape))
    callback = _evaluation(cfg, generator, judge, sampler, what, feature_space, cache)
    pairs = given_labels or _pairs(cfg, pairs_generator, cache)
    if isinstance(callback, ConditionalSampling):
        callback.pairs = pairs.labels()
    more = None if given else _more_pairs(cfg, pairs_generator, pairs, cache)
    node = plain(cfg.classifier)
    data = reuse("data", [str(pairs.folder), len(pairs), more and str(more.folder), node, list(cfg.task.holdout), cfg.seed],
                 lambda: _data(cfg, node, cfg.seed, pairs, known, more))
    data.setup()
    if not len(data.parts["test"][0]):
        raise LaceError(f"The classifier is measured on pairs that it has not seen, and of {len(pairs)} none is left for that: set "
                        "task.holdout=[0.1,0.1], or make more pairs.")
    module = given or _classifier(cfg, node, generator, data, cache, lambda: FreshPairsDataModule(
        data, pairs_generator, _labeler(cfg.labeler), int(node["fresh_pairs"]), float(node["fresh_share"])))
    if cfg.task.get("export") and _is_first():
        module.classifier.save(Path(cfg.paths.output) / f"{cfg.task.export}.safetensors", torch.float16, pairs=data.key)
    loggers = _loggers(cfg)
    try:
        trainer = _trainer(cfg, loggers, callbacks=[callback], enable_progress_bar=False, enable_model_summary=False)
        _log_config(cfg, loggers)
        figures = trainer.test(module, data, verbose=False)[0]
    finally:
        _finish(loggers)
    metrics = {**{name: float(value) for name, value in figures.items() if name.startswith(("classifier/", "calibration/"))},
               **callback.evaluation.metrics}
    _write_results(cfg, metrics, callback.evaluation.protocol, callback.evaluation.grid, callback.evaluation.frames)
    return metrics


def _generator(node: DictConfig) -> Generator:
    generator = build_node(node)
    if not isinstance(generator, Generator):
        raise LaceError(f"A generator must be a lace_lightning Generator, received {type(generator).__name__}: wrap a module of your "
                        "own with generator._target_=lace_lightning.generators.ModuleGenerator.")
    check(generator)
    return generator


def _name(node: DictConfig) -> str:
    """Return what to call a generator: its name, or its class where the configuration gives none."""
    return node.get("name") or node._target_.rsplit(".", 1)[-1]


def _pairs_generator(cfg: DictConfig, generator: Generator) -> Generator:
    """Return the generator of the pairs: the same, unless `task.pairs_truncation` gives it another truncation."""
    truncation = cfg.task.get("pairs_truncation")
    if truncation is None or truncation == cfg.generator.get("truncation"):
        return generator
    if "truncation" not in cfg.generator or cfg.classifier.space != "w":
        raise LaceError("task.pairs_truncation needs a generator with truncation and a classifier of w (p(c|w) is the same at every "
                        "truncation, p(c|z) is not): set task.pairs_truncation=null.")
    node = OmegaConf.create({**plain(cfg.generator), "truncation": truncation})
    return reuse("generator", plain(node), lambda: _generator(node))


def _labeler(node: DictConfig) -> Labeler:
    return reuse("labeler", plain(node), lambda: build_node(node))


def _labeler_or_none(cfg: DictConfig) -> Labeler | None:
    """Return the labeler; None for labeler=none, where pairs are given."""
    if cfg.labeler.get("_target_") is not None:
        return _labeler(cfg.labeler)
    if cfg.task.pairs_from is None:
        raise LaceError("Pairs need a labeler, and labeler=none: choose a labeler, or set task.pairs_from to pairs that have labels.")
    return None


def _given_pairs(cfg: DictConfig, generator: Generator, schema: Schema, cache: Cache) -> PairSet | None:
    """Return the pairs of `task.pairs_from`, checked against what the run wants of them; None where it makes its own."""
    if cfg.task.pairs_from is None:
        return None
    for setting, wanted in (("task.more_pairs", 0), ("classifier.fresh_pairs", 0), ("classifier.soft_labels", False)):
        if OmegaConf.select(cfg, setting) != wanted:
            raise LaceError(f"Given pairs come without pictures and without a labeler that could make more, and {setting} is "
                            f"{OmegaConf.select(cfg, setting)}: set {setting}={str(wanted).lower()}, or task.pairs_from=null.")
    pairs = given_pairs(generator, cfg.task.pairs_from, cache, int(cfg.task.pairs_seed))
    if cfg.classifier.space not in pairs.arrays:
        raise LaceError(f"The given pairs have {', '.join(pairs.arrays)}, and classifier.space is {cfg.classifier.space}: set "
                        "classifier.space=w.")
    if not all(a.name in schema.names and a.agrees_with(schema[a.name]) for a in pairs.schema):
        raise LaceError(f"The judge must know every attribute of the given pairs, {', '.join(pairs.schema.names)}, and knows "
                        f"{', '.join(schema.names)}: choose a judge of their schema.")
    return pairs


def _schema(labeler: Labeler | None, judge: Labeler) -> Schema:
    if labeler is None:
        return judge.schema
    if labeler.schema.names != judge.schema.names or not all(a.agrees_with(b) for a, b in zip(labeler.schema, judge.schema, strict=True)):
        raise LaceError(f"Labeler and judge must know the same attributes, and '{labeler.name}' has {', '.join(labeler.schema.names)}, "
                        f"'{judge.name}' {', '.join(judge.schema.names)}: choose two of one schema.")
    if labeler.digest.split("-")[0] == judge.digest.split("-")[0]:
        rank_zero_warn("The judge is the network that made the labels: ACC will flatter. Choose another judge.")
    return labeler.schema


def _query(cfg: DictConfig, schema: Schema) -> tuple[Query, EnergyOptions]:
    """Return the query and how it becomes an energy; evaluated once on zeros, so that whatever is wrong with it shows now."""
    query = parse(cfg.query.text, schema)
    options = EnergyOptions(**{key: value for key, value in plain(cfg.query).items() if key != "text"})
    free = Labels.constant(schema, 1, **dict.fromkeys(query.free, 0.0)) if query.free else None
    energy = build(query, free, options.logic, options.sigma, options.temperature, options.paper_temperature, options.gamma, options.hard)
    energy.value_and_grad(torch.zeros(1, schema.num_logits))
    return query, options


def _edits(cfg: DictConfig, generator: Generator, schema: Schema) -> tuple[list[Query], EditOptions]:
    """Return the edits and how to make them, checked."""
    if not cfg.task.edits:
        raise LaceError('Editing needs edits and received none: write for example edits="glasses == 1, age == 0.8".')
    options = EditOptions(sigma=cfg.query.sigma, **{key: value for key, value in plain(cfg.editing).items() if key != "name"})
    check_layers(options, generator, schema)
    if cfg.classifier.space == "x":
        raise LaceError("Editing needs a classifier of latents, and classifier.space is x: set classifier.space=w.")
    return [parse_edit(str(edit), schema) for edit in cfg.task.edits], options


def _evaluation(cfg: DictConfig, generator: Generator, judge: Labeler, sampler: Any, what: tuple[Any, Any],
                feature_space: FeatureSpace | None, cache: Cache) -> LatentEvaluation:
    """Return what the test runs: sampling of (query, options), at several temperatures or one, or editing by (edits, options)."""
    settings = {key: value for key, value in plain(cfg.metrics).items() if key not in ("fid", "reference")} | plain(cfg.callbacks)
    if cfg.task.name == "control":
        return ConditionalSampling(generator, judge, sampler, *what, feature_space, cache, labeler=_labeler_or_none(cfg), **settings)
    settings = {key: settings[key] for key in ("num_samples", "batch_size", "seed", "progress")}
    if cfg.task.name == "temperature":
        return TemperatureStrips(generator, judge, sampler, *what, list(cfg.task.temperatures), feature_space, cache,
                                 strips=cfg.task.strips, **settings)
    embedding = load_embedding(plain(cfg.task.identity), _device(cfg))
    return SequentialEditing(generator, judge, sampler, *what, feature_space, cache, embedding.distance if embedding else None,
                             strips=cfg.task.strips, identity_protocol=embedding.protocol if embedding else None, **settings)


def _given_classifier(cfg: DictConfig, generator: Generator, schema: Schema) -> LatentClassifier | None:
    """Return the classifier of `classifier.weights`, checked against generator, space and schema; None when it is to be trained."""
    if cfg.classifier.get("weights") is None:
        return None
    classifier = AttributeClassifier.load(weight_path(cfg.classifier.weights))
    classifier.check_generator(generator.digest_for(classifier.space))
    if classifier.space != cfg.classifier.space:
        raise LaceError(f"The classifier '{cfg.classifier.weights}' is for space {classifier.space}, and classifier.space is "
                        f"{cfg.classifier.space}: set classifier.space={classifier.space}.")
    if not set(classifier.schema.attributes) <= set(schema.attributes):
        raise LaceError(f"The classifier '{cfg.classifier.weights}' knows {', '.join(classifier.schema.names)}, and the labeler "
                        f"{', '.join(schema.names)}: choose a labeler of its schema.")
    module = LatentClassifier(classifier.schema, classifier.space, classifier.network_name, classifier.arguments,
                              generator_digest=generator.digest_for(classifier.space))
    module.classifier = classifier
    return module


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
    return reuse("statistics", [str(path), content], lambda: read_statistics(path))


def _pairs(cfg: DictConfig, generator: Generator, cache: Cache) -> PairSet:
    """Make the pairs from the prior."""
    return _make_pairs(cfg, generator, cache, int(cfg.task.num_pairs), int(cfg.task.pairs_seed))


def _more_pairs(cfg: DictConfig, generator: Generator, pairs: PairSet, cache: Cache) -> PairSet | None:
    """Make pairs where a first classifier (one network, all attributes) is steered to, from starting points of their own."""
    if not cfg.task.more_pairs:
        return None
    node, seed = plain(cfg.classifier), int(cfg.task.pairs_seed)
    # It shows the way, and needs neither to be right to the last percent nor calibrated.
    node |= {"fresh_pairs": 0, "calibrate": False}
    node |= {"attributes": None, "arguments": {**node["arguments"], **({"mode": "single"} if "mode" in node["arguments"] else {})}}
    data = _data(cfg, node, seed, pairs, pairs.schema)
    # It begins from its own seed, and what is trained after it begins the same whether it was trained or found.
    with isolate_rng():
        torch.manual_seed(seed)
        first = _classifier(cfg, node, generator, data, cache).classifier
    latents = ControlledLatents(generator, first, seed + OTHER_SEEDS)
    return _make_pairs(cfg, generator, cache, int(cfg.task.more_pairs), latents.seed, latents)


def _make_pairs(cfg: DictConfig, generator: Generator, cache: Cache, count: int, seed: int, latents: Latents | None = None) -> PairSet:
    """Make pairs, or go on making them; with several processes the first makes them and the others wait."""
    labeler = _labeler(cfg.labeler)
    pictures = keep_pictures(cfg.task.pairs_pictures, generator, count, cfg.classifier.space)
    folder = cache.folder("pairs", pairs_key(generator, labeler, count, seed, latents, pictures))
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0:
        device = _device(cfg)
        return make_pairs(folder, generator.to(device), labeler.to(device), count, seed, cfg.task.pairs_batch_size,
                          cfg.callbacks.progress, latents, pictures)
    while not ((folder / "meta.json").is_file() and PairSet(folder).complete):
        time.sleep(0.5)
    return PairSet(folder)


def _data(cfg: DictConfig, node: dict[str, Any], seed: int, pairs: PairSet, known: Schema,
          more: PairSet | None = None) -> LatentPairsDataModule:
    return LatentPairsDataModule(pairs, node["space"], node["batch_size"], node["soft_labels"], tuple(cfg.task.holdout), seed, known, more)


def _classifier(cfg: DictConfig, node: dict[str, Any], generator: Generator, data: LatentPairsDataModule, cache: Cache,
                fresh: Callable[[], FreshPairsDataModule] | None = None) -> LatentClassifier:
    """Train the latent classifier of a configuration node, or take it from this process or the cache."""
    epochs = min(int(cfg.trainer.max_epochs), node["max_epochs"] or int(cfg.trainer.max_epochs))
    depends = {"pairs": data.key, "classifier": node, "seed": data.seed, "epochs": epochs,
               "steps": cfg.trainer.get("max_steps", -1), "holdout": list(cfg.task.holdout)}
    folder = cache.folder("classifiers", digest(depends))
    return reuse("classifier", str(folder), lambda: _trained(
        cfg, node, generator, data, folder, epochs, fresh() if fresh and node["fresh_pairs"] else None))


def _trained(cfg: DictConfig, node: dict[str, Any], generator: Generator, data: LatentPairsDataModule, folder: Path, epochs: int,
             fresh: FreshPairsDataModule | None) -> LatentClassifier:
    """Train unless `folder` has the classifier, on the pairs, then on fresh ones; a killed training goes on at its last epoch."""
    arguments = {key: value for key, value in node["arguments"].items() if value is not None}
    if node["network"] == "mlp":
        arguments["input_dim"] = {"z": generator.z_dim, "w": generator.w_dim}.get(node["space"], 0)
    keys = ("space", "network", "learning_rate", "warmup_steps", "decay", "decay_epochs", "weight_decay", "continuous_weight")

    def new(**settings: Any) -> LatentClassifier:
        return LatentClassifier(data.schema, arguments=arguments, generator_digest=generator.digest_for(node["space"]),
                                **{**{key: node[key] for key in keys}, **settings})

    module = new()
    file = folder / "classifier.safetensors"
    if not file.is_file():
        loggers, trainer = _loggers(cfg, only_csv=True), None
        if fresh is None or not (folder / "fresh" / "last.ckpt").is_file():
            trainer = _fit_pairs(cfg, module, data, loggers, folder, epochs)
        if fresh is not None:
            first, module = module.classifier, new(
                learning_rate=node["fresh_learning_rate"], warmup_steps=0, decay=0.7, decay_epochs=1)
            module.classifier = first
            trainer = _fit_pairs(cfg, module, fresh, loggers, folder / "fresh", fresh.epochs)
        assert trainer is not None
        if node["calibrate"]:
            module.calibrate(data.val_dataloader())
        if trainer.is_global_zero:
            module.classifier.save(file, pairs=data.key)
            for last in folder.rglob("last.ckpt"):
                last.unlink()
        trainer.strategy.barrier()
    module.classifier = AttributeClassifier.load(file)
    return module


def _fit_pairs(cfg: DictConfig, module: LatentClassifier, data: pl.LightningDataModule, loggers: list[Logger], folder: Path,
               epochs: int) -> pl.Trainer:
    """Train, from the last checkpoint in `folder` if there is one."""
    last = folder / "last.ckpt"
    # `save_last` with no other checkpoint saves none at the end of epochs; left to itself it saves where it validates, less often.
    checkpoint = ModelCheckpoint(folder, filename="last", save_top_k=1, every_n_epochs=max(1, epochs // 10), save_on_train_epoch_end=True,
                                 enable_version_counter=False)
    trainer = _trainer(cfg, loggers, callbacks=[checkpoint], enable_progress_bar=bool(cfg.callbacks.progress),
                       enable_model_summary=False, max_epochs=epochs)
    trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    return trainer


# ------------------------------------------------------------------------------------------------ training of image networks


def fit_classifier(cfg: DictConfig) -> dict[str, float]:
    """Train an image classifier (labeler or judge), evaluate its moving average, export it."""
    data = build_node(cfg.dataset.module)
    module = ImageClassifierTraining(data.schema, **plain(cfg.network))
    metrics = _fit(cfg, module, data)
    return _export(cfg, metrics, lambda file: module.classifier().save(file, torch.float16, **metrics))


def fit_identity(cfg: DictConfig) -> dict[str, float]:
    """Train an identity embedding, test it on people that it has not seen, export it."""
    data, module = build_node(cfg.dataset.module), IdentityTraining(**plain(cfg.network))
    metrics = _fit(cfg, module, data)
    return _export(cfg, metrics, lambda file: module.embedding.eval().save(file, torch.float16, **metrics))


def fit_generator(cfg: DictConfig) -> dict[str, float]:
    """Train a StyleGAN2 generator, export its moving average, draw a grid."""
    data, module = build_node(cfg.dataset.module), GANTraining(**plain(cfg.network))
    pictures = TrainingPictures(Path(cfg.paths.output) / "samples.png", cfg.task.pictures_kimg)
    metrics = _fit(cfg, module, data, pictures)
    metrics["kimg"] = float(module.images_seen) / 1000
    return _export(cfg, metrics, module.export, lambda: generator_grid(module))


def _export(cfg: DictConfig, metrics: dict[str, float], save: Callable[[Path], None],
            draw: Callable[[], Any] = lambda: None) -> dict[str, float]:
    """Write the trained weights as <task.export>.safetensors, then draw, then write the results; return the metrics."""
    file = Path(cfg.paths.output) / f"{cfg.task.export}.safetensors"
    if _is_first():
        save(file)
    _write_results(cfg, metrics, {"weights": file.name}, draw())
    return metrics


def reference(cfg: DictConfig) -> dict[str, float]:
    """Measure what Fréchet distances are compared with: Inception's features of the real pictures (metrics.fid), or the judge's."""
    data, device = build_node(cfg.dataset.module), str(_device(cfg))
    data.setup("fit")
    # What has no labels has no splits.
    pictures = {split: part[0] for split, part in getattr(data, "splits", {}).items()} or {"train": data.train_pictures()}
    inception = cfg.metrics.fid == "inception"
    extractor = inception_extractor(device) if inception else judge_extractor(_labeler(cfg.judge), cfg.dataset.name, device)
    file = Path(cfg.paths.output) / f"{cfg.task.export}.safetensors"
    metrics = measure_reference(extractor, pictures, cfg.dataset.name, file, data.source, Cache(cfg.paths.cache))
    _write_results(cfg, metrics, {"weights": file.name, "network": extractor.network}, None)
    return metrics


def check_labelers(cfg: DictConfig) -> dict[str, float]:
    """Measure labeler and judge on the test pictures, and how far they agree on the generator's."""
    device, count, size = _device(cfg), int(cfg.metrics.num_samples), int(cfg.metrics.batch_size)
    labeler, judge, generator = _labeler(cfg.labeler).to(device), _labeler(cfg.judge).to(device), _generator(cfg.generator).to(device)
    schema, data = _schema(labeler, judge), build_node(cfg.dataset.module)
    if data.schema.attributes != schema.attributes:
        raise LaceError(f"Labeler and judge must know the attributes of the data set, {', '.join(data.schema.names)}, and know "
                        f"{', '.join(schema.names)}: choose others, or another dataset.module.attributes where it has that.")
    data.setup("fit")
    pictures, truth, *known = data.splits["test"]

    def logits(who: Labeler, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([who(part.to(device)).cpu() for part in numbers(images)])

    with torch.no_grad():
        shown, seen = [], []
        for first in range(0, count, size):
            images = generator.pictures(generator.mapping(generator.prior(min(size, count - first), cfg.metrics.seed, first, device)))
            seen.append([logits(who, images) for who in (labeler, judge)])
            shown.append(shrunk(images[: max(80 - first, 0)].cpu()))

    # What the data set cannot tell is measured by nobody.
    told = known[0].any(0).tolist() if known else [True] * len(schema)
    scores = {who: {name: score for (name, score), some in zip(
        attribute_scores(schema, logits(network, pictures), truth, *known).items(), told, strict=True) if some}
        for who, network in (("labeler", labeler), ("judge", judge))}
    scores["agreement"] = attribute_scores(schema, *map(torch.cat, zip(*seen, strict=True)))
    metrics = {f"{who}/{name}": float(value) for who, column in scores.items() for name, value in column.items()}
    rows = [[a.name, "share right" if a.kind == "discrete" else "1 - mean error",
             *(float(column[a.name]) if a.name in column else None for column in scores.values())] for a in schema]
    summary = (f"{len(pictures)} test pictures of {cfg.dataset.name}; agreement on {count} pictures of {_name(cfg.generator)}\n"
               f"{text_table(['attribute', '', *scores], rows)}")
    grid = labelled_grid(list(torch.cat(shown).split(10)), [""] * -(-min(count, 80) // 10), f"{_name(cfg.generator)}, uncurated")
    _write_results(cfg, metrics, {"test_pictures": len(pictures), "generated_pictures": count, "labeler": labeler.digest,
                                  "judge": judge.digest, "generator": generator.digest}, grid, summary=summary)
    return metrics


def style_layers(cfg: DictConfig) -> dict[str, float]:
    """Measure which style layers carry each attribute of a generator, by the labeler, and print what to write into editing.layers."""
    device, count, size = _device(cfg), int(cfg.metrics.num_samples), int(cfg.metrics.batch_size)
    labeler, generator = _labeler(cfg.labeler).to(device), _generator(cfg.generator).to(device)
    if not generator.has_layers:
        raise LaceError(f"Measuring style layers needs a generator that has them, and {_name(cfg.generator)} has one latent for the "
                        "whole picture: choose another generator.")
    measure = LayerShares(labeler.schema, generator.num_ws).to(device)
    rows: list[torch.Tensor] = []
    for first in tqdm(range(0, count, size), desc="style layers", disable=not cfg.callbacks.progress):
        number = min(size, count - first)
        with torch.no_grad():
            # Two people a sample, from seeds of their own.
            a, b = (generator.broadcast(generator.mapping(generator.prior(number, cfg.metrics.seed + offset, first, device)))
                    for offset in (0, OTHER_SEEDS))
            states = [a, *(a.index_copy(1, torch.tensor([i], device=device), b[:, i : i + 1]) for i in range(generator.num_ws)), b]
            looks = []
            for ws in states:
                images = generator.pictures(ws)
                looks.append(torch.cat([labeler(part) for part in numbers(images)]))
                if first == 0:
                    rows.append(shrunk(images[: cfg.task.columns]).cpu())
        logits = torch.stack(looks)
        measure.update(logits[0], logits[-1], logits[1:-1])
    shares = measure.compute().cpu()
    schema, layers = labeler.schema, range(generator.num_ws)
    metrics = {f"layer{i}/{a.name}": float(shares[i, k]) for i in layers for k, a in enumerate(schema)}
    chosen = {a.name: layers_of(shares[:, k], cfg.task.threshold) for k, a in enumerate(schema)}
    table = text_table(["attribute", *(f"layer {i}" for i in layers)], [[a.name, *shares[:, k].tolist()] for k, a in enumerate(schema)])
    snippet = "\n".join(f"  {name}: {value}" for name, value in chosen.items())
    grid = labelled_grid(rows, ["a", *(f"{i} of b" for i in layers), "b"], f"{_name(cfg.generator)}: one style layer of b in a")
    _write_results(cfg, metrics, {"pairs": count, "labeler": labeler.digest, "generator": generator.digest, "layers": chosen}, grid,
                   summary=f"Share of the difference between two people that comes with a style layer\n{table}\n\nlayers:\n{snippet}")
    return metrics


def draw_portraits(cfg: DictConfig) -> dict[str, float]:
    """Draw a contact sheet of rendered portraits: people, and what each attribute does."""
    start = time.perf_counter()
    rows = attribute_rows(cfg.task.resolution, cfg.task.columns, cfg.seed)
    seconds = time.perf_counter() - start
    metrics = {"portraits": float(sum(map(len, rows.values()))), "seconds": seconds}
    _write_results(cfg, metrics, {"resolution": cfg.task.resolution}, labelled_grid([to_bytes(row) for row in rows.values()], list(rows)))
    return metrics


def pictures(cfg: DictConfig) -> dict[str, float]:
    """Write pictures of the generator's to label by hand, and a table to fill in: what task.pairs_from reads."""
    device, count, size = _device(cfg), int(cfg.task.count), int(cfg.metrics.batch_size)
    generator, folder = _generator(cfg.generator).to(device), check_writable(Path(cfg.task.folder))
    table, names = folder / "labels.csv", [folder / f"{i:06d}.png" for i in range(count)]
    if table.is_file():
        raise LaceError(f"The table '{table}' is there already, and what was filled in must not be lost: choose another task.folder.")
    shown: list[torch.Tensor] = []
    for first in tqdm(range(0, count, size), desc="pictures", disable=not cfg.callbacks.progress):
        part = names[first : first + size]
        if all(name.is_file() for name in part) and len(shown) > 0:
            continue
        with torch.no_grad():
            images = generator.pictures(generator.mapping(generator.prior(len(part), int(cfg.task.pairs_seed), first, device))).cpu()
        for name, image in zip(part, images, strict=True):
            with atomic_path(name) as temporary:
                Image.fromarray(image.permute(1, 2, 0).numpy().squeeze()).save(temporary, format="png")
        shown = shown or list(images[:80].split(10))
    with atomic_path(table) as temporary:
        temporary.write_text("".join(f"{row}\n" for row in (",".join(["sample", *cfg.task.attributes]),
                                                             *(name.name + "," * len(cfg.task.attributes) for name in names))))
    _write_results(cfg, {"pictures": float(count)}, {"generator": generator.digest, "folder": str(folder), "seed": cfg.task.pairs_seed},
                   labelled_grid(shown, [""] * len(shown), f"{_name(cfg.generator)}, uncurated"),
                   summary=f"{count} pictures and {table}: fill in its columns (classes, or numbers in [0, 1]; empty where you cannot "
                           f"tell), then task.pairs_from={table}")
    return {"pictures": float(count)}


def _fit(cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, *callbacks: pl.Callback) -> dict[str, float]:
    """Fit, and test where the module has a test; a killed run goes on: the folder belongs to the configuration, not the time."""
    key = digest({"network": plain(cfg.network), "data": plain(cfg.dataset), "seed": cfg.seed, "epochs": cfg.trainer.max_epochs})
    folder = Cache(cfg.paths.cache).folder("training", f"{cfg.task.export}-{key}")
    loggers = _loggers(cfg)
    try:
        checkpoint = ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=int(cfg.task.checkpoint_steps))
        trainer = _trainer(cfg, loggers, callbacks=[checkpoint, *callbacks], enable_progress_bar=bool(cfg.callbacks.progress))
        _log_config(cfg, loggers)
        last = folder / "last.ckpt"
        if last.is_file():
            rank_zero_info(f"Going on from {last}")
        trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
        if not is_overridden("test_step", module):
            return {}
        return {name: float(value) for name, value in trainer.test(module, data, verbose=False)[0].items()}
    finally:
        _finish(loggers)


# ------------------------------------------------------------------------------------------------ trainer, loggers, results


def _trainer(cfg: DictConfig, loggers: list[Logger], **options: Any) -> pl.Trainer:
    return pl.Trainer(**{**plain(cfg.trainer), **options}, logger=loggers, default_root_dir=cfg.paths.output)


def _device(cfg: DictConfig) -> torch.device:
    wanted = cfg.trainer.get("accelerator", "auto")
    return torch.device("cuda") if wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available() else torch.device("cpu")


def _is_first() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _loggers(cfg: DictConfig, only_csv: bool = False) -> list[Logger]:
    """Return the configured loggers; one that cannot start (W&B) is reported and left out."""
    result: list[Logger] = []
    for name, node in (cfg.logger or {}).items():
        if node is None or (only_csv and name != "csv"):
            continue
        try:
            logger = instantiate(node)
            if _is_first():
                _ = logger.experiment
            result.append(logger)
        except Exception as error:
            if name == "csv":
                raise
            rank_zero_warn(f"The logger '{name}' could not start and is left out ({type(error).__name__}: {error}).")
    return result


def _log_config(cfg: DictConfig, loggers: list[Logger]) -> None:
    for logger in loggers:
        logger.log_hyperparams(plain(cfg))


def _finish(loggers: list[Logger]) -> None:
    """Close every W&B run: the next job of a sweep must not write into this one's."""
    for logger in loggers:
        try:
            logger.finalize("success")
            finish = getattr(getattr(logger, "experiment", None), "finish", None)
            if callable(finish):
                finish()
        except Exception as error:
            rank_zero_warn(f"The logger {type(logger).__name__} did not close ({error}).")


def command_line() -> str:
    """Return the command that was typed, as it can be typed again."""
    program = "python -m lace_lightning" if sys.argv[0].endswith("__main__.py") else Path(sys.argv[0]).name
    return " ".join([program, *(shlex.quote(argument) for argument in sys.argv[1:])])


@rank_zero_only
def _write_inputs(cfg: DictConfig) -> None:
    out = Path(cfg.paths.output)
    for name, text in (("config.yaml", OmegaConf.to_yaml(cfg, resolve=True)), ("command.txt", command_line() + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text)


@rank_zero_only
def _write_results(cfg: DictConfig, metrics: Mapping[str, float], protocol: Mapping[str, Any], grid: Any,
                   frames: Sequence[Any] = (), summary: str | None = None) -> None:
    """Write pictures first and metrics.json last: where it exists, the run is complete; print `summary`, or the metrics."""
    out = Path(cfg.paths.output)
    if grid is not None:
        with atomic_path(out / "samples.png") as temporary:
            grid.save(temporary, format="png")
    if frames:
        with atomic_path(out / "samples.gif") as temporary:
            frames[0].save(temporary, format="gif", save_all=True, append_images=frames[1:], duration=80, loop=0)
    paper = paper_row(cfg)
    write_json(out / "metrics.json", {
        "name": cfg.name, "metrics": dict(metrics), "paper": paper, "protocol": dict(protocol), "config_digest": config_digest(cfg),
        "command": command_line(), "date": time.strftime("%Y-%m-%d"), "versions": {
            "lace_lightning": __version__, "torch": torch.__version__, "lightning": pl.__version__, "python": platform.python_version()}})
    if "acc" in metrics or "holds" in metrics:
        print(f"\n{cfg.name}: {protocol['query']}, {protocol['num_samples']} samples, {protocol['sampler']}")
        if protocol.get("reason"):
            print(f"chosen: {protocol['reason']}")
        print(results_table(metrics, paper))
        if protocol.get("frechet"):
            print("; ".join(f"{key}: {value}" for key, value in protocol["frechet"].items()))
    else:
        print("\n" + (summary or ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())))
    print(f"results in {out}")


def paper_row(cfg: DictConfig) -> dict[str, float]:
    """Return the paper's figures for this setting: the entry of `paper` whose `when` agrees with the configuration."""
    for entry in plain(cfg.get("paper")) or []:
        conditions = entry.get("when", {})
        if all(OmegaConf.select(cfg, key) == value for key, value in conditions.items()):
            return {key: value for key, value in entry.items() if key != "when"}
    return {}
