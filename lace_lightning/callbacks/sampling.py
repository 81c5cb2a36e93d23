"""Sampling of a query at test time: ACC, Fréchet distance, cost, diagnostics, pictures."""

from __future__ import annotations

import statistics as stats
from itertools import islice, product
from math import prod
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..artifacts import load_tensors, save_tensors
from ..cache import Cache
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..metrics import BranchShares, ConditionalAccuracy, frechet_distance, judged_labels
from ..metrics.base import MeasuredBatch, collect_figures
from ..metrics.feature_space import FeatureSpace
from ..pictures.convert import downscale, float_batches
from ..pictures.grids import labelled_grid, to_picture
from ..query import Query
from ..schema import KINDS, Labels
from ..source import identity_of
from ..systems.base import Drawn, SamplingPlan, System
from ..systems.handover import Piece, Row, caption_of, sample_table, write_pieces
from ..targets import free_labels, wanted_labels
from .evaluation import NOBODY, Evaluation, ResultTable, SystemEvaluation, announce, with_disagreement


class ConditionalSampling(SystemEvaluation):
    """Draw pictures that satisfy a query with a system, and measure them at the end of a test epoch.

    The generator alone is measured on the same starting points where the system is compared with it. Free attributes
    are balanced or uniform for ACC. The Fréchet distance is measured on the same samples, or, with
    `distance_codes="pairs"`, on as many others whose free attributes are those of rows of `pairs`. `prior/holds` is the
    share of the starting points' pictures for which the query holds. For a disjunction the shares of its sides are
    added to both.

    Args:
        judge: the network that measures.
        query: the condition.
        feature_space: features and reference of the Fréchet distance; None leaves it out.
        cache: cache of the measurement of the generator alone; None for none.
        pictures_per_class: columns of the grid, at least 1.
        timing_repeats: repeats of a timing with batches of `timing_batch`, at least 0.
        timing_batch: samples of a timing, at least 1.
        distance_codes: free attributes of the samples of the Fréchet distance: same or pairs.
        posterior_sets: sets of exact samples that latents are measured against, 2 or more; fewer for none.
        settings: `num_samples`, `batch_size`, `seed`, `progress` and `metrics`, see `SystemEvaluation`.

    References:
        ACC and FID of LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> lace = tiny_lace()
        >>> judge = tiny_labeler()
        >>> query = parse("hat == *", schema)
        >>> sampling = ConditionalSampling(judge, query, num_samples=4, batch_size=2, timing_repeats=0, progress=False)
        >>> result = sampling.evaluate(lace)
        >>> 0 <= result.metrics["acc"] <= 1, result.protocol["query"]
        (True, 'hat == *')
    """

    pairs: Labels | None = None
    rows_of_grid = 20

    def __init__(
        self,
        judge: Labeler,
        query: Query,
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        pictures_per_class: int = 10,
        timing_repeats: int = 3,
        timing_batch: int = 64,
        distance_codes: str = "same",
        posterior_sets: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(judge, feature_space, cache, **settings)
        self.query, self.distance_codes, self.posterior_sets = query, distance_codes, posterior_sets
        self.pictures_per_class, self.timing_repeats, self.timing_batch = (
            pictures_per_class,
            timing_repeats,
            timing_batch,
        )

    def use_labels(self, labels: Labels | None) -> None:
        """Store the labels of the pairs, from which `distance_codes="pairs"` takes free attributes."""
        self.pairs = labels

    def check(self, system: System) -> None:
        """Refuse a query that the system cannot draw.

        Raises:
            LaceError: for such a query.
        """
        self.query.on(system.schema)
        system.check_query(self.query)

    def draw(
        self, system: System, first: int, count: int, device: torch.device, codes: Labels | None = None
    ) -> tuple[Drawn, Tensor, Labels | None]:
        """Return one batch of samples: the drawn pictures, the starting points and the values of free attributes.

        Args:
            system: the system.
            first: number of the first sample.
            count: number of samples.
            device: device of the samples.
            codes: labels from which free attributes are taken; None for balanced or uniform values.
        """
        free = free_labels(self.query, count, self.seed, first, codes)
        z = system.generator.prior(count, self.seed, first, device)
        seeds = sample_seeds(count, self.seed, first).to(device)
        return system.draw(self.query, z, seeds, free), z, free

    def plan(self) -> SamplingPlan:
        """Return the samples of all processes."""
        starts = range(0, self.num_samples, self.batch_size)
        batches = [(first, min(self.batch_size, self.num_samples - first)) for first in starts]
        return SamplingPlan(batches, self.seed, self.posterior_sets, self.cache)

    def measure(self, system: System, device: torch.device, rank: int, world_size: int) -> Evaluation:
        is_blind = self.role == NOBODY
        accuracy = ConditionalAccuracy(self.query.schema).to(device)
        branches, quality = BranchShares(self.query).to(device), self.statistics(device)
        own_codes = self.pairs if self.distance_codes == "pairs" and self.query.free else None
        cost = {"evaluations": 0.0, "sampling": 0.0, "synthesis": 0.0}
        kept: list[tuple[Tensor, Labels | None]] = []
        rows: list[Row] = []
        self.prepare(system, device)
        announce(system)
        observer = system.observer(self.query, self.plan())
        for first, count in self._batches(rank, world_size, f"sampling ({system.title})"):
            drawn, z, free = self.draw(system, first, count, device)
            if observer is not None:
                observer.update(z, drawn.sample, free)
            features, logits = self._judge(drawn.images)
            judged, wanted = judged_labels(self.query.schema, logits), wanted_labels(self.query, count, free)
            holds = self.query.holds(judged, free)
            if not is_blind:
                accuracy.update(judged, wanted, holds)
                branches.update(judged, free)
            for metric in self.metrics:
                metric.update(
                    MeasuredBatch(
                        images=drawn.images,
                        judged=judged,
                        query=self.query,
                        wanted=wanted,
                        holds=holds,
                        logits=logits,
                        features=features,
                        free=free,
                        latents=drawn.sample.z,
                    )
                )
            if quality is not None and own_codes is None:
                quality.update(features)
            if self.kept is not None and first < self.kept.count:
                self._keep(system, first, drawn, judged, free)
            if first < self.table:
                rows += self._rows(system, first, drawn, judged, free)
            cost["evaluations"] += drawn.sample.evaluations * count
            cost["sampling"] += drawn.sample.seconds
            cost["synthesis"] += drawn.synthesis_seconds
            if first < self._shown():
                kept.append((downscale(drawn.images).cpu(), free))
        if quality is not None and own_codes is not None:
            for first, count in self._batches(rank, world_size, "sampling for the distance"):
                quality.update(self._judge(self.draw(system, first, count, device, own_codes)[0].images)[0])
        share = self._share(rank, world_size)
        metrics: dict[str, float] = {}
        if not is_blind:
            metrics = {**accuracy.compute(), **branches.compute(), **self._prior(system, device)}
        metrics["evaluations"] = cost["evaluations"] / max(share, 1)
        if self.feature_space and quality is not None:
            name = self.feature_space.name(self.num_samples)
            metrics[name] = frechet_distance(quality.compute(), self.feature_space.reference)
            if system.compared:
                metrics[f"{name}/unconditional"] = self._unconditional(system.generator, rank, world_size, device)
        figures, observed = observer.compute() if observer is not None else ({}, {})
        metrics |= figures
        metrics |= collect_figures(self.metrics, metrics)
        metrics |= self._timing(system, device, cost, share)
        grid = self._grid(system, kept) if kept else None
        tables = {"samples": ResultTable.of(rows)} if rows else {}
        return Evaluation(metrics, {**self.protocol(system, device), **observed}, grid, tables=tables)

    def _rows(self, system: System, first: int, drawn: Drawn, judged: Labels, free: Labels | None) -> list[Row]:
        """Return the rows of the loggers' table: picture, `sample_table`, and whether the judge disagrees."""
        count = min(len(drawn.images), self.table - first)
        part, sample = slice(count), drawn.sample.rows(slice(count))
        own = None if free is None else free[part]
        labels = None if self.role == NOBODY else judged[part]
        seeds, probability = range(first, first + count), system.probability(self.query, sample, own)
        table = sample_table(self.query, seeds, sample, labels, own, probability, self.role)
        pictures = downscale(drawn.images[part]).cpu()
        return with_disagreement(
            [{"picture": to_picture(picture), **row} for picture, row in zip(pictures, table, strict=True)]
        )

    def kept_as(self) -> dict[str, Any]:
        return {"title": self.query.text, "caption": caption_of(self.query)}

    def _keep(self, system: System, first: int, drawn: Drawn, judged: Labels, free: Labels | None) -> None:
        """Write those samples of a batch that are kept as files."""
        assert self.kept is not None
        piece = Piece(first, first, min(len(drawn.images), self.kept.count - first))

        def seen(rows: slice) -> Labels | None:
            return None if self.role == NOBODY else judged[rows]

        write_pieces(self.kept, system, self.query, drawn, first, [piece], seen, free, self.role)

    def prepare(self, system: System, device: torch.device) -> None:
        """Give the first batch to the system, which measures settings of its sampler on it."""
        count = min(self.batch_size, self.num_samples)
        free = free_labels(self.query, count, self.seed)
        system.prepare(self.query, system.generator.prior(count, self.seed, 0, device), free)

    def protocol(self, system: System, device: torch.device) -> dict[str, Any]:
        """Return the settings behind the figures, for the record."""
        return {
            "query": self.query.text,
            "distance_codes": self.distance_codes,
            **self._common_protocol(system, device),
            **system.protocol(self.query),
        }

    def _prior(self, system: System, device: torch.device) -> dict[str, float]:
        """Return the shares of the starting points' pictures for which the judge sees the query."""
        if self.query.free or not system.compared:
            return {}
        labels, branches = self._judged_prior(system.generator, device), BranchShares(self.query)
        branches.update(labels)
        shares = {f"prior/{name}": share for name, share in branches.compute().items()}
        return {"prior/holds": float(self.query.holds(labels).double().mean()), **shares}

    def _judged_prior(self, generator: Generator, device: torch.device) -> Labels:
        """Return what the judge sees without any query; looked at once for all queries."""
        identity = {
            "generator": identity_of(generator),
            "judge": identity_of(self.judge),
            "count": self.num_samples,
            "seed": self.seed,
            "recipe": 2,
        }

        def judged() -> Labels:
            with torch.no_grad():
                return Labels.cat(
                    self.judge.labels(part).to("cpu")
                    for images in self._unconditional_pictures(generator, 0, 1, device)
                    for part in float_batches(images)
                )

        if self.cache is None:
            return judged()
        entry = self.cache.entry("prior", identity)
        path = entry.file(
            "labels.safetensors",
            lambda path: save_tensors(path, {"values": judged().values}, {}),
            "labels of the prior",
        )
        return Labels(self.judge.schema, load_tensors(path)[0]["values"])

    def _shown(self) -> int:
        """Return the number of first samples that the picture needs."""
        classes = [
            self.query.schema[name].num_classes
            for name in self.query.free
            if self.query.schema[name].kind == "discrete"
        ]
        return self.pictures_per_class * (min(prod(classes), 200) if classes else 8)

    def _timing(self, system: System, device: torch.device, cost: dict[str, float], share: int) -> dict[str, float]:
        """Return seconds per 64 samples: of the whole run, and the median of repeats with `timing_batch` samples."""
        scale = 64 / max(share, 1)
        result = {
            "seconds/sampling_per_64": cost["sampling"] * scale,
            "seconds/synthesis_per_64": cost["synthesis"] * scale,
        }
        if self.timing_repeats > 0:
            # The first repeat warms up.
            runs = [self.draw(system, 0, self.timing_batch, device)[0] for _ in range(self.timing_repeats + 1)][1:]
            scale = 64 / self.timing_batch
            result["seconds/sampling_batch_64"] = stats.median(run.sample.seconds for run in runs) * scale
            result["seconds/synthesis_batch_64"] = stats.median(run.synthesis_seconds for run in runs) * scale
        return result

    def _grid(self, system: System, kept: list[tuple[Tensor, Labels | None]]) -> Image.Image:
        """Draw a row of pictures for every combination of free classes.

        Pictures of a row are in the order of the first free continuous value.
        """
        images = torch.cat([part for part, _ in kept])
        title = f"{self.query.text}   {system.title}"
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
                    ["\n".join(a.describe(float(free.column(a.name)[i])) for a in values) for i in part.tolist()]
                )
        return labelled_grid(rows, labels, title, captions=captions if values else ())
