"""Sampling by a query at test time, whatever it is that samples: ACC, Fréchet distance, cost, pictures."""

from __future__ import annotations

import statistics as stats
from collections.abc import Callable
from itertools import islice, product
from math import prod
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..artifacts import Cache, digest, load_tensors, save_tensors
from ..generators import Generator
from ..labelers import Labeler
from ..metrics import BranchShares, ConditionalAccuracy, frechet_distance
from ..metrics.feature_space import FeatureSpace
from ..pictures.convert import downscale, float_batches
from ..pictures.grids import labelled_grid
from ..query import Query
from ..samplers import Sample
from ..schema import KINDS, Labels
from ..targets import wanted_labels
from .evaluation import Evaluation, LatentEvaluation


class QuerySampling(LatentEvaluation):
    """Draw pictures that satisfy a query, and measure them; runs at the end of a test epoch. Subclasses give `draw`.

    `pictures_per_class` columns go into the grid. The unconditional generator is measured on the same starting points,
    if it is `compared`. Free attributes are balanced or uniform for ACC; the Fréchet distance is measured on the same
    samples, or, with `distance_codes="pairs"`, on as many others whose attributes come from the labels of the pairs,
    which are in `pairs`. `prior/holds` is how often the query holds for the same starting points alone; for a
    disjunction, both have the shares of its sides.
    """

    pairs: Labels | None = None
    # Whether the generator alone stands beside what is drawn.
    compared = True
    rows_of_grid = 20

    def __init__(
        self,
        generator: Generator,
        judge: Labeler,
        sampler: Any,
        query: Query,
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        num_samples: int = 10_000,
        batch_size: int = 500,
        seed: int = 1,
        pictures_per_class: int = 10,
        timing_repeats: int = 3,
        timing_batch: int = 64,
        distance_codes: str = "same",
        progress: bool = True,
    ) -> None:
        super().__init__(generator, judge, sampler, feature_space, cache, num_samples, batch_size, seed, progress)
        self.query, self.distance_codes = query, distance_codes
        self.pictures_per_class, self.timing_repeats, self.timing_batch = (
            pictures_per_class,
            timing_repeats,
            timing_batch,
        )
        self.synthesis_seconds = 0.0

    def draw(
        self, source: Any, first: int, count: int, device: torch.device, codes: Labels | None = None
    ) -> tuple[Sample, Tensor, Labels | None]:
        """Return points, pictures (uint8) and free conditions (from `codes`, if given) of samples first .. first +
        count - 1.
        """
        raise NotImplementedError

    def _made(self, make: Callable[[], Tensor], device: torch.device) -> Tensor:
        """Return the pictures that `make` makes, and keep the time that it took."""
        start = perf_counter()
        with torch.no_grad():
            images = make()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.synthesis_seconds = perf_counter() - start
        return images

    def prepare(self, source: Any, device: torch.device) -> Any:
        """Return what draws, of what the test was given, before the first sample."""
        return source

    def observe(
        self, source: Any, first: int, count: int, sample: Sample, free: Labels | None, device: torch.device
    ) -> None:
        """Look at a batch of samples."""

    def observed(self, source: Any, device: torch.device) -> tuple[dict[str, float], dict[str, Any]]:
        """Return figures, and what belongs into the protocol, of what was observed."""
        return {}, {}

    def measure(self, source: Any, device: torch.device, rank: int, world_size: int) -> Evaluation:
        accuracy = ConditionalAccuracy(self.query.schema).to(device)
        branches, quality = BranchShares(self.query).to(device), self.statistics(device)
        own_codes = self.pairs if self.distance_codes == "pairs" and self.query.free else None
        cost = {"evaluations": 0.0, "sampling": 0.0, "synthesis": 0.0}
        kept: list[tuple[Tensor, Labels | None]] = []
        drawn = self.prepare(source, device)
        for first, count in self._batches(rank, world_size, "sampling"):
            sample, images, free = self.draw(drawn, first, count, device)
            self.observe(drawn, first, count, sample, free, device)
            features, logits = self._judge(images)
            judged = self.query.schema.decode(logits)
            accuracy.update(judged, wanted_labels(self.query, count, free), self.query.holds(judged, free))
            branches.update(judged, free)
            if quality is not None and own_codes is None:
                quality.update(features)
            cost["evaluations"] += sample.evaluations * count
            cost["sampling"] += sample.seconds
            cost["synthesis"] += self.synthesis_seconds
            if first < self._shown():
                kept.append((downscale(images).cpu(), free))
        if quality is not None and own_codes is not None:
            for first, count in self._batches(rank, world_size, "sampling for the distance"):
                images = self.draw(drawn, first, count, device, own_codes)[1]
                quality.update(self._judge(images)[0])
        share = self._share(rank, world_size)
        metrics = {**accuracy.compute(), **branches.compute(), **self._prior(device)}
        metrics["evaluations"] = cost["evaluations"] / max(share, 1)
        if self.feature_space and quality is not None:
            name = self.feature_space.name(self.num_samples)
            metrics[name] = frechet_distance(quality.compute(), self.feature_space.reference)
            if self.compared:
                metrics[f"{name}/unconditional"] = self._unconditional(rank, world_size, device)
        figures, also = self.observed(drawn, device)
        metrics |= figures
        metrics |= self._timing(drawn, device, cost, share)
        return Evaluation(metrics, {**self.protocol(source, device), **also}, self._grid(kept) if kept else None)

    def protocol(self, source: Any, device: torch.device) -> dict[str, Any]:
        """Return what the figures were measured on and with."""
        return {
            "query": self.query.text,
            "distance_codes": self.distance_codes,
            **self._common_protocol(source, device),
        }

    def _prior(self, device: torch.device) -> dict[str, float]:
        """Return how often the query holds for the pictures of the starting points, as the judge sees them."""
        if self.query.free or not self.compared:
            return {}
        labels, branches = self._judged_prior(device), BranchShares(self.query)
        branches.update(labels)
        shares = {f"prior/{name}": share for name, share in branches.compute().items()}
        return {"prior/holds": float(self.query.holds(labels).double().mean()), **shares}

    def _judged_prior(self, device: torch.device) -> Labels:
        """Return what the judge sees without any query; looked at once for all queries."""
        key = digest(
            {
                "generator": self.generator.digest,
                "judge": self.judge.digest,
                "count": self.num_samples,
                "seed": self.seed,
            }
        )
        path = None if self.cache is None else self.cache.folder("prior", key) / "labels.safetensors"
        if path is not None and path.is_file():
            return Labels(self.judge.schema, load_tensors(path)[0]["values"])
        with torch.no_grad():
            labels = Labels.cat(
                self.judge.labels(part).to("cpu")
                for images in self._unconditional_pictures(0, 1, device)
                for part in float_batches(images)
            )
        if path is not None:
            save_tensors(path, {"values": labels.values}, {})
        return labels

    def _shown(self) -> int:
        """Return how many of the first samples the picture needs."""
        classes = [
            self.query.schema[name].num_classes
            for name in self.query.free
            if self.query.schema[name].kind == "discrete"
        ]
        return self.pictures_per_class * (min(prod(classes), 200) if classes else 8)

    def _timing(self, source: Any, device: torch.device, cost: dict[str, float], share: int) -> dict[str, float]:
        """Seconds per 64 samples: over the whole run, and the median of a few repeats with batches of 64."""
        scale = 64 / max(share, 1)
        result = {
            "seconds/sampling_per_64": cost["sampling"] * scale,
            "seconds/synthesis_per_64": cost["synthesis"] * scale,
        }
        if self.timing_repeats > 0:
            runs = []
            for repeat in range(self.timing_repeats + 1):
                sample, _, _ = self.draw(source, 0, self.timing_batch, device)
                runs.append((sample.seconds, self.synthesis_seconds))
                if repeat == 0:
                    runs.clear()  # the first one warms up
            result["seconds/sampling_batch_64"] = stats.median(r[0] for r in runs) * 64 / self.timing_batch
            result["seconds/synthesis_batch_64"] = stats.median(r[1] for r in runs) * 64 / self.timing_batch
        return result

    def _grid(self, kept: list[tuple[Tensor, Labels | None]]) -> Image.Image:
        """Draw a row for every combination of free classes, in it pictures in the order of the first free continuous
        value.
        """
        images = torch.cat([part for part, _ in kept])
        title = f"{self.query.text}   {type(self.sampler).__name__}"
        free = Labels.cat(
            Labels.constant(self.query.schema, len(part)) if codes is None else codes for part, codes in kept
        )
        attributes = [self.query.schema[name] for name in self.query.free]
        discrete, values = ([a for a in attributes if a.kind == kind] for kind in KINDS)
        rows, labels, captions = [], [], []
        for combination in islice(product(*(range(a.num_classes) for a in discrete)), self.rows_of_grid):
            chosen = torch.ones(len(images), dtype=torch.bool)
            for attribute, number in zip(discrete, combination, strict=True):
                chosen &= free.column(attribute.name) == number
            index = (
                chosen.nonzero()[: self.pictures_per_class, 0]
                if discrete
                else torch.arange(len(images))[: 8 * self.pictures_per_class]
            )
            if not len(index):  # fewer samples than combinations
                continue
            if values:
                index = index[free.column(values[0].name)[index].argsort()]
            for part in index.split(self.pictures_per_class):
                rows.append(images[part])
                labels.append(", ".join(a.describe(number) for a, number in zip(discrete, combination, strict=True)))
                captions.append(
                    [" ".join(a.describe(float(free.column(a.name)[i])) for a in values) for i in part.tolist()]
                )
        return labelled_grid(rows, labels, title, captions=captions if values else ())
