"""What generative models with conditions share, whatever they are: they are trained, and they draw."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from ..artifacts import digest
from ..samplers import Sample
from ..schema import Labels, Schema


class ConditionalModel(pl.LightningModule):
    """A model that draws points of `space` with given attributes: w (B, Dw) of a generator, or x, pictures (B, C, H, W) in [-1, 1].

    It is trained on batches (points, labels (B, K), known (B, K) bool): latents as they are, pictures uint8 or in [-1, 1]. Subclasses give
    the training step, optimizers, and `sample`.
    """

    space: str

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of what decides its samples: settings and weights."""
        return digest({"class": type(self).__name__, "settings": dict(self.hparams), "state": dict(self.state_dict())})

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Do nothing: what it draws is measured by a callback."""

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return points `Sample.z` with the attributes `codes` (B, K), free where they are not known; each has a seed (B,) int64.

        `starts` are points of `space` to begin at, for models whose chains begin at the generator's own latents. Sample i depends on its
        seed, code and start alone, unless the method couples a batch, which its docstring then says. `evaluations` counts network
        evaluations per sample. Raises LaceError for codes that the model cannot take.
        """
        raise NotImplementedError
