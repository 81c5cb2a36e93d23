"""The study of a run: generator, labeler, judge, schema, condition, cache, device and features, checked together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from ..artifacts import known_sha256
from ..cache import Cache
from ..callbacks.evaluation import NOBODY
from ..data import PairSet, given_pairs, keep_pictures, read_given
from ..data.processes import say
from ..errors import LaceError
from ..generators import Generator, check_generator
from ..labelers import Labeler, function_labeler
from ..metrics import GivenStatistics, read_statistics
from ..metrics.feature_space import FeatureSpace, RealPictures, build_feature_space
from ..query import Query, parse
from ..schema import Schema
from ..source import identity_of
from ..systems.editing import check_layers, parse_edits
from ..systems.lace import EnergyOptions
from .check import edit_options, system_kind
from .nodes import Node, cached, parameters_of
from .settings import Settings

# What a run without a judge says, on the terminal and in its results.
NO_JUDGE = (
    "the labeler measures its own labels, so that ACC flatters, and no independent network was asked (judge=... is one)"
)
# What a run says in which nobody looks at the pictures.
NOT_MEASURED = "ACC is not measured, since no network looks at the pictures (judge=... is one)"


def measured_by(settings: Settings) -> tuple[str, str | None]:
    """Return what the network that measures is, judge, labeler or nobody, and what is said where it is no judge.

    Args:
        settings: settings of the run.

    Example:
        >>> measured_by(Settings())[0]
        'nobody'
    """
    if settings.judge is not None:
        return "judge", None
    return ("labeler", NO_JUDGE) if settings.labeler is not None else (NOBODY, NOT_MEASURED)


@dataclass
class Study:
    """The parts of a run that a system is trained for and measured with.

    Args:
        settings: the settings of the run.
        cache: cache of pairs, trained systems and statistics.
        device: the device of the networks.
        generator: the frozen generator.
        labeler: the network that labels pairs; None where pairs are given.
        judge: the network that measures; the labeler where judge=none.
        schema: the attributes that labeler and judge share.
        options: settings that turn a query into an energy.
        queries: the query, or the edits in their order.
        edit_options: options of the editor, None for other tasks.
        given: pairs of other programs or labels by hand, None where pairs are generated.
        partial: reasons why the training of this run is shortened, so that its result is not that of the settings;
            empty for a full training.

    Attributes:
        pairs_generator: the generator of the pairs, which may have another truncation.
        feature_space: features and reference of the Fréchet distance, None where it is not measured.

    Example:
        >>> from lace_lightning.classifiers import AttributeClassifier
        >>> from lace_lightning.generators import ModuleGenerator
        >>> from lace_lightning.run.settings import SystemTask
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("toy", (Attribute("hat"), Attribute("smile")))
        >>> decoder = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.Unflatten(1, (3, 2, 2)))
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, schema.num_logits))
        >>> study = Study(
        ...     settings=Settings(task=SystemTask(attributes=["hat"])),
        ...     cache=Cache("cache"),
        ...     device=torch.device("cpu"),
        ...     generator=ModuleGenerator(decoder, z_dim=2, image_shape=(3, 2, 2)),
        ...     labeler=None,
        ...     judge=Labeler(AttributeClassifier(schema, "x", network)),
        ...     schema=schema,
        ...     options=EnergyOptions(),
        ...     queries=[parse("hat == 1", schema)],
        ... )
        >>> study.known.names
        ('hat',)
    """

    settings: Settings
    cache: Cache
    device: torch.device
    generator: Generator
    labeler: Labeler | None
    judge: Labeler
    schema: Schema
    options: EnergyOptions
    queries: list[Query]
    edit_options: Any = None
    given: PairSet | None = None
    partial: list[str] = field(default_factory=list)
    pairs_generator: Generator = field(init=False)
    feature_space: FeatureSpace | None = field(init=False)

    @classmethod
    def of(cls, settings: Settings) -> Study:
        """Return the study of settings.

        Args:
            settings: settings of a task that trains or takes a system.

        Raises:
            LaceError: for parts that do not fit together.
        """
        generator = generator_of(settings.generator)
        labeler = None if settings.labeler is None else labeler_of(settings.labeler, generator)
        judge = judge_of(settings, labeler, generator)
        schema = common_schema(labeler, judge)
        options = EnergyOptions(**settings.query.model_dump(exclude={"text"}))
        editing = None
        if settings.task.name == "edit":
            editing = edit_options(settings)
            check_layers(editing.layers, generator, schema)
            queries = parse_edits(settings.task.edits, schema)  # type: ignore[attr-defined]
        else:
            walk_to = getattr(settings.task, "walk_to", None)
            queries = [parse(text, schema) for text in (settings.query.text, walk_to) if text is not None]
            for query in queries:
                options.check(query)
        if settings.model is None and settings.classifier.space == "features":
            generator.size_of("features")
        keep_pictures(settings.pairs.pictures, generator, settings.pairs.count, settings.classifier.space)
        study = cls(
            settings,
            Cache(settings.paths.cache),
            device_of(settings),
            generator,
            labeler,
            judge,
            schema,
            options,
            queries,
            editing,
        )
        study.given = study._given_pairs()
        for query in queries:
            query.on(study.known)
        study.pairs_generator = study._pairs_generator()
        study.feature_space = study._feature_space()
        return study

    def note_partial(self, reason: str) -> None:
        """Record, with a warning, that the training is shortened.

        Args:
            reason: the setting that shortens it.
        """
        if reason not in self.partial:
            self.partial.append(reason)
            rank_zero_warn(f"partial: {reason}. Runs without it do not use it.")

    @property
    def known(self) -> Schema:
        """The attributes that a system of this study learns."""
        settings = self.settings
        chosen = settings.task.attributes  # type: ignore[attr-defined]
        if settings.model is None:
            chosen = chosen or settings.classifier.attributes
        labelled = self.schema.names if self.given is None else self.given.schema.names
        return self.schema.part(chosen or labelled)

    def _given_pairs(self) -> PairSet | None:
        """Return the pairs of `pairs.source`. Raises LaceError where they lack latents or attributes of the run."""
        settings = self.settings
        kind = system_kind(settings)
        if settings.pairs.source is None or (kind is not None and kind.space == "x"):
            return None
        pairs = given_pairs(self.generator, settings.pairs.source, self.cache, settings.pairs.seed)
        space = settings.classifier.space if settings.model is None else "w"
        # Features are computed from w.
        space = "w" if space == "features" else space
        if space not in pairs.arrays:
            raise LaceError(
                f"The given pairs have {', '.join(pairs.arrays)}, and classifier.space is {space}: set "
                "classifier.space=w."
            )
        if not self.schema.covers(pairs.schema):
            raise LaceError(
                f"The judge must know every attribute of the given pairs, {', '.join(pairs.schema.names)}, and knows "
                f"{', '.join(self.schema.names)}: choose a judge of their schema."
            )
        return pairs

    def _pairs_generator(self) -> Generator:
        """Return the generator of the pairs: the same, unless `pairs.truncation` gives it another truncation."""
        truncation, node = self.settings.pairs.truncation, self.settings.generator
        if truncation is None or truncation == node.get("truncation"):
            return self.generator
        if "truncation" not in node.content or self.settings.classifier.space != "w":
            raise LaceError(
                "pairs.truncation needs a generator with truncation and a classifier of w (p(c|w) is the same at every "
                "truncation, p(c|z) is not): set pairs.truncation=null."
            )
        return generator_of(Node(node.key, {**node.content, "truncation": truncation}))

    def _feature_space(self) -> FeatureSpace | None:
        """Return features and reference of the Fréchet distance, built once for all jobs of a sweep."""
        settings, dataset = self.settings, self.settings.dataset
        if settings.task.name == "draw":
            return None
        if settings.judge is None and settings.metrics.fid == "auto":
            return None
        theirs = _given_statistics(settings.metrics.reference)
        depends = [
            identity_of(self.judge),
            settings.plain["dataset"],
            settings.metrics.fid,
            theirs and theirs.protocol,
            self.generator.image_shape,
            str(self.cache.root),
        ]
        return cached(
            "features",
            depends,
            lambda: build_feature_space(
                settings.metrics.fid,
                self.judge,
                _pictures_at_hand(dataset.module),
                dataset.name,
                self.cache,
                str(self.device),
                theirs,
                self.generator.image_shape,
            ),
        )


def device_of(settings: Settings) -> torch.device:
    """Return the device of the networks.

    Args:
        settings: settings of the run, with trainer.accelerator.

    Returns:
        The GPU where the accelerator allows it and one is available, else the processor.

    Example:
        >>> device_of(Settings(trainer={"accelerator": "cpu"}))
        device(type='cpu')
    """
    wanted = settings.trainer.get("accelerator", "auto")
    is_gpu = wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda") if is_gpu else torch.device("cpu")


def generator_of(node: Node) -> Generator:
    """Return the generator of a node, loaded once in this process and checked.

    Args:
        node: the node of the generator.

    Returns:
        A generator that is frozen, and returns the shapes and ranges that it declares.

    Raises:
        LaceError: for an object that is no generator, and for one that fails the check.
    """
    return cached("generator", node.content, lambda: _checked_generator(node))


def _checked_generator(node: Node) -> Generator:
    generator = node.build()
    if not isinstance(generator, Generator):
        raise LaceError(
            f"A generator must be a lace_lightning Generator, received {type(generator).__name__}: wrap a module of "
            "your own with generator._target_=lace_lightning.generators.ModuleGenerator."
        )
    check_generator(generator)
    if generator.found:
        say(f"found by trying the generator: {' '.join(generator.found)} (set them in generator where they are wrong)")
    return generator


def labeler_of(node: Node, generator: Generator | None = None) -> Labeler:
    """Return the labeler of a node, loaded once in this process.

    Args:
        node: the node of the labeler or of the judge.
        generator: the generator of the pictures that are labelled; None for other pictures.

    Raises:
        LaceError: when its constructor fails, and for a network of other channels than the generator's.
    """
    parameters, _ = parameters_of(node.object())
    known = generator is not None and "image_shape" in parameters and node.get("image_shape") is None
    shape = {"image_shape": list(generator.image_shape)} if known and generator is not None else {}
    result: Labeler = cached("labeler", [node.content, shape], lambda: node.build(**shape))
    channels = None if generator is None else generator.image_shape[0]
    if channels not in (None, 1) and result.channels not in (None, channels):
        raise LaceError(
            f"The {node.key} must take the generator's pictures of {channels} channels, and '{result.name}' takes "
            f"pictures of {result.channels} channel{'s' if result.channels != 1 else ''}: choose another {node.key}, "
            "or let the module of the generator return other channels."
        )
    return result


def judge_of(settings: Settings, labeler: Labeler | None, generator: Generator) -> Labeler:
    """Return the network that measures: the judge; where judge=none, which is said, the labeler, or one that is blind.

    Args:
        settings: settings of the run.
        labeler: the labeler; None where pairs are given.
        generator: the generator.
    """
    if settings.judge is not None:
        return labeler_of(settings.judge, generator)
    say(f"judge=none: {measured_by(settings)[1]}")
    if labeler is not None:
        return labeler
    assert settings.pairs.source is not None, "the check of settings refuses a run without any labels"
    return blind_judge(read_given(settings.pairs.source).labels.schema)


def blind_judge(schema: Schema) -> Labeler:
    """Return a judge that knows no label of any picture, for runs in which nobody looks at the pictures.

    Args:
        schema: the attributes.
    """

    def know_nothing(images: Tensor) -> Tensor:
        return torch.full((len(images), schema.num_logits), torch.nan)

    return function_labeler(know_nothing, schema, name="none")


def common_schema(labeler: Labeler | None, judge: Labeler) -> Schema:
    """Return the schema of labeler and judge, with a warning where both are one network.

    Args:
        labeler: the labeler, None where pairs are given.
        judge: the judge.

    Raises:
        LaceError: when they have different attributes.
    """
    if labeler is None:
        return judge.schema
    if not labeler.schema.agrees_with(judge.schema):
        raise LaceError(
            f"Labeler and judge must know the same attributes, and '{labeler.name}' has "
            f"{', '.join(labeler.schema.names)}, '{judge.name}' {', '.join(judge.schema.names)}: choose two of one "
            "schema."
        )
    if labeler is not judge and labeler.digest.split("-")[0] == judge.digest.split("-")[0]:
        rank_zero_warn("The judge is the network that made the labels: ACC will flatter. Choose another judge.")
    return labeler.schema


def _pictures_at_hand(node: Node | None) -> RealPictures | None:
    """Return the data module of the pictures; None where its files are missing."""
    data = None if node is None else node.build()
    return data if data is not None and data.at_hand else None


def _given_statistics(path: str | None) -> GivenStatistics | None:
    """Return the statistics of `metrics.reference`, read once while the file stays the same."""
    if path is None:
        return None
    content = known_sha256(path) if Path(path).is_file() else None
    return cached("statistics", [str(path), content], lambda: read_statistics(path))
