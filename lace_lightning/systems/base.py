"""What generative models with conditions share, whatever they are: they are trained, and they draw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..artifacts import digest, load_tensors, save_tensors
from ..energies import Energy
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..query import Query, parse
from ..samplers import Sample
from ..schema import Attribute, Labels, Schema
from ..targets import wanted_labels
from .editing import StepEditor

M = TypeVar("M", bound="ConditionalModel")


class ConditionalModel(pl.LightningModule):
    """A model that draws points of `space` with given attributes: w (B, Dw) of a generator, or x, pictures (B, C, H, W)
    in [-1, 1].

    It is trained on batches (points, labels (B, K), known (B, K) bool): latents as they are, pictures uint8 or in [-1,
    1]. Subclasses give the training step, optimizers, and `sample`; `kind` is what their files are called,
    `saved_state` what drawing needs of the state, and `draws_with` names the arguments that training does not look at;
    with `needs_condition` every code must know an attribute.
    """

    space: str
    kind: str
    draws_with: tuple[str, ...] = ()
    # Which columns of a batch's labels are its attributes, in its order; None for all.
    columns: list[int] | None = None
    # Whether it has an energy for every query.
    composes = False
    # What its `editor` takes: the class of the options; None for models that do not edit.
    edit_options: type | None = None
    needs_condition = False

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        # What `save` was told, of models that were loaded.
        self.metadata: dict[str, Any] = {}

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of what decides its samples: settings and weights."""
        return digest({"class": type(self).__name__, "settings": dict(self.hparams), "state": dict(self.state_dict())})

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.columns is None:
            return batch
        points, *labels = batch
        return (points, *(part[:, self.columns] for part in labels))

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Do nothing: what it draws is measured by a callback."""

    def saved_state(self) -> dict[str, Tensor]:
        """Return the tensors that a file holds."""
        return dict(self.state_dict())

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `saved_state` gave."""
        self.load_state_dict(tensors)

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None, **metadata: Any) -> None:
        """Write what drawing needs, the arguments and metadata as safetensors, atomically."""
        save_tensors(
            path, self.saved_state(), {"kind": self.kind, "arguments": dict(self.hparams), "metadata": metadata}, dtype
        )

    @classmethod
    def load(cls: type[M], path: str | os.PathLike[str], **settings: Any) -> M:
        """Read what `save` wrote, ready for drawing (frozen), with other `settings` of `draws_with` where given.

        Raises LaceError for missing, damaged or other weights.
        """
        tensors, config = load_tensors(path)
        if config.get("kind") != cls.kind:
            raise LaceError(f"The weights '{path}' must be a {cls.kind} and are of kind '{config.get('kind')}'.")
        # What it began from is in its weights.
        begun = {"start": None} if "start" in config["arguments"] else {}
        model = cls(**{**config["arguments"], **begun, **settings})
        if {name: value.shape for name, value in tensors.items()} != {
            name: value.shape for name, value in model.saved_state().items()
        }:
            raise LaceError(
                f"The weights '{path}' do not have the tensors of the network that their configuration describes: get "
                f"the file "
                "again."
            )
        model.take(tensors)
        model.metadata = dict(config["metadata"])
        return model.eval().requires_grad_(False)

    def checked(self, codes: Labels, seeds: Tensor | None = None, starts: Tensor | None = None) -> Labels:
        """Return codes as labels (B, K) of the model's schema on its device, by name; what they do not have is not
        known.

        Raises LaceError for codes that know attributes which the model does not have or has otherwise, or values which
        there are not; for one that knows nothing where the model `needs_condition`; and, with seeds, for no codes and
        for other numbers of seeds or starts.
        """
        if seeds is not None and (
            len(codes) != len(seeds) or not len(codes) or (starts is not None and len(starts) != len(codes))
        ):
            raise LaceError(
                f"Every sample needs a code, a seed and, where given, a start; received {len(codes)} codes, "
                f"{len(seeds)} seeds "
                f"and {'no' if starts is None else len(starts)} starts."
            )
        with torch.inference_mode(False):
            # New tensors: those of inference mode take part in no gradient.
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
                    f"attribute: give "
                    "one."
                )
            return result

    def _place(self, attribute: Attribute, values: Tensor) -> int:
        """Return the column of an attribute of which codes know these values (N,), N > 0."""
        own = self.schema[attribute.name]
        if not own.agrees_with(attribute):
            raise LaceError(
                f"Codes must be of the attributes {', '.join(self.schema.names)} that the model was trained on, and "
                f"their "
                f"'{attribute.name}' is another: give codes of the schema '{self.schema.name}'."
            )
        what, high = ("classes", own.num_classes - 1) if own.kind == "discrete" else ("values", 1)
        fits = (values >= 0) & (values <= high) & ((values == values.round()) | (own.kind != "discrete"))
        if not bool(fits.all()):
            raise LaceError(
                f"Codes of '{own.name}' must be {what} from 0 to {high}, received {float(values[~fits][0]):g}: correct "
                f"them, "
                "and say in `known` what is free."
            )
        return self.schema.index(own.name)

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return points `Sample.z` with the attributes `codes` (B, K), free where they are not known; each has a seed
        (B,) int64.

        `starts` are points of `space` to begin at, for models whose chains begin at the generator's own latents. Sample
        i depends on its seed, code and start alone, unless the method couples a batch, which its docstring then says.
        `evaluations` counts network evaluations per sample. Raises LaceError for codes that the model cannot take.
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
        """Return points that a query asks for, one a seed (B,), as `sample` does; `free` (B rows) gives the values of
        free attributes.

        Models with an energy for every query take any, and `logic` is how it is composed; others take what labels can
        say, and raise LaceError for more than a conjunction of ==.
        """
        query = self.parsed(query)
        self.check_query(query)
        free = None if free is None else free.part(self.schema)
        if query.is_conjunction:
            return self.sample(wanted_labels(query, len(seeds), free).to(seeds.device), seeds, starts)
        energy = self.energy(query, None if free is None else free.to(seeds.device), logic=logic)
        return self.draw_energy(energy, seeds, starts, torch.tensor(len(query.attributes)))

    def parsed(self, query: str | Query) -> Query:
        """Return a query on the model's schema."""
        return parse(query, self.schema) if isinstance(query, str) else query.on(self.schema)

    def energy(self, query: str | Query, free: Labels | None = None, *, logic: str = "exact") -> Energy:
        """Return the energy of a query on points of `space`, of models that have one; `free` (B rows) has values of
        free attributes.
        """
        raise NotImplementedError

    def draw_energy(
        self, energy: Energy, seeds: Tensor, starts: Tensor | None = None, terms: Tensor | None = None
    ) -> Sample:
        """Return points of an energy of points, of models that have energies; `terms`, one or (B,), says of how many it
        is the sum.
        """
        raise NotImplementedError

    def editor(self, generator: Generator, labeler: Labeler, options: Any) -> StepEditor:
        """Return what edits latents of a generator, whose pictures `labeler` labels before any edit; `options` are
        `edit_options`.
        """
        raise NotImplementedError

    @classmethod
    def check_query(cls, query: Query) -> None:
        """Refuse (LaceError) what labels cannot ask for, anything but a conjunction of ==, of models without an energy
        for it.
        """
        if not cls.composes and not query.is_conjunction:
            raise LaceError(
                f"{cls.__name__} takes a conjunction of ==, received '{query.text}': write for example "
                '"glasses == 1 and smile == 0".'
            )

    def described(self) -> str:
        """Return the model and its settings in one line."""
        settings = ", ".join(f"{name}={value}" for name, value in self.hparams.items() if name != "schema")
        return f"{type(self).__name__}({settings})"
