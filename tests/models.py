"""Models for tests: conditional ones whose samples are known, and CLIP of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lace_lightning.samplers import Sample
from lace_lightning.schema import Labels, Schema
from lace_lightning.seeds import uniform
from lace_lightning.systems.base import ConditionalModel


class Lookup(ConditionalModel):
    """Draws what it has seen: a training point with the wanted classes, chosen by the sample's seed; its start where
    none is wanted.
    """

    space = "w"
    kind = "lookup"
    draws_with = ("stream",)

    def __init__(self, schema: dict[str, Any], w_dim: int, size: int = 400, stream: int = 0) -> None:
        super().__init__(Schema.from_config(schema))
        self.save_hyperparameters({"schema": schema, "w_dim": w_dim, "size": size, "stream": stream})
        self.register_buffer("points", torch.zeros(size, w_dim))
        self.register_buffer("labels", torch.zeros(size, len(self.schema)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        points, labels, _ = batch
        rows = torch.arange(len(points)) + int(self.seen)
        rows = rows[rows < len(self.points)]
        self.points[rows], self.labels[rows] = points[: len(rows)], labels[: len(rows)]
        self.seen += len(rows)
        return self.weight.sum() * 0

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        lot, points = uniform(seeds.cpu(), (1,), stream=self.hparams["stream"])[:, 0], []
        for row in range(len(codes)):
            fits = ((self.labels[: self.seen] == codes.values[row]) | ~codes.known[row]).all(1).nonzero()[:, 0]
            points.append(self.points[fits[int(lot[row] * len(fits))]])
        return Sample(torch.stack(points), 0.0, 1e-3)


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_clip(folder: Path, name: str = "tiny", seed: int = 0) -> tuple[Path, Path]:
    """Write a CLIP model of random weights; return (configuration, weights)."""
    open_clip = pytest.importorskip("open_clip")
    (folder / f"{name}.json").write_text(json.dumps(TINY_CLIP))
    torch.manual_seed(seed)
    model = open_clip.CLIP(**TINY_CLIP)
    save_file(
        {key: value.contiguous().clone() for key, value in model.state_dict().items()}, folder / f"{name}.safetensors"
    )
    return folder / f"{name}.json", folder / f"{name}.safetensors"
