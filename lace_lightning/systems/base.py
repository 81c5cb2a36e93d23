"""Base classes of systems that draw pictures by attribute: LACE and the models that it is compared with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..artifacts import digest, load_tensors, save_tensors
from ..cache import Cache
from ..energies import Energy
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..pictures.convert import to_bytes
from ..query import Query, parse
from ..samplers import Sample
from ..schema import Attribute, Labels, Schema
from ..targets import free_labels, wanted_labels
from .editing import StepEditor
from .outlook import Outlook

M = TypeVar("M", bound="ConditionalModel")


@dataclass
class Drawn:
    """Pictures that a system drew.

    Args:
        sample: latents or pictures of the system's space, with evaluations, seconds and diagnostics.
        images: pictures (B, C, H, W) uint8.
        synthesis_seconds: wall time from latents to pictures, in seconds.

    Example:
        >>> import torch
        >>> drawn = Drawn(Sample(torch.zeros(2, 4), 0.0, 0.0), torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
        >>> drawn.images.shape
        torch.Size([2, 3, 8, 8])
    """

    sample: Sample
    images: Tensor
    synthesis_seconds: float = 0.0


@dataclass(frozen=True)
class SamplingPlan:
    """The samples of one measurement, for observers that draw reference samples beside them.

    Args:
        batches: number of the first sample and number of samples of every batch.
        seed: the run's seed.
        posterior_sets: sets of exact samples to measure against, 2 or more; fewer for none.
        cache: cache of reference samples, None for none.

    Example:
        >>> SamplingPlan(batches=[(0, 500), (500, 500)], seed=1).posterior_sets
        0
    """

    batches: Sequence[tuple[int, int]]
    seed: int
    posterior_sets: int = 0
    cache: Cache | None = None


class Observer(Protocol):
    """Protocol of diagnostics that a system collects over the batches of one query.

    Example:
        >>> import torch
        >>> class Count:
        ...     total = 0
        ...
        ...     def update(self, start, sample, free):
        ...         self.total += len(start)
        ...
        ...     def compute(self):
        ...         return {"count": float(self.total)}, {}
        >>> observer: Observer = Count()
        >>> observer.update(torch.zeros(3, 2), Sample(torch.zeros(3, 2), 0.0, 0.0), None)
        >>> observer.compute()
        ({'count': 3.0}, {})
    """

    def update(self, start: Tensor, sample: Sample, free: Labels | None) -> None:
        """Add a batch: starting points z (B, Dz), the samples drawn from them, and values of free attributes."""

    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return figures by name, and entries of the protocol."""


class System(pl.LightningModule):
    """Base class of systems that draw pictures with attributes, and may edit latents: LACE or a model of another kind.

    A system is trained by Lightning on batches of a data module and bound to a frozen generator and a labeler (`bind`).
    After that `draw` samples a query, and `step_editor` edits latents. A subclass gives `draw_points`, the training
    step and the optimizer.

    Attributes:
        schema: the attributes that the system knows.
        space: the space of its points: z, w, or x for pictures.
        kind: the kind that its files carry.
        draws_with: names of constructor arguments that decide how it draws and not how it is trained.
        edit_options: class of the options of its editor, None for systems that do not edit.
        compared: whether the generator alone is measured beside it.

    Example:
        >>> import torch
        >>> from lace_lightning.generators import ModuleGenerator
        >>> from lace_lightning.schema import Attribute, Schema
        >>> class Unchanged(System):
        ...     space, schema = "w", Schema("s", (Attribute("hat"),))
        ...
        ...     def draw_points(self, query, z, seeds, free):
        ...         return Sample(self.generator.mapping(z), 0.0, 0.0)
        >>> decoder = torch.nn.Sequential(torch.nn.Linear(4, 48), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 4, 4)))
        >>> system = Unchanged().bind(ModuleGenerator(decoder, 4, (3, 4, 4)))
        >>> system.draw(system.parsed("hat == 1"), torch.zeros(2, 4), torch.arange(2)).images.shape
        torch.Size([2, 3, 4, 4])
    """

    space: str
    kind: str = ""
    draws_with: tuple[str, ...] = ()
    edit_options: type | None = None
    # Advice in messages: the settings that choose options of the right class.
    edit_advice = "model=none for LACE, or model=styleflow"
    schema: Schema
    # Whether the weights were given, so that nothing is to be trained.
    given: bool = False
    _bound: tuple[Generator, Labeler | None] | None = None

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of settings and weights, which name the system in caches and records."""
        return digest({"class": type(self).__name__, "settings": dict(self.hparams), "state": dict(self.state_dict())})

    def bind(self, generator: Generator, labeler: Labeler | None = None) -> Self:
        """Give the generator whose latents the system draws, and the labeler of its pictures; return self."""
        # In a tuple: neither is a part of the system's own state.
        self._bound = (generator, labeler)
        return self

    @property
    def generator(self) -> Generator:
        """The generator of `bind`.

        Raises:
            LaceError: when `bind` was not called yet.
        """
        if self._bound is None:
            raise LaceError(f"{type(self).__name__} has no generator yet: call bind(generator, labeler) first.")
        return self._bound[0]

    @property
    def labeler(self) -> Labeler | None:
        """The labeler of `bind`, None where there is none."""
        return None if self._bound is None else self._bound[1]

    @property
    def compared(self) -> bool:
        """Whether the generator alone, from the same starting points, is measured beside the system."""
        return self.space != "x"

    def parsed(self, query: str | Query) -> Query:
        """Return a query, given as text or query, on the system's schema.

        Raises:
            LaceError: for attributes that the system does not know.
        """
        if not isinstance(query, (str, Query)):
            raise LaceError(
                f"A query must be text or a Query, received {type(query).__name__}: write for example 'glasses == 1'."
            )
        return parse(query, self.schema) if isinstance(query, str) else query.on(self.schema)

    def check_query(self, query: Query) -> None:
        """Refuse a query that the system cannot draw, before it is trained.

        Raises:
            LaceError: for such a query.
        """

    # What the system is going to sample, and the ACC to expect; None before `prepare`, and where it is not known.
    outlook: Outlook | None = None

    def prepare(self, query: Query, z: Tensor, free: Labels | None) -> None:
        """Measure on a pilot the settings that the sampler needs; called once with the first batch, before `draw`."""

    def draw(self, query: Query, z: Tensor, seeds: Tensor, free: Labels | None = None) -> Drawn:
        """Return pictures that satisfy a query.

        Args:
            query: the condition, of any schema that has the system's attributes.
            z: starting points (B, Dz), of the generator's prior.
            seeds: one seed a sample (B,) int64; sample i depends on its seed, start and code alone.
            free: values of free attributes (B rows), None where nothing is free.

        Returns:
            The points with their pictures.
        """
        sample = self.draw_points(query, z, seeds, free)
        images, seconds = self.timed_pictures(lambda: self.pictures_of(sample))
        return Drawn(sample, images, seconds)

    def draw_points(self, query: Query, z: Tensor, seeds: Tensor, free: Labels | None) -> Sample:
        """Return points of the system's space that satisfy a query; see `draw` for the arguments."""
        raise NotImplementedError

    def pictures_of(self, sample: Sample) -> Tensor:
        """Return the pictures of points as bytes, uint8 (B, C, H, W)."""
        return to_bytes(sample.z) if self.space == "x" else self.generator.pictures(sample.z)

    def latents_of(self, sample: Sample) -> dict[str, Tensor]:
        """Return the latents of points by name: z, w, and ws (B, L, Dw) where the generator has layers; none for x."""
        if self.space == "x":
            return {}
        return self._with_w({}, sample.z) if self.space == "w" else self._from_z(sample.z)

    def _from_z(self, z: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return self._with_w({"z": z}, self.generator.mapping(z)) if self.generator.has_w else {"z": z}

    def _with_w(self, latents: dict[str, Tensor], w: Tensor) -> dict[str, Tensor]:
        layers = {"ws": self.generator.broadcast(w)} if self.generator.has_layers else {}
        return {**latents, "w": w, **layers}

    def probability(self, query: Query, sample: Sample, free: Labels | None = None) -> Tensor | None:
        """Return the probability (B,) that the system itself gives a query at points, None where it has none.

        Args:
            query: the condition.
            sample: the points.
            free: values of the query's free attributes, B rows; None where nothing is free.
        """
        return None

    def timed_pictures(self, make: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """Return the pictures that a function makes, and its wall time in seconds."""
        start = time.perf_counter()
        with torch.no_grad():
            images = make()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return images, time.perf_counter() - start

    def observer(self, query: Query, plan: SamplingPlan) -> Observer | None:
        """Return diagnostics of the sampler over the batches of a query, None where the system has none."""
        return None

    def step_editor(self, options: Any) -> StepEditor:
        """Return the editor of latents of the generator.

        Args:
            options: options of the class `edit_options`.

        Raises:
            LaceError: for systems that do not edit.
        """
        raise LaceError(
            f"Editing needs a system that edits, and {type(self).__name__} only draws: set model=styleflow, or "
            "model=none for LACE."
        )

    def with_temperature(self, temperature: float) -> System:
        """Return the system with logits divided by a temperature.

        Args:
            temperature: the divisor, above 0.

        Raises:
            LaceError: for systems without logits.
        """
        raise LaceError(
            f"A temperature divides the logits of a latent classifier, and {type(self).__name__} draws without: set "
            "model=none."
        )

    def summary(self) -> str:
        """Return the system and its settings in one line."""
        settings = ", ".join(f"{name}={value}" for name, value in self.hparams.items() if name != "schema")
        return f"{type(self).__name__}({settings})"

    @property
    def title(self) -> str:
        """The name of the system in progress bars and pictures."""
        return type(self).__name__

    def protocol(self, query: Query | None = None) -> dict[str, Any]:
        """Return further settings behind the figures of the system, for the record."""
        return {}

    def training_data(self) -> str:
        """Return the data that the system is trained on: `pairs`, or `pictures` of the data set."""
        return "pictures" if self.space == "x" else "pairs"

    def after_training(self, data: pl.LightningDataModule) -> None:
        """Finish the training after its last step, for example by a calibration."""

    def save_trained(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Write the whole trained state and metadata as safetensors, atomically."""
        save_tensors(path, self.state_dict(), {"kind": f"trained {self.kind}", "metadata": metadata})

    def load_trained(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read a file of `save_trained`, and return its metadata."""
        tensors, config = load_tensors(path)
        self.load_state_dict(tensors)
        return dict(config["metadata"])

    def save(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Write the tensors that drawing needs as safetensors, atomically."""
        raise NotImplementedError


class ConditionalModel(System):
    """Base class of generative models with conditions: of w (B, Dw) of a generator, or of pictures (B, C, H, W).

    A model is trained on batches (points, labels (B, K), known (B, K) bool), where pictures are uint8 or in [-1, 1]. A
    subclass gives the training step, the optimizer and `sample`. `saved_state` is the part of the state that drawing
    needs. With `needs_condition` every code must know an attribute. A model that `composes` has an energy for every
    query.

    Args:
        schema: the attributes that the model knows.

    Example:
        >>> import torch
        >>> from lace_lightning.schema import Attribute, Schema
        >>> class Repeat(ConditionalModel):
        ...     space = "w"
        ...
        ...     def sample(self, codes, seeds, starts=None):
        ...         return Sample(self.checked(codes, seeds).values, 0.0, 0.0)
        >>> model = Repeat(Schema("s", (Attribute("hat"), Attribute("smile"))))
        >>> model.sample_query("hat == 1", torch.arange(2)).z.tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """

    # Columns of a batch's labels that are the model's attributes, in its order; None for all.
    columns: list[int] | None = None
    # Whether the model has an energy for every query.
    composes = False
    needs_condition = False
    edit_advice = "editing=styleflow_v1, editing=styleflow_v2, or model=none for LACE"
    # How a query with OR and NOT becomes an energy: exact or paper.
    logic = "exact"

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        # The metadata of the file that the model was loaded from.
        self.metadata: dict[str, Any] = {}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch with the labels of the model's attributes alone."""
        if self.columns is None:
            return batch
        points, *labels = batch
        return (points, *(part[:, self.columns] for part in labels))

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Do nothing, because a callback measures the samples of the model."""

    def saved_state(self) -> dict[str, Tensor]:
        """Return the tensors that a file holds."""
        return dict(self.state_dict())

    def load_saved_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors of `saved_state`."""
        self.load_state_dict(tensors)

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None, **metadata: Any) -> None:
        """Write the tensors that drawing needs, the arguments and metadata as safetensors, atomically."""
        save_tensors(
            path, self.saved_state(), {"kind": self.kind, "arguments": dict(self.hparams), "metadata": metadata}, dtype
        )

    @classmethod
    def load(cls: type[M], path: str | os.PathLike[str], **settings: Any) -> M:
        """Return the model of a file that `save` wrote, frozen and in evaluation mode.

        Args:
            path: the file.
            settings: other values of arguments that `draws_with` names.

        Raises:
            LaceError: for missing or damaged weights, and those of another kind or network.
        """
        tensors, config = load_tensors(path)
        if config.get("kind") != cls.kind:
            raise LaceError(f"The weights '{path}' must be a {cls.kind} and are of kind '{config.get('kind')}'.")
        # The weights replace the initial weights, which need not exist any more.
        begun = {"start": None} if "start" in config["arguments"] else {}
        model = cls(**{**config["arguments"], **begun, **settings})
        if {name: value.shape for name, value in tensors.items()} != {
            name: value.shape for name, value in model.saved_state().items()
        }:
            raise LaceError(
                f"The weights '{path}' do not have the tensors of the network that their configuration describes: get "
                "the file again."
            )
        model.load_saved_state(tensors)
        model.metadata = dict(config["metadata"])
        return model.eval().requires_grad_(False)

    def checked(self, codes: Labels, seeds: Tensor | None = None, starts: Tensor | None = None) -> Labels:
        """Return codes as labels (B, K) of the model's schema on its device; other attributes are not known.

        Args:
            codes: labels (B rows) of any schema; attributes are matched by name.
            seeds: seeds, of which there must be B; None leaves this check out.
            starts: starting points, of which there must be B; None for none.

        Raises:
            LaceError: for known attributes that the model does not have or has otherwise, for values out of range, for
                a code that knows nothing where the model `needs_condition`, and, with seeds, for no codes and other
                numbers of seeds or starts.
        """
        if seeds is not None and (
            len(codes) != len(seeds) or not len(codes) or (starts is not None and len(starts) != len(codes))
        ):
            raise LaceError(
                f"Every sample needs a code, a seed and, where given, a start; received {len(codes)} codes, "
                f"{len(seeds)} seeds and {'no' if starts is None else len(starts)} starts: give as many of each."
            )
        with torch.inference_mode(False):
            # New tensors, because those of inference mode cannot take part in a gradient.
            result = Labels.constant(self.schema, len(codes)).to(self.device)
            for index, attribute in enumerate(codes.schema):
                known = codes.known[:, index].to(self.device)
                if bool(known.any()):
                    values = torch.where(known, codes.values[:, index].to(self.device), 0.0)
                    place = self._place(attribute, values[known])
                    result.values[:, place], result.known[:, place] = values, known
            nothing = ~result.known.any(1)
            if self.needs_condition and bool(nothing.any()):
                raise LaceError(
                    f"{type(self).__name__} needs a condition, and code {int(nothing.nonzero()[0])} knows no "
                    "attribute: give one."
                )
            return result

    def _place(self, attribute: Attribute, values: Tensor) -> int:
        """Return the column of an attribute whose known values in the codes are these (N,), N > 0."""
        own = self.schema[attribute.name]
        if not own.agrees_with(attribute):
            raise LaceError(
                f"Codes must be of the attributes {', '.join(self.schema.names)} that the model was trained on, and "
                f"their '{attribute.name}' is another: give codes of the schema '{self.schema.name}'."
            )
        numbers, high = ("classes", own.num_classes - 1) if own.kind == "discrete" else ("values", 1)
        fits = (values >= 0) & (values <= high) & ((values == values.round()) | (own.kind != "discrete"))
        if not bool(fits.all()):
            raise LaceError(
                f"Codes of '{own.name}' must be {numbers} from 0 to {high}, received {float(values[~fits][0]):g}: "
                "correct them, or set `known` to False for free attributes."
            )
        return self.schema.index(own.name)

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return points of `space` with the attributes that the codes ask for.

        Sample i depends on its seed, code and start alone. The docstring of a method that couples a batch states it.

        Args:
            codes: labels (B, K); attributes that are not known are free.
            seeds: one seed a sample (B,) int64.
            starts: points of `space` (B, ...) at which chains begin, for models that begin at the generator's latents;
                None for the model's own starts.

        Returns:
            Points `z`, with network evaluations per sample.

        Raises:
            LaceError: for codes that the model cannot take.
        """
        raise NotImplementedError

    def sample_query(
        self,
        query: str | Query,
        seeds: Tensor,
        free: Labels | None = None,
        logic: str = "exact",
        starts: Tensor | None = None,
    ) -> Sample:
        """Return points that satisfy a query, one for each seed.

        Args:
            query: the condition; more than a conjunction of == for models that `composes` alone.
            seeds: one seed a sample (B,) int64.
            free: values of the query's free attributes, B rows; None where nothing is free.
            logic: how the energy of a query with OR or NOT is composed: exact or paper.
            starts: points at which chains begin, see `sample`.

        Raises:
            LaceError: for queries and codes that the model cannot take.
        """
        query = self.parsed(query)
        self.check_query(query)
        free = None if free is None else free.part(self.schema)
        if query.is_conjunction:
            return self.sample(wanted_labels(query, len(seeds), free).to(seeds.device), seeds, starts)
        energy = self.energy(query, None if free is None else free.to(seeds.device), logic=logic)
        return self.draw_energy(energy, seeds, starts, torch.tensor(len(query.attributes)))

    def energy(self, query: str | Query, free: Labels | None = None, *, logic: str = "exact") -> Energy:
        """Return the energy of a query on points of `space`, for models that `composes`.

        Args:
            query: the condition.
            free: values of the query's free attributes, one row a sample; None where nothing is free.
            logic: how OR and NOT are composed: exact or paper.
        """
        raise NotImplementedError

    def draw_energy(
        self, energy: Energy, seeds: Tensor, starts: Tensor | None = None, terms: Tensor | None = None
    ) -> Sample:
        """Return points of an energy of points of `space`, for models that `composes`.

        Args:
            energy: the energy of points (B, ...).
            seeds: one seed a sample (B,) int64.
            starts: points at which chains begin, see `sample`.
            terms: number of attributes that the energy is a sum over, a scalar or (B,); None where it is not known.
        """
        raise NotImplementedError

    def editor(self, generator: Generator, labeler: Labeler, options: Any) -> StepEditor:
        """Return the editor of a generator's latents.

        Args:
            generator: the generator.
            labeler: the network that labels the pictures before any edit.
            options: options of the class `edit_options`.
        """
        raise NotImplementedError

    def check_query(self, query: Query) -> None:
        """Refuse a query that is no conjunction of ==, unless the model has an energy for it.

        Raises:
            LaceError: for such a query.
        """
        if not self.composes and not query.is_conjunction:
            raise LaceError(
                f"{type(self).__name__} takes a conjunction of ==, received '{query.text}': write for example "
                '"glasses == 1 and smile == 0".'
            )
        if self.composes and not query.is_conjunction:
            # Built once before the training, so that a missing energy is found early.
            free = free_labels(query, 1)
            self.energy(query.on(self.schema), None if free is None else free.part(self.schema), logic=self.logic)

    def draw_points(self, query: Query, z: Tensor, seeds: Tensor, free: Labels | None) -> Sample:
        with torch.no_grad():
            starts = self.generator.mapping(z) if self.space == "w" else None
        return self.sample_query(query, seeds, free, self.logic, starts)

    def step_editor(self, options: Any) -> StepEditor:
        if self.edit_options is None or self.labeler is None:
            return super().step_editor(options)
        return self.editor(self.generator, self.labeler, options)

    def protocol(self, query: Query | None = None) -> dict[str, Any]:
        return {} if query is None or query.is_conjunction else {"logic": self.logic}
