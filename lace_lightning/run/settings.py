"""Typed settings: type, bounds, unit and meaning of every plain setting of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..seeds import LARGEST_RUN_SEED, seed_ranges
from .nodes import Node


def _as_list(value: Any) -> Any:
    """Return a word as a list of one."""
    return [value] if isinstance(value, str) else value


def _as_condition(value: Any) -> Any:
    """Return null as the condition that asks for nothing."""
    return "anything" if value is None else value


def setting(default: Any, meaning: str, unit: str = "", **bounds: Any) -> Any:
    """Return a field of a group of settings.

    Args:
        default: value where the configuration has none.
        meaning: one sentence for the settings reference.
        unit: unit of the value, empty for none.
        bounds: bounds of pydantic: ge, gt, le, lt or min_length.

    Example:
        >>> setting(10, "Number of steps.", "steps", ge=1).description
        'Number of steps.'
    """
    return Field(default, description=meaning, json_schema_extra={"unit": unit}, **bounds)


Names = Annotated[list[str], BeforeValidator(_as_list)]


class Group(BaseModel):
    """A group of settings; unknown names are refused.

    Example:
        >>> class Noise(Group):
        ...     std: float = setting(0.1, "Standard deviation.", gt=0)
        >>> Noise(std=0.5).std
        0.5
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Pairs(Group):
    """Latent/label pairs that systems are trained on.

    Example:
        >>> Pairs(count=1000).holdout
        (0.02, 0.02)
    """

    count: int = setting(50_000, "Number of pairs drawn from the prior.", "pairs", ge=1)
    seed: int = setting(0, "Seed of their latents.", ge=0, le=LARGEST_RUN_SEED)
    batch_size: int = setting(500, "Pairs synthesised and labelled at a time.", "pairs", ge=1)
    pictures: bool | Literal["auto"] = setting(
        "auto", "Store the pictures: true, false, or auto (a classifier of pictures, or at most 4 GiB)."
    )
    truncation: float | None = setting(
        None, "Truncation of the generator for the pairs; null: the generator's.", gt=0, le=1
    )
    more: int = setting(0, "Further pairs at latents that a first classifier was steered to.", "pairs", ge=0)
    source: str | None = setting(None, "Pairs of others: a folder of StyleFlow, or a CSV file of labels.")
    holdout: tuple[Share, Share] = setting((0.02, 0.02), "Shares of the pairs for validation and for tests.")


Share = Annotated[float, Field(ge=0, lt=1)]


class Classifier(Group):
    """The latent classifier of LACE and its training.

    Example:
        >>> Classifier(space="z", attributes="age").attributes
        ['age']
    """

    space: Literal["z", "w", "x", "features"] = setting(
        "w", "Space that it classifies: z, w, x for pictures, or features (the output of generator.features)."
    )
    network: str = setting("mlp", "Name of its network: mlp, or an image network for space x.")
    arguments: dict[str, Any] = setting({}, "Arguments of the network.")
    attributes: Names | None = setting(None, "Attributes to train on; null: all that the labeler knows.")
    weights: str | None = setting(None, "A trained classifier (shipped name or file) in place of a training.")
    soft_labels: bool = setting(False, "Learn the labeler's probabilities in place of its decisions.")
    fresh_pairs: int = setting(0, "Pairs drawn during a second training and seen once.", "pairs", ge=0)
    fresh_share: float = setting(0.0625, "Share of fresh pairs in a batch.", gt=0, le=1)
    fresh_learning_rate: float = setting(1e-3, "Learning rate of the second training.", gt=0)
    calibrate: bool = setting(False, "Fit a temperature for each discrete attribute on the validation pairs.")
    batch_size: int = setting(512, "Pairs a training step.", "pairs", ge=1)
    learning_rate: float = setting(1e-4, "Learning rate of Adam after the warm-up.", gt=0)
    warmup_steps: int = setting(1000, "Steps of linear warm-up.", "steps", ge=0)
    decay: float = setting(0.5, "Factor of the learning rate at each decay.", gt=0, le=1)
    decay_epochs: int = setting(10, "Epochs between two decays.", "epochs", ge=1)
    weight_decay: float = setting(0.0, "Weight decay of Adam.", ge=0)
    continuous_weight: float = setting(
        1.0, "Weight of the squared error of continuous attributes; 50 is -log p with an error of 0.1.", ge=0
    )
    min_steps: int = setting(
        500, "Steps that the epochs have at least: few pairs are trained on in smaller batches; 0: any.", "steps", ge=0
    )
    max_epochs: int | None = setting(None, "At most so many epochs; null: trainer.max_epochs.", "epochs", ge=1)


