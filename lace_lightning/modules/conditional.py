"""What generative models with conditions share, whatever they are: they are trained, and they draw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..artifacts import digest, load_tensors, save_tensors
from ..editing import StepEditor
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..query import Query
from ..samplers import Sample
from ..schema import Labels, Schema

M = TypeVar("M", bound="ConditionalModel")


class ConditionalModel(pl.LightningModule):
    """A model that draws points of `space` with given attributes: w (B, Dw) of a generator, or x, pictures (B, C, H, W) in [-1, 1].

    It is trained on batches (points, labels (B, K), known (B, K) bool): latents as they are, pictures uint8 or in [-1, 1]. Subclasses give
    the training step, optimizers, and `sample`; `kind` is what their files are called, `saved_state` what drawing needs of the state, and
    `draws_with` names the arguments that training does not look at.
    """

    space: str
    kind: str
    draws_with: tuple[str, ...] = ()
    # Which columns of a batch's labels are its attributes, in its order; None for all.
    columns: list[int] | None = None
    # What its `editor` takes: the class of the options; None for models that do not edit.
    edit_options: type | None = None

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema

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
        save_tensors(path, self.saved_state(), {"kind": self.kind, "arguments": dict(self.hparams), "metadata": metadata}, dtype)

    @classmethod
    def load(cls: type[M], path: str | os.PathLike[str]) -> M:
        """Read what `save` wrote, ready for drawing (frozen). Raises LaceError for missing, damaged or other weights."""
        tensors, config = load_tensors(path)
        if config.get("kind") != cls.kind:
            raise LaceError(f"The weights '{path}' must be a {cls.kind} and are of kind '{config.get('kind')}'.")
        # What it began from is in its weights.
        model = cls(**{**config["arguments"], **({"start": None} if "start" in config["arguments"] else {})})
        if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in model.saved_state().items()}:
            raise LaceError(f"The weights '{path}' do not have the tensors of the network that their configuration describes: get the file "
                            "again.")
        model.take(tensors)
        return model.eval().requires_grad_(False)

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return points `Sample.z` with the attributes `codes` (B, K), free where they are not known; each has a seed (B,) int64.

        `starts` are points of `space` to begin at, for models whose chains begin at the generator's own latents. Sample i depends on its
        seed, code and start alone, unless the method couples a batch, which its docstring then says. `evaluations` counts network
        evaluations per sample. Raises LaceError for codes that the model cannot take.
        """
        raise NotImplementedError

    def editor(self, generator: Generator, labeler: Labeler, options: Any) -> StepEditor:
        """Return what edits latents of a generator, whose pictures `labeler` labels before any edit; `options` are `edit_options`."""
        raise NotImplementedError

    @classmethod
    def check_query(cls, query: Query) -> None:
        """Refuse (LaceError) what labels cannot ask for: anything but a conjunction of ==."""
        if not query.is_conjunction:
            raise LaceError(f"{cls.__name__} takes a conjunction of ==, received '{query.text}': write for example "
                            "\"glasses == 1 and smile == 0\".")

    def described(self) -> str:
        """Return the model and its settings in one line."""
        settings = ", ".join(f"{name}={value}" for name, value in self.hparams.items() if name != "schema")
        return f"{type(self).__name__}({settings})"
