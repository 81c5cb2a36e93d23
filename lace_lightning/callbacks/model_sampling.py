"""Sampling of conditional models at test time, measured as latent classifiers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..pictures.convert import to_bytes
from ..query import Query
from ..samplers import Sample
from ..schema import Labels
from ..systems.base import ConditionalModel
from ..targets import free_labels
from .query_sampling import QuerySampling


class ModelSampling(QuerySampling):
    """Let a conditional model draw what a query asks for, and measure it (`QuerySampling`).

    Models of w begin at g(z) of the generator's own starting points, and the generator makes the pictures; models of
    pictures have their own. `logic` is how models with an energy for every query compose it. Raises LaceError for a
    query that the model does not take.
    """

    def __init__(
        self,
        generator: Generator,
        judge: Labeler,
        model: ConditionalModel,
        query: Query,
        *arguments: Any,
        logic: str = "exact",
        **settings: Any,
    ) -> None:
        super().__init__(generator, judge, model, query, *arguments, **settings)
        self.compared, self.logic = model.space != "x", logic
        model.check_query(query)
        if not query.is_conjunction:
            # Once before the model is trained, so that what it has no energy for shows now.
            free = free_labels(query, 1, self.seed)
            model.energy(query.on(model.schema), None if free is None else free.part(model.schema), logic=logic)

    def protocol(self, source: ConditionalModel, device: torch.device) -> dict[str, Any]:
        return {**super().protocol(source, device), **({} if self.query.is_conjunction else {"logic": self.logic})}

    def draw(
        self, source: ConditionalModel, first: int, count: int, device: torch.device, codes: Labels | None = None
    ) -> tuple[Sample, Tensor, Labels | None]:
        free = free_labels(self.query, count, self.seed, first, codes)
        seeds = sample_seeds(count, self.seed, first).to(device)
        starts = (
            self.generator.mapping(self.generator.prior(count, self.seed, first, device))
            if source.space == "w"
            else None
        )
        sample = source.sample_query(self.query, seeds, free, self.logic, starts)
        images = self._made(
            lambda: to_bytes(sample.z) if source.space == "x" else self.generator.pictures(sample.z), device
        )
        return sample, images, free
