"""One starting point at several temperatures: how an attribute grows as τ falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MeanMetric

from ..artifacts import Cache
from ..classifiers import AttributeClassifier
from ..energies import build
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..metrics import frechet_distance
from ..metrics.feature_space import FeatureSpace
from ..pictures.convert import downscale
from ..pictures.grids import labelled_grid
from ..query import Query
from ..samplers import Sampler
from .evaluation import Evaluation, LatentEvaluation
from .sampling import ConditionalSampling, EnergyOptions


class TemperatureStrips(LatentEvaluation):
    """Sample the query from the same starting points at every one of `temperatures` (the logits' divisor τ), and
    measure.

    `tau<τ>/probability` is what the judge gives the query, on average; `tau<τ>/holds`, `tau<τ>/<distance>`,
    `tau<τ>/evaluations`; `acc`, `evaluations` and the distance without prefix are those of the last temperature.
    `strips` people go into the picture, one row each, one column a temperature, the judge's probability under each
    picture.
    """

    def __init__(
        self,
        generator: Generator,
        judge: Labeler,
        sampler: Sampler,
        query: Query,
        options: EnergyOptions,
        temperatures: Sequence[float],
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        num_samples: int = 1000,
        batch_size: int = 250,
        seed: int = 1,
        strips: int = 6,
        progress: bool = True,
    ) -> None:
        super().__init__(generator, judge, sampler, feature_space, cache, num_samples, batch_size, seed, progress)
        if query.free:
            raise LaceError(
                f"Strips over temperatures ask every picture for the same, and '{query}' leaves "
                f"{', '.join(query.free)} free: "
                "give a value."
            )
        if not temperatures or not all(tau > 0 for tau in temperatures):
            raise LaceError(f"task.temperatures must be at least one number above 0, received {list(temperatures)}.")
        self.query, self.options, self.temperatures, self.strips = query, options, list(temperatures), strips

    def measure(self, classifier: AttributeClassifier, device: torch.device, rank: int, world_size: int) -> Evaluation:
        part = classifier.part(self.query.attributes)
        levels = [_Level(self, tau, device) for tau in self.temperatures]
        for first, count in self._batches(rank, world_size, "temperatures"):
            for level in levels:
                sample, images, _ = level.sampling.draw(part, first, count, device)
                features, logits = self._judge(images)
                probability = self._probability(logits)
                level.probability.update(probability)
                level.holds.update(self.query.holds(self.judge.schema.decode(logits)))
                if level.quality is not None:
                    level.quality.update(features)
                level.evaluations += sample.evaluations * count
                level.seconds += sample.seconds
                if first < self.strips:
                    level.shown.append(
                        (downscale(images[: self.strips - first]).cpu(), probability[: self.strips - first].cpu())
                    )
        share, space = max(self._share(rank, world_size), 1), self.feature_space
        metrics: dict[str, float] = {}
        for level in levels:
            figures = {
                "probability": float(level.probability.compute()),
                "holds": float(level.holds.compute()),
                "evaluations": level.evaluations / share,
                "seconds/sampling_per_64": level.seconds * 64 / share,
            }
            if space is not None and level.quality is not None:
                figures[space.name(self.num_samples)] = frechet_distance(level.quality.compute(), space.reference)
            metrics |= {f"tau{level.tau:g}/{name}": value for name, value in figures.items()}
        if space is not None:
            figures[f"{space.name(self.num_samples)}/unconditional"] = self._unconditional(rank, world_size, device)
        protocol = {
            "query": self.query.text,
            "energy": vars(self.options),
            "temperatures": self.temperatures,
            **self._common_protocol(classifier, device),
        }
        return Evaluation({"acc": figures["holds"], **figures, **metrics}, protocol, self._strips(levels))

    def _probability(self, logits: Tensor) -> Tensor:
        """Return the probability (B,) that the judge gives the query."""
        return (-build(self.query)(logits)).exp()

    def _strips(self, levels: Sequence[_Level]) -> Image.Image | None:
        if not levels[0].shown:
            return None
        images, probabilities = (
            torch.stack([torch.cat([part[k] for part in level.shown]) for level in levels], 1) for k in (0, 1)
        )
        captions = [[f"{value:.2f}" for value in row] for row in probabilities.tolist()]
        return labelled_grid(
            list(images),
            [""] * len(images),
            f"{self.query}: the judge's probability",
            max(1, 96 // images.shape[-1]),
            [f"tau {level.tau:g}" for level in levels],
            captions,
        )


class _Level:
    """What is summed up for one temperature."""

    def __init__(self, owner: TemperatureStrips, tau: float, device: torch.device) -> None:
        self.tau = tau
        options = replace(owner.options, temperature=tau)
        self.sampling = ConditionalSampling(
            owner.generator, owner.judge, owner.sampler, owner.query, options, seed=owner.seed
        )
        self.probability, self.holds = MeanMetric().to(device), MeanMetric().to(device)
        self.quality = owner.statistics(device)
        self.evaluations = self.seconds = 0.0
        self.shown: list[tuple[Tensor, Tensor]] = []