class QuerySettings(Group):
    """The condition, and how it becomes an energy.

    Example:
        >>> QuerySettings(text="glasses == 1").logic
        'exact'
    """

    text: Annotated[str, BeforeValidator(_as_condition)] = setting(
        "label == *", "The condition, for example `glasses == 1 and not yaw == 0.5`; null or anything: none."
    )
    logic: Literal["exact", "paper"] = setting("exact", "Algebra of probabilities, or the paper's OR and NOT.")
    sigma: float = setting(0.1, "Error of continuous attributes.", gt=0)
    temperature: float = setting(1.0, "Divisor of the logits of discrete attributes.", gt=0)
    paper_temperature: bool = setting(False, "Divide the chosen logit alone, as the paper's code does.")
    target: Literal["calibrated", "controlled", "hard"] | None = setting(
        None,
        "Target: p(c|w), p(c|w)^γ, or where every decision is right; null: by the weight, controlled for auto.",
    )
    weight: float | None = setting(None, "γ of the target; null: 6 for controlled and hard (10 by auto), else 1.", ge=0)


class Metrics(Group):
    """The measurement; further metrics are nodes with a `_target_`.

    Example:
        >>> Metrics(num_samples=100, sharpness={"_target_": "my_metrics.Sharpness"}).nodes
        {'sharpness': {'_target_': 'my_metrics.Sharpness'}}
    """

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    num_samples: int = setting(10_000, "Samples that are drawn and measured.", "samples", ge=1)
    batch_size: int = setting(500, "Samples at a time.", "samples", ge=1)
    seed: int = setting(1, "Seed of the samples.", ge=0, le=LARGEST_RUN_SEED)
    fid: Literal["auto", "judge", "inception", "lite0", "none"] = setting("auto", "Features of the Fréchet distance.")
    reference: str | None = setting(None, "File of reference statistics; null: the data set.")
    distance_codes: Literal["same", "pairs"] = setting(
        "same", "Free attributes while the distance is measured: balanced, or as the pairs have them."
    )
    timing_repeats: int = setting(3, "Repeats of a timing with 64 samples.", "repeats", ge=0)
    posterior_sets: int = setting(0, "Sets of exact samples that latents are measured against.", "sets", ge=0)
    keep: int = setting(0, "First samples that are also written as files, into the folder samples.", "samples", ge=0)
    table: int = setting(64, "First samples in the tables of W&B, TensorBoard and MLflow.", "samples", ge=0)
    pictures_per_class: int = setting(10, "Columns of the grid of pictures.", "pictures", ge=1)
    progress: bool = setting(True, "Show progress bars.")

    @property
    def nodes(self) -> dict[str, Any]:
        """Metrics that were added, by name."""
        return {name: node for name, node in (self.model_extra or {}).items() if node is not None}


class Identity(Group):
    """The embedding of the metric ID, which measures whether an edit preserves identity.

    Example:
        >>> Identity(script="arcface.pt").resolution
        112
    """

    weights: str | None = setting(None, "An embedding of this program (shipped name or file).")
    script: str | None = setting(None, "A TorchScript file; it is a program and is run.")
    resolution: int = setting(112, "Side of the pictures that the script takes.", "pixels", ge=1)
    crop: Any = setting(None, "Part [left, top, right, bottom] of the picture in fractions, ffhq_arcface, or null.")
    range: list[float] = setting([-1.0, 1.0], "Range of the numbers that the script takes.")
    channels: Literal["rgb", "bgr"] = setting("rgb", "Order of the channels that the script takes.")
    flip: bool = setting(False, "Average the script's answers for picture and mirror image.")


def _as_identity(value: Any) -> Any:
    """Return a name as the weights of an embedding, and null as no embedding."""
    if value is None:
        return {}
    return {"weights": value} if isinstance(value, str) else value


class Task(Group):
    """The task of a run.

    Example:
        >>> Task().name
        'control'
    """

    name: str = setting("control", "Name of the task.")


class SystemTask(Task):
    """Train a system, sample by attribute, and measure.

    Example:
        >>> SystemTask(attributes="smile").attributes
        ['smile']
    """

    attributes: Names | None = setting(None, "Attributes to train on; null: all that labeler and judge know.")
    weights: str | None = setting(None, "A trained system in place of a training.")
    export: str | None = setting(None, "Also write the trained system as <export>.safetensors.")
    checkpoint_steps: int = setting(500, "Training steps between two checkpoints of a model.", "steps", ge=1)


