"""Sampling of conditional models at test time, measured as latent classifiers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.conditions import free_labels, wanted_labels
from ..errors import LaceError
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..modules.conditional import ConditionalModel
from ..pictures import to_bytes
from ..query import And, Atom, Query
from ..samplers import Sample
from ..schema import Labels
from .query_sampling import QuerySampling


class ModelSampling(QuerySampling):
    """Let a conditional model draw what a query asks for, and measure it (`QuerySampling`).

    Models of w begin at g(z) of the generator's own starting points, and the generator makes the pictures; models of pictures have their
    own. Raises LaceError for a query that is no conjunction of `==`.
    """

    def __init__(self, generator: Generator, judge: Labeler, model: ConditionalModel, query: Query, *arguments: Any,
                 **settings: Any) -> None:
        super().__init__(generator, judge, model, query, *arguments, **settings)
        self.compared = model.space != "x"
        if not _is_conjunction(query.root):
            raise LaceError(f"{type(model).__name__} draws what a conjunction of == asks for, received '{query.text}': write for example "
                            "\"glasses == 1 and smile == 0\".")

    def described(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.sampler.hparams.items() if name != "schema")
        return f"{type(self.sampler).__name__}({settings})"

    def draw(self, source: ConditionalModel, first: int, count: int, device: torch.device,
             codes: Labels | None = None) -> tuple[Sample, Tensor, Labels | None]:
        free = free_labels(self.query, count, self.seed, first, codes)
        wanted = wanted_labels(self.query, count, free).part(source.schema).to(device)
        seeds = sample_seeds(count, self.seed, first).to(device)
        starts = self.generator.mapping(self.generator.prior(count, self.seed, first, device)) if source.space == "w" else None
        sample = source.sample(wanted, seeds, starts)
        images = self._made(lambda: to_bytes(sample.z) if source.space == "x" else self.generator.pictures(sample.z), device)
        return sample, images, free


def _is_conjunction(node: object) -> bool:
    if isinstance(node, And):
        return _is_conjunction(node.left) and _is_conjunction(node.right)
    return isinstance(node, Atom) and node.op == "=="
