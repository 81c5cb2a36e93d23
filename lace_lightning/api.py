"""Fit, draw, evaluate and edit in one call each, without configuration files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from .cache import Cache, cache_folder
from .classifiers import AttributeClassifier
from .data import LatentPairsDataModule, cached_pairs, keep_pictures
from .data.processes import say, silent
from .errors import LaceError
from .generators import Generator, as_generator
from .labelers import Labeler, as_labeler
from .schema import Schema
from .streams import quiet_libraries
from .training.fitting import Stage, fit_to_end, train_or_load
from .training.latent_classifier import LatentClassifier, classifier_arguments
from .training.losses import attribute_scores

AnyGenerator = Generator | nn.Module | Callable[..., Any] | str | os.PathLike[str]
AnyLabeler = Labeler | AttributeClassifier | Callable[[Tensor], Any] | str | os.PathLike[str]
# Fewer pairs leave too few for calibration and test.
FEWEST = 100
# Pictures by which the kinds of a function's labels are found.
LOOKED_AT = 500
# Shares of the pairs for calibration and for the accuracy that is said.
HOLDOUT = (0.05, 0.05)
# Training steps that a number of epochs is chosen for.
STEPS = 3000


def fit(
    generator: AnyGenerator,
    labeler: AnyLabeler,
    attributes: str | Sequence[str] | Mapping[str, Any] | Schema | None = None,
    num_pairs: int = 10_000,
    space: str | None = None,
    hidden: Sequence[int] = (384, 256, 128),
    epochs: int | None = None,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    soft_labels: bool = False,
    seed: int = 0,
    progress: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> AttributeClassifier:
    """Train a classifier of a generator's latents on labels of its pictures.

    Pictures of latents of the prior are labelled, and a perceptron learns the labels from the latents. 5 % of the pairs
    calibrate its probabilities, and on 5 % its accuracy is measured. The pairs, which runs with the same generator and
    labeler use too, and the classifier are found again at the next call with the same arguments; a call that was
    stopped goes on where it was. All is computed on the device of the generator's weights. The random state of torch
    stays as it was.

    Args:
        generator: the generator of pictures: one of this package, the name of one, or any module or function from z to
            pictures (see `as_generator`).
        labeler: a labeler, the name of one, or a function or module from pictures (B, C, H, W) in [-1, 1] to labels or
            logits (see `as_labeler`).
        attributes: the attributes that the classifier learns: a name, names, or a schema. For a function they say what
            it returns (see `as_labeler`). None for all of a labeler.
        num_pairs: number of pictures that are labelled, at least 100.
        space: space of the classifier: z, w, or None for w where the generator has a mapping and z elsewhere.
        hidden: widths of the perceptron's hidden layers.
        epochs: passes through the pairs, at least 1; None for 3,000 training steps.
        batch_size: pairs of a training step, at least 1.
        learning_rate: peak learning rate of Adam, above 0.
        soft_labels: whether the classifier learns the labeler's probabilities in place of its decisions.
        seed: seed of the latents and of the training, at least 0.
        progress: whether progress is shown on stderr.
        cache: folder of pairs and classifiers; None for LACE_CACHE, by default ~/.cache/lace_lightning.

    Returns:
        The classifier, frozen. `metadata["accuracy"]` has its accuracy (1 - mean error for continuous values) by
        attribute, and `save` writes it.

    Raises:
        LaceError: for a generator or labeler that cannot be used, labels that are all one, and arguments out of range.

    References:
        Sec. 3 of LACE (arXiv 2110.10873).

    Example:
        >>> import tempfile
        >>> decoder = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4)))
        >>> def bright(images):
        ...     return images.mean((1, 2, 3)) > 0
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     classifier = fit(decoder, bright, "bright", 200, epochs=1, progress=False, cache=folder)
        >>> classifier.space, classifier.schema.names
        ('z', ('bright',))
    """
    for name, value, least in (("num_pairs", num_pairs, FEWEST), ("epochs", epochs, 1), ("batch_size", batch_size, 1)):
        if value is not None and not (isinstance(value, int) and value >= least):
            raise LaceError(f"{name} must be a whole number of at least {least}, received {value}: raise it.")
    generator = as_generator(generator)
    space = space or ("w" if generator.has_w else "z")
    if space not in ("z", "w"):
        raise LaceError(f"The space of a latent classifier must be z or w, received '{space}': leave it out.")
    with nullcontext() if progress else silent(), quiet_libraries():
        labeler = _labeler_of(labeler, attributes, generator)
        known = labeler.schema if isinstance(attributes, (Mapping, Schema)) else _part(labeler.schema, attributes)
        store = Cache(cache_folder() if cache is None else cache)
        pictures = keep_pictures("auto", generator, num_pairs, space)
        pairs = cached_pairs(store, generator, labeler, num_pairs, seed, progress=progress, pictures=pictures)
        data = LatentPairsDataModule(pairs, space, batch_size, soft_labels, HOLDOUT, seed, known)
        data.setup()
        if epochs is None:
            epochs = -(-STEPS // -(-len(data.parts["train"][0]) // batch_size))
        node = {
            "space": space,
            "network": "mlp",
            "arguments": {"hidden": list(hidden), "mode": "single"},
            "learning_rate": learning_rate,
            "warmup_steps": 100,
            "decay": 0.5,
            "decay_epochs": max(1, epochs // 6),
            "weight_decay": 0.0,
            "continuous_weight": 1.0,
        }
        with isolate_rng():
            torch.manual_seed(seed)
            module = LatentClassifier(known, **classifier_arguments(node, generator))
            module.calibrates = True
            _train(module, data, node, epochs, store, generator.device, progress)
        classifier = module.classifier.eval().requires_grad_(False)
        return _with_accuracy(classifier, data)


def _labeler_of(labeler: AnyLabeler, attributes: Any, generator: Generator) -> Labeler:
    """Return the labeler on the device of the generator; of a function, the kinds of labels are found by pictures."""
    is_function = not isinstance(labeler, (Labeler, AttributeClassifier, str, os.PathLike)) and callable(labeler)
    has_names = isinstance(attributes, Sequence) and len(attributes) > 0
    images = None
    if is_function and has_names:
        with torch.no_grad():
            images = generator(generator.prior(LOOKED_AT, device=generator.device))
    return as_labeler(labeler, attributes, images).to(generator.device)


def _part(schema: Schema, names: str | Sequence[str] | None) -> Schema:
    return schema if names is None else schema.part([names] if isinstance(names, str) else names)


def _train(
    module: LatentClassifier,
    data: LatentPairsDataModule,
    node: Mapping[str, Any],
    epochs: int,
    cache: Cache,
    device: torch.device,
    progress: bool,
) -> None:
    """Train a latent classifier, or load it from the cache."""
    identity = {
        "pairs": data.key,
        "known": data.schema.to_config(),
        "classifier": dict(node),
        "seed": data.seed,
        "epochs": epochs,
        "batch_size": data.batch_size,
        "soft_labels": data.soft,
        "holdout": list(data.fractions),
    }

    def trainer_of(**options: Any) -> pl.Trainer:
        is_cpu = device.type == "cpu"
        return pl.Trainer(
            accelerator="cpu" if is_cpu else device.type.replace("cuda", "gpu"),
            devices=1 if is_cpu or device.index is None else [device.index],
            logger=False,
            enable_progress_bar=progress,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=cache.root,
            **options,
        )

    def fit_stage(module: Any, data: Any, folder: Path, every: Any, **options: Any) -> tuple[pl.Trainer, float]:
        return fit_to_end(trainer_of, module, data, folder, every, **options)

    stages = [Stage.of_epochs(data, epochs)]
    train_or_load(cache, module, data, stages, identity, fit_stage, device, lambda reason: None)


@torch.no_grad()
def _with_accuracy(classifier: AttributeClassifier, data: LatentPairsDataModule) -> AttributeClassifier:
    """Measure the classifier on pairs that it was not trained on, keep the figures in its metadata, and say them."""
    u, target, known = data.parts["test"]
    logits = classifier(u.to(next(classifier.parameters()).device)).cpu()
    scores = attribute_scores(data.schema, logits, target, known)
    classifier.metadata["accuracy"] = {name: round(float(score), 4) for name, score in scores.items()}
    figures = ", ".join(f"{name} {score:.3f}" for name, score in classifier.metadata["accuracy"].items())
    say(f"classifier of {classifier.space}: accuracy {figures} ({len(u)} pairs that it was not trained on)")
    return classifier
