"""Sampling of conditional models at test time, measured as latent classifiers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.conditions import free_labels, wanted_labels
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..modules.conditional import ConditionalModel
from ..pictures import to_bytes
from ..query import Query
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
        model.check_query(query)

    def draw(self, source: ConditionalModel, first: int, count: int, device: torch.device,
             codes: Labels | None = None) -> tuple[Sample, Tensor, Labels | None]:
        free = free_labels(self.query, count, self.seed, first, codes)
        wanted = wanted_labels(self.query, count, free).part(source.schema).to(device)
        seeds = sample_seeds(count, self.seed, first).to(device)
        starts = self.generator.mapping(self.generator.prior(count, self.seed, first, device)) if source.space == "w" else None
        sample = source.sample(wanted, seeds, starts)
        images = self._made(lambda: to_bytes(sample.z) if source.space == "x" else self.generator.pictures(sample.z), device)
        return sample, images, free