class EditTask(SystemTask):
    """Train a system, edit latents step by step, and measure after every edit.

    Example:
        >>> EditTask(edits=["age == 0.8"], identity="portraits_identity").identity.weights
        'portraits_identity'
    """

    edits: Names = setting([], "Edits in their order, for example age == 0.8.")
    identity: Annotated[Identity, BeforeValidator(_as_identity)] = setting(Identity(), "The embedding behind ID.")
    strips: int = setting(8, "People in the picture.", "people", ge=1)
    latents: str | None = setting(None, "File or folder of latents to edit; null: samples of the prior.")
    space: Literal["z", "w", "w+"] | None = setting(
        None, "Space of these latents, where neither their shape nor their names decide; null: found."
    )
    photographs: str | None = setting(
        None, "Folder of pictures that are shown beside those of the latents; null: none."
    )


class TemperatureTask(SystemTask):
    """Sample one query from the same starting points at several temperatures.

    Example:
        >>> TemperatureTask(temperatures=[0.5, 1]).temperatures
        [0.5, 1.0]
    """

    temperatures: list[Annotated[float, Field(gt=0)]] = setting([1.0], "Divisors of the logits.", min_length=1)
    strips: int = setting(6, "People in the picture.", "people", ge=1)


class DrawTask(SystemTask):
    """Draw samples by their numbers into a folder: pictures, latents, a table.

    Example:
        >>> DrawTask(seeds="0-2,7").ranges
        [range(0, 3), range(7, 8)]
    """

    weights: str | None = setting(
        "auto", "A trained system; auto: the shipped classifier where there is one for these settings; null: train."
    )
    seeds: int | str | list[int] | None = setting(
        None, "Numbers of the samples, for example 0-99,250; sample i is that of a measurement. null: from 0 on."
    )
    count: int = setting(100, "Number of samples from 0 on, where task.seeds is null.", "samples", ge=1)
    judged: bool = setting(True, "Whether the judge labels the pictures, for samples.csv.")
    walk_to: str | None = setting(None, "Condition of the other end of an animated walk; null: no walk.")
    walk_frames: int = setting(24, "Frames from one end of the walk to the other.", "frames", ge=1)

    @property
    def ranges(self) -> list[range]:
        """The numbers of the samples, as ranges in their order."""
        return [range(self.count)] if self.seeds is None else seed_ranges(self.seeds)


class FitTask(Task):
    """Train an image classifier, an identity embedding or a generator, and export it.

    Example:
        >>> FitTask(export="my_labeler").checkpoint_steps
        195
    """

    export: str = setting("???", "Name of the file that is written, without its ending.")
    checkpoint_steps: int = setting(195, "Training steps between two checkpoints.", "steps", ge=1)


class FitGeneratorTask(FitTask):
    """Train a generator and export it.

    Example:
        >>> FitGeneratorTask(export="my_generator").pictures_kimg
        20.0
    """

    pictures_kimg: float = setting(20.0, "Pictures between two drawings.", "thousand pictures", gt=0)


class ReferenceTask(Task):
    """Measure the reference of Fréchet distances.

    Example:
        >>> ReferenceTask(export="my_statistics").export
        'my_statistics'
    """

    export: str = setting("???", "Name of the file that is written, without its ending.")


class StyleLayersTask(Task):
    """Measure the style layers that carry each attribute.

    Example:
        >>> StyleLayersTask().threshold
        0.1
    """

    threshold: float = setting(0.1, "Share of the difference from which a layer carries an attribute.", ge=0, le=1)
    columns: int = setting(10, "People in the picture.", "people", ge=1)


class DrawPortraitsTask(Task):
    """Draw a contact sheet of rendered portraits.

    Example:
        >>> DrawPortraitsTask(columns=4).resolution
        64
    """

    resolution: int = setting(64, "Side of a portrait.", "pixels", ge=1)
    columns: int = setting(10, "Portraits a row.", "portraits", ge=1)


class PicturesTask(Task):
    """Write pictures to label by hand.

    Example:
        >>> PicturesTask(attributes="hat").attributes
        ['hat']
    """

    count: int = setting(500, "Number of pictures.", "pictures", ge=1)
    folder: str = setting("pictures", "Folder of the pictures and their table.")
    attributes: Names = setting(["attribute"], "Columns of the table.", min_length=1)


TASKS: dict[str, type[Task]] = {
    "control": SystemTask,
    "model": SystemTask,
    "draw": DrawTask,
    "edit": EditTask,
    "temperature": TemperatureTask,
    "fit_classifier": FitTask,
    "fit_identity": FitTask,
    "fit_generator": FitGeneratorTask,
    "reference": ReferenceTask,
    "check_labelers": Task,
    "style_layers": StyleLayersTask,
    "draw_portraits": DrawPortraitsTask,
    "pictures": PicturesTask,
}


