"""Conditional sampling at test time: ACC, Fréchet distance, cost, pictures."""

from __future__ import annotations

import statistics as stats
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..artifacts import Cache, digest
from ..classifiers import AttributeClassifier
from ..data.conditions import free_labels, wanted_labels
from ..energies import Energy
from ..generators import Generator, sample_seeds
from ..labelers import Labeler
from ..metrics import ConditionalAccuracy, FeatureStatistics, frechet_distance, load_statistics, save_statistics
from ..query import Query
from ..samplers import Sample, Sampler
from ..schema import Labels
from .grids import labelled_grid
from .quality import FeatureSpace


@dataclass(frozen=True)
class EnergyOptions:
    """How a query becomes an energy: logic, σ of continuous attributes, temperature of discrete ones, weight γ."""

    logic: str = "exact"
    sigma: float = 0.1
    temperature: float = 1.0
    paper_temperature: bool = False
    weight: float = 1.0


@dataclass
class Evaluation:
    """What was measured: `metrics` by name, the `protocol` behind them, the grid of pictures."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    grid: Image.Image | None = None


class ConditionalSampling(pl.Callback):
    """Sample latents that satisfy a query, turn them into pictures, and measure them; runs at the end of a test epoch.

    Sample i depends on `seed` and i alone, batches are whole, and every process takes every n-th batch: the figures do not
    depend on the number of processes. `pictures_per_class` rows go into the grid. The unconditional generator is measured on
    the same starting points. The result is in `evaluation`.
    """

    def __init__(self, generator: Generator, judge: Labeler, sampler: Sampler, query: Query, options: EnergyOptions,
                 feature_space: FeatureSpace | None = None, cache: Cache | None = None, num_samples: int = 10_000,
                 batch_size: int = 500, seed: int = 1, pictures_per_class: int = 10, timing_repeats: int = 3, timing_batch: int = 64,
                 progress: bool = True) -> None:
        self.generator, self.judge, self.sampler, self.query, self.options = generator, judge, sampler, query, options
        self.feature_space, self.cache = feature_space, cache
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.pictures_per_class, self.timing_repeats, self.timing_batch = pictures_per_class, timing_repeats, timing_batch
        self.progress = progress
        self.evaluation = Evaluation()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        classifier = pl_module.classifier
        assert isinstance(classifier, AttributeClassifier)
        self.evaluation = self.evaluate(classifier, trainer.global_rank, trainer.world_size)
        numbers = {f"sampling/{name}": value for name, value in self.evaluation.metrics.items()}
        pl_module.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}, rank_zero_only=True)
        if trainer.is_global_zero:
            self._show(trainer)

    def evaluate(self, classifier: AttributeClassifier, rank: int = 0, world_size: int = 1) -> Evaluation:
        """Run the whole measurement for one classifier; processes meet only when sums are added."""
        training = classifier.training
        classifier.eval()
        device = next(classifier.parameters()).device
        self.generator.to(device)
        self.judge.to(device)
        accuracy = ConditionalAccuracy(self.query.schema).to(device)
        quality = self.feature_space.statistics().to(device) if self.feature_space else None
        cost = {"evaluations": 0.0, "sampling": 0.0, "synthesis": 0.0}
        kept: list[tuple[Tensor, Labels | None]] = []
        for first, count in self._batches(rank, world_size, "sampling"):
            sample, images, free = self.draw(classifier, first, count, device)
            features, logits = self._judge(images)
            judged = self.query.schema.decode(logits)
            accuracy.update(judged, wanted_labels(self.query, count, free), self.query.holds(judged, free))
            if quality is not None:
                quality.update(features)
            cost["evaluations"] += sample.evaluations * count
            cost["sampling"] += sample.seconds
            cost["synthesis"] += self.synthesis_seconds
            if first < self._shown():
                kept.append((images.cpu(), free))
        share = self._share(rank, world_size)
        metrics = accuracy.compute()
        metrics["evaluations"] = cost["evaluations"] / max(share, 1)
        if self.feature_space and quality is not None:
            metrics[self.feature_space.key] = frechet_distance(quality.compute(), self.feature_space.reference)
            metrics[f"{self.feature_space.key}/unconditional"] = self._unconditional(rank, world_size, device)
        metrics |= self._timing(classifier, device, cost, share)
        classifier.train(training)
        return Evaluation(metrics, self._protocol(classifier, device), self._grid(kept) if kept else None)

    def draw(self, classifier: AttributeClassifier, first: int, count: int, device: torch.device) -> tuple[Sample, Tensor, Labels | None]:
        """Return latents, pictures (uint8) and free conditions of samples first .. first + count - 1."""
        free = free_labels(self.query, count, self.seed, first)
        energy = self.energy(classifier, None if free is None else free.to(device))
        z = self.generator.prior(count, self.seed, first, device)
        sample = self.sampler(energy, z, seeds=sample_seeds(count, self.seed, first).to(device))
        start = perf_counter()
        with torch.no_grad():
            images = _bytes(self.generator(sample.z))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.synthesis_seconds = perf_counter() - start
        return sample, images, free

    def energy(self, classifier: AttributeClassifier, free: Labels | None) -> Energy:
        """Return the attribute energy on z."""
        o = self.options
        energy = classifier.energy(self.query, free, o.logic, o.sigma, o.temperature, o.paper_temperature)
        energy = energy if o.weight == 1 else o.weight * energy
        to_space = self.generator.map_to(classifier.space)
        return energy if to_space is None else energy.pullback(to_space)

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.judge.features_and_logits(images.float() / 127.5 - 1)
        if self.feature_space is not None and self.feature_space.key == "fid":
            features = self.feature_space.features(images)
        return features, logits

    def _batches(self, rank: int, world_size: int, what: str) -> Iterator[tuple[int, int]]:
        starts = range(0, self.num_samples, self.batch_size)[rank::world_size]
        bar = tqdm(starts, desc=f"{what} ({self.sampler.__class__.__name__})", unit="batch", disable=not self.progress or rank > 0,
                   leave=False, mininterval=0.5)
        for first in bar:
            yield first, min(self.batch_size, self.num_samples - first)

    def _share(self, rank: int, world_size: int) -> int:
        return sum(min(self.batch_size, self.num_samples - f) for f in range(0, self.num_samples, self.batch_size)[rank::world_size])

    def _shown(self) -> int:
        classes = 1
        for name in self.query.free:
            attribute = self.query.schema[name]
            classes *= attribute.num_classes if attribute.kind == "discrete" else 1
        return self.pictures_per_class * min(classes, 20) if self.query.free else 8 * self.pictures_per_class

    def _unconditional(self, rank: int, world_size: int, device: torch.device) -> float:
        """Measure the generator alone on the same number of samples, once for all samplers."""
        space = self.feature_space
        assert space is not None
        key = digest({"generator": self.generator.digest, "protocol": space.protocol, "count": self.num_samples, "seed": self.seed})
        path = None if self.cache is None else self.cache.folder("unconditional", key) / "statistics.safetensors"
        if path is not None and path.is_file():
            return frechet_distance(load_statistics(path)[0], space.reference)
        statistics: FeatureStatistics = space.statistics().to(device)
        with torch.no_grad():
            for first, count in self._batches(rank, world_size, "unconditional"):
                images = _bytes(self.generator(self.generator.prior(count, self.seed, first, device)))
                statistics.update(space.features(images))
        result = statistics.compute()
        if path is not None and rank == 0:
            save_statistics(path, {name: value.cpu() for name, value in result.items()}, space.protocol)
        return frechet_distance(result, space.reference)

    def _timing(self, classifier: AttributeClassifier, device: torch.device, cost: dict[str, float], share: int) -> dict[str, float]:
        """Seconds per 64 samples: over the whole run, and the median of a few repeats with batches of 64."""
        scale = 64 / max(share, 1)
        result = {"seconds/sampling_per_64": cost["sampling"] * scale, "seconds/synthesis_per_64": cost["synthesis"] * scale}
        if self.timing_repeats > 0:
            runs = []
            for repeat in range(self.timing_repeats + 1):
                sample, _, _ = self.draw(classifier, 0, self.timing_batch, device)
                runs.append((sample.seconds, self.synthesis_seconds))
                if repeat == 0:
                    runs.clear()  # the first one warms up
            result["seconds/sampling_batch_64"] = stats.median(r[0] for r in runs) * 64 / self.timing_batch
            result["seconds/synthesis_batch_64"] = stats.median(r[1] for r in runs) * 64 / self.timing_batch
        return result

    def _protocol(self, classifier: AttributeClassifier, device: torch.device) -> dict[str, Any]:
        labeler = {"judge": self.judge.name, "judge_digest": self.judge.digest}
        return {"query": self.query.text, "num_samples": self.num_samples, "seed": self.seed, "batch_size": self.batch_size,
                "sampler": repr(self.sampler), "energy": vars(self.options), "space": classifier.space, **labeler,
                "classifier": classifier.digest, "generator": self.generator.digest,
                "frechet": None if self.feature_space is None else self.feature_space.protocol,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"}

    def _grid(self, kept: list[tuple[Tensor, Labels | None]]) -> Image.Image:
        images = torch.cat([part for part, _ in kept])
        title = f"{self.query.text}   {type(self.sampler).__name__}"
        discrete = [name for name in self.query.free if self.query.schema[name].kind == "discrete"]
        if not discrete:
            shown = images[: 8 * self.pictures_per_class]
            return labelled_grid(list(shown.split(self.pictures_per_class)), [""] * len(shown.split(self.pictures_per_class)), title)
        attribute = self.query.schema[discrete[0]]
        values = torch.cat([free.column(attribute.name) for _, free in kept if free is not None])
        rows = [images[values == index][: self.pictures_per_class] for index in range(attribute.num_classes)]
        labels = [attribute.class_name(index) for index in range(attribute.num_classes)]
        shown_rows = [(row, label) for row, label in zip(rows, labels, strict=True) if len(row)]
        return labelled_grid([row for row, _ in shown_rows], [label for _, label in shown_rows], title)

    def _show(self, trainer: pl.Trainer) -> None:
        """Hand the grid and the table per class to every logger that takes them."""
        rows = [[name, value] for name, value in self.evaluation.metrics.items()]
        for logger in trainer.loggers:
            if hasattr(logger, "log_image") and self.evaluation.grid is not None:
                logger.log_image("samples", [self.evaluation.grid])
            if hasattr(logger, "log_table"):
                logger.log_table("results", columns=["metric", "value"], data=rows)


def _bytes(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()
