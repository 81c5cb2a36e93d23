"""Fit, draw, evaluate and edit in one call each, without configuration files."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from .cache import Cache, cache_folder
from .callbacks import ConditionalSampling
from .classifiers import AttributeClassifier, load_classifier
from .data import LatentPairsDataModule, cached_pairs, keep_pictures
from .data.processes import say, say_found, silent
from .energies import Energy
from .errors import LaceError, no_rows
from .generators import Generator, as_generator
from .labelers import Labeler, as_labeler
from .metrics import judged_labels
from .pictures.convert import float_batches, from_bytes
from .progress import steps
from .query import Query
from .samplers import Sample, Sampler
from .samplers.base import PILOT_SIZE
from .schema import Labels, Schema
from .seeds import sample_seeds, seed_ranges
from .streams import quiet_libraries
from .systems.editing import Edited, EditOptions, Editor, parse_edits
from .systems.handover import Row, Samples, sample_table
from .systems.lace import CONTROLLED_WEIGHT, LACE, EnergyOptions
from .targets import free_labels
from .training.fitting import Stage, fit_to_end, train_or_load
from .training.latent_classifier import LatentClassifier, classifier_arguments
from .training.losses import attribute_scores

AnyGenerator = Generator | nn.Module | Callable[..., Any] | str | os.PathLike[str]
AnyLabeler = Labeler | AttributeClassifier | Callable[[Tensor], Any] | str | os.PathLike[str]
# Fewer pairs leave too few for calibration and test.
FEWEST = 100
# A temperature is fitted on no fewer pairs.
FEWEST_CALIBRATING = 20
# Pictures by which the kinds of a function's labels are found.
LOOKED_AT = 500
# Shares of the pairs for calibration and for the accuracy that is said.
HOLDOUT = (0.05, 0.05)
# Training steps that a number of epochs is chosen for, and the most epochs that are chosen.
STEPS, MOST_EPOCHS = 1000, 50
# Where the most epochs have fewer steps than this, batches are smaller.
FEWEST_STEPS = 500


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
        space: space of the classifier: z, w, features (the output of the layer that the generator's `features` names),
            or None for w where the generator has a mapping and z elsewhere.
        hidden: widths of the perceptron's hidden layers.
        epochs: passes through the pairs, at least 1; None for about 1,000 training steps, at most 50.
        batch_size: pairs of a training step, at least 1; without `epochs`, fewer where the pairs are so few that 50
            passes have less than 500 steps.
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
    if space not in ("z", "w", "features"):
        raise LaceError(f"The space of a latent classifier must be z, w or features, received '{space}': leave it out.")
    with nullcontext() if progress else silent(), quiet_libraries():
        labeler = _labeler_of(labeler, attributes, generator)
        known = _part(labeler.schema, attributes)
        store = Cache(cache_folder() if cache is None else cache)
        pictures = keep_pictures("auto", generator, num_pairs, space)
        pairs = cached_pairs(store, generator, labeler, num_pairs, seed, progress=progress, pictures=pictures)
        data = LatentPairsDataModule(pairs, space, batch_size, soft_labels, HOLDOUT, seed, known, generator=generator)
        data.setup()
        steps = -(-len(data.parts["train"][0]) // batch_size)
        if epochs is None:
            epochs = min(-(-STEPS // steps), MOST_EPOCHS)
            data.ensure_steps(epochs, FEWEST_STEPS)
            steps = -(-len(data.parts["train"][0]) // data.batch_size)
        node = {
            "space": space,
            **({"features": generator.feature_name} if space == "features" else {}),
            "network": "mlp",
            "arguments": {"hidden": list(hidden), "mode": "single"},
            "learning_rate": learning_rate,
            "warmup_steps": min(100, epochs * steps // 10),
            "decay": 0.5,
            "decay_epochs": -(-epochs // 5),
            "weight_decay": 0.0,
            "continuous_weight": 1.0,
        }
        with isolate_rng():
            torch.manual_seed(seed)
            module = LatentClassifier(known, **classifier_arguments(node, generator))
            module.calibrates = len(data.parts["val"][0]) >= FEWEST_CALIBRATING
            _train(module, data, node, epochs, store, generator.device, progress)
        classifier = module.classifier.eval().requires_grad_(False)
        classifier.metadata["labeler"] = labeler.digest
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


def _part(schema: Schema, attributes: str | Sequence[str] | Mapping[str, Any] | Schema | None) -> Schema:
    """Return the attributes of a schema that are learned."""
    if attributes is None:
        return schema
    names = attributes.names if isinstance(attributes, Schema) else attributes
    return schema.part([names] if isinstance(names, str) else list(names))


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
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=cache.root,
            **options,
        )

    def fit_stage(module: Any, data: Any, folder: Path, every: Any, **options: Any) -> tuple[pl.Trainer, float]:
        return fit_to_end(trainer_of, module, data, folder, every, progress=progress, **options)

    stages = [Stage.of_epochs(data, epochs)]
    train_or_load(cache, module, data, stages, identity, fit_stage, device, lambda reason: None)


@torch.no_grad()
def _with_accuracy(classifier: AttributeClassifier, data: LatentPairsDataModule) -> AttributeClassifier:
    """Measure the classifier on pairs that it was not trained on, keep the figures in its metadata, and say them."""
    say_found()
    u, target, known = data.parts["test"]
    if not len(u):
        return classifier
    logits = classifier(u.to(next(classifier.parameters()).device)).cpu()
    scores = attribute_scores(data.schema, logits, target, known)
    classifier.metadata["accuracy"] = {name: round(float(score), 4) for name, score in scores.items()}
    figures = ", ".join(f"{name} {score:.3f}" for name, score in classifier.metadata["accuracy"].items())
    say(f"classifier of {classifier.space}: accuracy {figures} ({len(u)} pairs that it was not trained on)")
    return classifier


def draw(
    generator: AnyGenerator,
    classifier: AttributeClassifier | str | os.PathLike[str],
    query: str | Query,
    seeds: int | str | Iterable[int] = range(64),
    sampler: Sampler | None = None,
    judge: AnyLabeler | None = None,
    target: str | None = None,
    weight: float | None = None,
    logic: str = "exact",
    sigma: float = 0.1,
    temperature: float = 1.0,
    energy: Energy | None = None,
    labeler: AnyLabeler | None = None,
    batch_size: int = 500,
    run_seed: int = 0,
    progress: bool = True,
) -> Samples:
    """Draw pictures that satisfy a condition.

    Sample i is a function of its seed alone, also of those that are drawn beside it. The default target is what was
    asked for (controlled, γ = 6): N(z)·p(c|w)^γ, of which a flow such as the default sampler follows the gradient of
    the second factor. `target="calibrated"` draws the attribute as often and as clearly as the classifier's
    probabilities say, with less control.

    Args:
        generator: the generator of pictures: one of this package, the name of one, or any module or function from z to
            pictures (see `as_generator`).
        classifier: a classifier of its latents, as `fit` returns it, or the name or file of one.
        query: the condition, such as "red == 1 and not bright == 0"; "digit == *" draws the classes in turn.
        seeds: the seeds of the samples, whole numbers from 0 to 2**32 - 1, each once; or text such as "0-99,250".
        sampler: the sampler of z; None for `samplers.Heun()`.
        judge: a labeler, or a function of pictures, that says in the table what it sees and whether the query holds;
            other weights than the labeler's give an honest answer. None for none.
        target: controlled, calibrated, or hard (the region in which every decision of the classifier is right); None
            for controlled.
        weight: γ, at least 0; None for 6, and for 1 in the calibrated target.
        logic: exact for the algebra of probabilities, or paper for the paper's OR and NOT.
        sigma: error of continuous attributes, above 0, in units of the attribute.
        temperature: divisor of the logits of discrete attributes, above 0.
        energy: an energy of z (B, Dz), such as a reward, that is added to that of the query; None for none.
        labeler: the labeler that `samplers.Filtered` checks its pictures by; None for none.
        batch_size: samples at a time, at least 1.
        run_seed: seed of the run whose samples the seeds name, at least 0: with 1 they are those that `evaluate` and
            `lace-lightning draw` have at their defaults.
        progress: whether progress is shown on stderr.

    Returns:
        The samples: `images` (B, C, H, W) in [-1, 1], latents `z`, `w` and `ws` where there are any, `seeds`, and the
        `table`. `save(folder)` writes them as files.

    Raises:
        LaceError: for a query that the classifier or the judge cannot answer, seeds out of range, and a classifier of
            another generator.

    References:
        Eq. 4 to 7 of LACE (arXiv 2110.10873).

    Example:
        >>> drawn = draw("cifar10", "cifar10", "label == ship", seeds=[3, 250], progress=False)
        >>> drawn.images.shape, drawn.z.shape, drawn.w.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 128]), torch.Size([2, 128]))
        >>> sorted(drawn.table[1])
        ['asked', 'evaluations', 'p', 'seed']
    """
    options = _options(target, weight, logic=logic, sigma=sigma, temperature=temperature)
    system = _system(generator, classifier, sampler, options, energy, labeler)
    query = system.parsed(query)
    system.check_query(query)
    jury = _judge(judge, system)
    asked = query if jury is None else query.on(jury.schema)
    pilot = _prior(system, [range(PILOT_SIZE)], run_seed)
    system.prepare(query, pilot, free_labels(query, PILOT_SIZE, run_seed))
    parts = []
    batches = _batches(seeds, batch_size)
    for ranges in steps(batches, f"drawing ({system.title})", "batch", progress):
        numbers = [number for part in ranges for number in part]
        free = _cat([free_labels(query, len(part), run_seed, part.start) for part in ranges])
        samples = torch.cat([sample_seeds(len(part), run_seed, part.start) for part in ranges]).to(system.device)
        drawn = system.draw(query, _prior(system, ranges, run_seed), samples, free)
        judged = None if jury is None else _seen(jury, drawn.images)
        probability = system.probability(query, drawn.sample, free)
        table = sample_table(asked, numbers, drawn.sample, judged, free, probability)
        parts.append(_samples(drawn.images, system.latents_of(drawn.sample), numbers, table))
    report = {
        "query": query.text,
        "run_seed": run_seed,
        "sampler": system.summary(),
        **_digests(system, jury),
        **system.protocol(query),
    }
    return _joined(parts, report, query.text)


def evaluate(
    generator: AnyGenerator,
    classifier: AttributeClassifier | str | os.PathLike[str],
    query: str | Query,
    judge: AnyLabeler,
    num_samples: int = 1000,
    sampler: Sampler | None = None,
    target: str | None = None,
    weight: float | None = None,
    logic: str = "exact",
    sigma: float = 0.1,
    temperature: float = 1.0,
    energy: Energy | None = None,
    labeler: AnyLabeler | None = None,
    batch_size: int = 500,
    seed: int = 1,
    timing_repeats: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """Draw pictures that satisfy a condition, and measure them with a judge as a run does.

    Args:
        generator: the generator of pictures, see `draw`.
        classifier: a classifier of its latents, or the name or file of one.
        query: the condition.
        judge: a labeler, the name of one, or a function of pictures that returns labels of the classifier's attributes
            or their logits; other weights than the labeler's give an honest answer.
        num_samples: number of samples, at least 1.
        sampler: the sampler of z; None for `samplers.Heun()`.
        target: controlled, calibrated or hard; None for controlled.
        weight: γ, at least 0; None for 6, and for 1 in the calibrated target.
        logic: exact or paper.
        sigma: error of continuous attributes, above 0.
        temperature: divisor of the logits of discrete attributes, above 0.
        energy: an energy of z (B, Dz) that is added to that of the query; None for none.
        labeler: the labeler that `samplers.Filtered` checks its pictures by; None for none.
        batch_size: samples at a time, at least 1.
        seed: the run seed of the samples, at least 0; `draw(..., run_seed=seed)` has them too.
        timing_repeats: repeats of a timing with batches of 64, 0 or more.
        progress: whether progress is shown on stderr.

    Returns:
        Figures by name, as metrics.json of a run has them: acc, holds, evaluations, seconds and others.

    Raises:
        LaceError: for a query that classifier or judge cannot answer, and a classifier of another generator.

    Example:
        >>> figures = evaluate("cifar10", "cifar10", "label == *", "cifar10_judge", num_samples=50, progress=False)
        >>> figures["acc"] > 0.8
        True
    """
    options = _options(target, weight, logic=logic, sigma=sigma, temperature=temperature)
    system = _system(generator, classifier, sampler, options, energy, labeler)
    jury = _judge(judge, system)
    if jury is None:
        raise LaceError("A measurement needs a judge, received None: give a labeler or a function of pictures.")
    sampling = ConditionalSampling(
        jury,
        system.parsed(query).on(jury.schema),
        num_samples=num_samples,
        batch_size=batch_size,
        seed=seed,
        timing_repeats=timing_repeats,
        progress=progress,
    )
    sampling.check(system)
    return sampling.evaluate(system).metrics


def edit(
    generator: AnyGenerator,
    classifier: AttributeClassifier | str | os.PathLike[str],
    edits: str | Query | Sequence[str | Query],
    seeds: int | str | Iterable[int] = range(8),
    z: Any = None,
    w: Any = None,
    sampler: Sampler | None = None,
    options: EditOptions | None = None,
    judge: AnyLabeler | None = None,
) -> list[Samples]:
    """Edit pictures step by step: each edit keeps what the earlier ones changed, and the rest of the picture.

    Args:
        generator: the generator of pictures, see `draw`.
        classifier: a classifier of its latents, of space z or w, or the name or file of one.
        edits: the edits in their order, such as ["smile == yes", "age == 0.8"].
        seeds: the seeds of the pictures that are edited, as `draw` takes them.
        z: latents (B, Dz) that are edited in place of those of the seeds, a tensor or an array; None for the seeds.
        w: latents w (B, Dw) or w+ (B, L, Dw) that are edited in place of z, for a classifier of w; None for z.
        sampler: the sampler of each edit's energy; None for `samplers.Heun()`.
        options: options of the edits; None for `EditOptions(weight=6)`, which makes an edit certain as the controlled
            target does.
        judge: a labeler, or a function of pictures, that says in the tables what it sees; None for none.

    Returns:
        The samples before any edit, and after each edit, as `draw` returns them.

    Raises:
        LaceError: for edits that the classifier cannot make, and latents of another size.

    References:
        Sequential editing of LACE (arXiv 2110.10873).

    Example:
        >>> before, ship, truck = edit("cifar10", "cifar10", ["label == ship", "label == truck"], seeds=range(2))
        >>> truck.images.shape, truck.table[0]["asked"]
        (torch.Size([2, 3, 32, 32]), 'label == truck')
    """
    system = _system(generator, classifier, sampler, EnergyOptions(), None, None)
    own, jury = system.generator, _judge(judge, system)
    editor = Editor(own, system.classifier, system.sampler, options or EditOptions(weight=CONTROLLED_WEIGHT))
    wanted = parse_edits(edits, system.schema)
    state, numbers = _begun(editor, system, seeds, z, w)
    result = []
    for query in [None, *wanted]:
        if query is not None:
            state = editor.apply(state, query, torch.tensor(numbers).to(system.device))
        sample = Sample(state.ws if state.z is None else state.z, state.evaluations, state.seconds)
        with torch.no_grad():
            images = own.pictures(state.ws)
        judged = None if jury is None else _seen(jury, images)
        asked = query if query is None or jury is None else query.on(jury.schema)
        probability = None if query is None or state.z is None else system.probability(query, sample)
        table = sample_table(asked, numbers, sample, judged, None, probability)
        styles = ("ws", state.ws) if own.has_layers else ("w", state.ws[:, 0])
        latents = {**({} if state.z is None else {"z": state.z}), **dict([styles] if own.has_w else [])}
        title = ", ".join(map(str, state.edits)) or "before"
        report = {"edits": [str(one) for one in state.edits], "sampler": system.summary(), **_digests(system, jury)}
        result.append(_joined([_samples(images, latents, numbers, table)], report, title))
    return result


def _latents(name: str, given: Any) -> Tensor:
    """Return latents as a tensor. Raises LaceError for others than finite floating numbers."""
    latents = torch.as_tensor(given)
    if not latents.is_floating_point():
        raise LaceError(f"Latents {name} must be floating numbers, received {latents.dtype}: convert them.")
    if not latents.numel():
        raise LaceError(no_rows(f"Latents {name}", latents.shape))
    wrong = (~latents.isfinite()).flatten(1).any(1) if latents.ndim > 1 else ~latents.isfinite()
    if wrong.any():
        raise LaceError(
            f"Latents {name} must be finite numbers, and {int(wrong.sum())} of {len(latents)} rows have NaN or "
            f"infinite ones, the first in row {int(wrong.nonzero()[0])}: leave them out."
        )
    return latents


def _begun(editor: Editor, system: LACE, seeds: Any, z: Any, w: Any) -> tuple[Edited, list[int]]:
    """Return the state before any edit, and the numbers of the samples."""
    generator, dtype = system.generator, _dtype(system.classifier)
    if w is not None:
        state = editor.begin_styles(_latents("w", w).to(system.device, dtype))
        return state, list(range(len(state.ws)))
    if z is None:
        ranges = seed_ranges(_plain_seeds(seeds))
        return editor.begin(_prior(system, ranges)), [number for part in ranges for number in part]
    start = _latents("z", z).to(system.device, dtype)
    if start.ndim != 2 or start.shape[1] != generator.z_dim or not len(start):
        raise LaceError(
            f"Latents z must have the shape (B, {generator.z_dim}), received {tuple(start.shape)}: give z of this "
            "generator."
        )
    return editor.begin(start), list(range(len(start)))


def _options(target: str | None, weight: float | None, **others: Any) -> EnergyOptions:
    """Return the options of an energy, whose target is what was asked for unless another one is named."""
    return EnergyOptions(target="controlled" if target is None and weight is None else target, weight=weight, **others)


def _system(
    generator: AnyGenerator,
    classifier: AttributeClassifier | str | os.PathLike[str],
    sampler: Sampler | None,
    options: EnergyOptions,
    energy: Energy | None,
    labeler: AnyLabeler | None,
) -> LACE:
    """Return LACE of the parts, on the device of the generator."""
    own = as_generator(generator)
    if not isinstance(classifier, AttributeClassifier):
        if not isinstance(classifier, (str, os.PathLike)):
            raise LaceError(
                "A classifier must be one that lace.fit returns, or the name or file of one, received "
                f"{type(classifier).__name__}: train one by lace.fit."
            )
        classifier = load_classifier(classifier)
    _dtype(classifier)
    if not (energy is None or isinstance(energy, (Energy, Mapping))):
        raise LaceError(
            f"An energy must be a lace_lightning Energy, such as energies.Reward, received {type(energy).__name__}: "
            "wrap a function of pictures by energies.Reward."
        )
    # A new system begins with random weights, which those of the classifier replace.
    with isolate_rng():
        system = LACE.of(classifier.eval().requires_grad_(False), sampler, options, energy).to(own.device).eval()
    return system.bind(own, None if labeler is None else as_labeler(labeler, system.schema).to(own.device))


def _dtype(classifier: AttributeClassifier) -> torch.dtype:
    """Return the type that latents are computed in. Raises LaceError for a classifier in half precision."""
    dtype = next((one.dtype for one in classifier.parameters()), torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise LaceError(
            f"A classifier of latents must have weights in float32 or float64, received {dtype}: call "
            "classifier.float()."
        )
    return dtype


def _judge(judge: AnyLabeler | None, system: LACE) -> Labeler | None:
    """Return a judge on the device of the generator; a function answers for the attributes of the classifier."""
    if judge is None:
        return None
    jury = as_labeler(judge, system.schema).to(system.generator.device)
    labeler = str(system.classifier.metadata.get("labeler", ""))
    # A function without weights may be the truth.
    if any(True for _ in jury.parameters()) and labeler.split("-")[0] == jury.digest.split("-")[0]:
        warnings.warn(
            "The judge is the network that made the labels: what it sees flatters. Choose another judge.", stacklevel=3
        )
    return jury


def _seen(judge: Labeler, images: Tensor) -> Labels:
    """Return what a judge sees in pictures, uint8."""
    return judged_labels(judge.schema, torch.cat([judge(part) for part in float_batches(images)])).to("cpu")


def _prior(system: LACE, ranges: Sequence[range], run_seed: int = 0) -> Tensor:
    """Return the starting points of seeds (B, Dz)."""
    generator = system.generator
    z = [generator.prior(len(part), run_seed, part.start, generator.device) for part in ranges]
    return torch.cat(z).to(_dtype(system.classifier))


def _plain_seeds(seeds: Any) -> Any:
    if isinstance(seeds, (str, range)):
        return seeds
    return _listed(seeds.tolist() if hasattr(seeds, "tolist") else seeds)


def _listed(seeds: Any) -> Any:
    try:
        numbers = [seeds] if isinstance(seeds, int) else list(seeds)
        # A mask of booleans is no list of numbers.
        if any(isinstance(number, bool) for number in numbers):
            raise TypeError
        plain = list(map(operator.index, numbers))
        return plain[0] if isinstance(seeds, int) else plain
    except TypeError:
        raise LaceError(
            f"Seeds must be whole numbers, received {seeds!r}: give for example range(100) or [3, 250]."
        ) from None


def _batches(seeds: Any, size: int) -> list[list[range]]:
    """Return ranges of seeds, as many in a batch as make at most `size` samples."""
    if not (isinstance(size, int) and size >= 1):
        raise LaceError(f"batch_size must be a whole number of at least 1, received {size}: raise it.")
    result: list[list[range]] = [[]]
    room = size
    for part in seed_ranges(_plain_seeds(seeds)):
        while len(part):
            if room == 0:
                result.append([])
                room = size
            result[-1].append(part[:room])
            part, room = part[room:], room - len(part[:room])
    return result


def _cat(parts: Sequence[Labels | None]) -> Labels | None:
    known = [part for part in parts if part is not None]
    return Labels.cat(known) if known else None


def _samples(images: Tensor, latents: Mapping[str, Any], numbers: Sequence[int], table: list[Row]) -> Samples:
    return Samples(from_bytes(images), seeds=numbers, table=table, **latents)


def _joined(parts: Sequence[Samples], report: dict[str, Any], title: str) -> Samples:
    """Return the samples of several batches as one."""
    latents: Any = {name: torch.cat([part.latents[name] for part in parts]) for name in parts[0].latents}
    seeds = [seed for part in parts for seed in part.seeds]
    table = [row for part in parts for row in part.table]
    return Samples(
        torch.cat([part.images for part in parts]), **latents, seeds=seeds, table=table, report=report, title=title
    )


def _digests(system: LACE, judge: Labeler | None) -> dict[str, Any]:
    named = {"generator": system.generator.digest, "classifier": system.digest}
    return named if judge is None else {**named, "judge": judge.name}