class Paths(Group):
    """Folders of results and of the cache.

    Example:
        >>> Paths().output
        'outputs'
    """

    output: str = setting("outputs", "Folder of this run's results.")
    cache: str = setting("~/.cache/lace_lightning", "Folder of what can be used again (LACE_CACHE).")


class Sweep(Group):
    """Pictures that a sweep draws at its end.

    Example:
        >>> Sweep(curves=["sampler.atol"]).curves
        ['sampler.atol']
    """

    curves: list[str] = setting([], "Hyper-parameters that curves are drawn over.")
    beside: list[str] = setting([], "Other sweeps to draw together with this one.")
    side_by_side: list[str] = setting([], "Methods whose pictures stand side by side.")


class Dataset(Group):
    """A data set of pictures.

    Example:
        >>> Dataset().name
        'cifar10'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = setting("cifar10", "Name, for reports and shipped statistics.")
    module: Any = setting(None, "The data module, a PictureData.")


def _last_word(node: Node) -> str:
    """Return the name of an energy: that of its function, else of its class."""
    return str(node.get("function") or node.name).rpartition(".")[2]


class Settings(Group):
    """All settings of a run, checked.

    Example:
        >>> settings = Settings(trainer={"max_epochs": 3})
        >>> settings.limits, settings.pairs.count
        ((3, -1), 50000)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = setting("run", "Name of the run and of its folder.")
    method: str | None = setting(None, "Name of a method: a sampler with its corrector and target.")
    seed: int = setting(0, "Seed of initial weights and of trainings.", ge=0, le=LARGEST_RUN_SEED)
    threads: int | None = setting(None, "Processor threads; null: the choice of torch.", "threads", ge=1)
    task: Task = setting(Task(), "What is done.")
    pairs: Pairs = setting(Pairs(), "Latent/label pairs.")
    classifier: Classifier = setting(Classifier(), "The latent classifier.")
    query: QuerySettings = setting(QuerySettings(), "The condition.")
    metrics: Metrics = setting(Metrics(), "What is measured.")
    paths: Paths = setting(Paths(), "Folders.")
    sweep: Sweep = setting(Sweep(), "What a sweep draws.")
    dataset: Dataset = setting(Dataset(), "The data set.")
    generator: Any = setting(None, "The generator.")
    labeler: Any = setting(None, "The network that labels the pairs; null: pairs or classifier are given.")
    judge: Any = setting(None, "The network that measures.")
    sampler: Any = setting(None, "The sampler of LACE.")
    energy: Any = setting(None, "An energy or a reward that is added to that of the query (LACE); null: none.")
    energies: dict[str, Any] = setting({}, "Further energies and rewards by name, each with a `_target_`.")
    model: Any = setting(None, "Another system than LACE; null: LACE.")
    training: dict[str, Any] = setting({}, "Settings of the training of an image network.")
    editing: dict[str, Any] = setting({}, "Options of the editor.")
    trainer: dict[str, Any] = setting({}, "Arguments of Lightning's Trainer.")
    logger: dict[str, Any] = setting({}, "Loggers by name.")
    callbacks: dict[str, Any] = setting({}, "Further callbacks of Lightning by name.")
    paper: list[dict[str, Any]] = setting([], "Figures to show beside those of the run.")
    plain: dict[str, Any] = setting({}, "The resolved configuration in plain containers.")
    digest: str = setting("", "Digest of everything that decides a result.")

    @property
    def limits(self) -> tuple[int, int]:
        """The values of trainer.max_epochs and trainer.max_steps; -1 is no limit."""
        return int(self.trainer["max_epochs"]), int(self.trainer.get("max_steps", -1))

    @property
    def extra_energies(self) -> dict[str, Node]:
        """The nodes of energies that are added to that of the query, by name."""
        own = {} if self.energy is None else {_last_word(self.energy): self.energy}
        return own | {name: Node(f"energies.{name}", content) for name, content in self.energies.items() if content}

    def nodes(self) -> Sequence[Node]:
        """Return the nodes of generator, labeler, judge, sampler and model that are set."""
        return [
            node for node in (self.generator, self.labeler, self.judge, self.sampler, self.model) if node is not None
        ]

    def value(self, key: str) -> Any:
        """Return the value of a dotted key of the resolved configuration, None for a missing key."""
        found: Any = self.plain
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found
