"""Sampling of one query from the same starting points at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MeanMetric

from ..cache import Cache
from ..energies import build
from ..errors import LaceError
from ..generators import sample_seeds
from ..labelers import Labeler
from ..loggers.series import TEMPERATURE
from ..metrics import frechet_distance, judged_labels
from ..metrics.feature_space import FeatureSpace
from ..pictures.convert import downscale
from ..pictures.grids import labelled_grid
from ..query import Query
from ..systems.base import Drawn, System
from ..systems.handover import Step, sample_table, write_steps
from .evaluation import Evaluation, SystemEvaluation


class TemperatureStrips(SystemEvaluation):
    """Sample a query from the same starting points at several temperatures (the logits' divisor τ), and measure each.

    Figures of a temperature: `tau<τ>/probability`, the mean probability that the judge gives the query; `tau<τ>/holds`;
    `tau<τ>/<distance>`, the Fréchet distance; `tau<τ>/evaluations`. `acc`, `evaluations` and the distance without
    prefix are those of the last temperature.

    Args:
        judge: the network that measures.
        query: the condition, with a value for every attribute.
        temperatures: values of τ, each above 0.
        feature_space: features and reference of the Fréchet distance; None leaves it out.
        cache: cache of the measurement of the generator alone; None for none.
        strips: number of samples in the picture, at least 1: a row for each, and a column for each temperature.
        settings: `num_samples`, `batch_size`, `seed`, `progress` and `metrics`, see `SystemEvaluation`.

    Raises:
        LaceError: for a query with free attributes, and for temperatures that are not above 0.

    References:
        Temperatures of discrete attributes in LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> lace = tiny_lace()
        >>> judge = tiny_labeler()
        >>> query = parse("hat == 1", schema)
        >>> strips = TemperatureStrips(judge, query, [0.5, 2.0], num_samples=2, batch_size=2, progress=False)
        >>> result = strips.evaluate(lace)
        >>> {"tau0.5/probability", "tau2/probability"} <= set(result.metrics)
        True
    """

    def __init__(
        self,
        judge: Labeler,
        query: Query,
        temperatures: Sequence[float],
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        strips: int = 6,
        **settings: Any,
    ) -> None:
        super().__init__(judge, feature_space, cache, **settings)
        if query.free:
            raise LaceError(
                f"Strips over temperatures need one value of every attribute, and '{query}' leaves "
                f"{', '.join(query.free)} free: give a value."
            )
        if not temperatures or not all(tau > 0 for tau in temperatures):
            raise LaceError(
                f"task.temperatures must be one or more numbers above 0, received {list(temperatures)}: for example "
                "[0.5, 1, 2]."
            )
        self.query, self.temperatures, self.strips = query, list(temperatures), strips

    def check(self, system: System) -> None:
        """Refuse a system without temperatures, and a query that the system cannot draw.

        Raises:
            LaceError: for such a system or query.
        """
        self.query.on(system.schema)
        system.with_temperature(1.0).check_query(self.query)

    def measure(self, system: System, device: torch.device, rank: int, world_size: int) -> Evaluation:
        levels = [_Level(self, system, tau, device) for tau in self.temperatures]
        for first, count in self._batches(rank, world_size, f"temperatures ({system.title})"):
            z = system.generator.prior(count, self.seed, first, device)
            seeds = sample_seeds(count, self.seed, first).to(device)
            made = []
            for level in levels:
                drawn = level.system.draw(self.query, z, seeds)
                features, logits = self._judge(drawn.images)
                probability = self._probability(logits)
                level.probability.update(probability)
                level.holds.update(self.query.holds(self.judge.schema.decode(logits)))
                if self.kept is not None and first < self.kept.count:
                    made.append(self._step(level, first, drawn, logits))
                if level.quality is not None:
                    level.quality.update(features)
                level.evaluations += drawn.sample.evaluations * count
                level.seconds += drawn.sample.seconds
                if first < self.strips:
                    rows = slice(self.strips - first)
                    level.kept.append((downscale(drawn.images[rows]).cpu(), probability[rows].cpu()))
            if self.kept is not None and made:
                write_steps(self.kept, first, made)
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
            figures[f"{space.name(self.num_samples)}/unconditional"] = self._unconditional(
                system.generator, rank, world_size, device
            )
        protocol = {
            "query": self.query.text,
            "temperatures": self.temperatures,
            **self._common_protocol(system, device),
            **system.protocol(self.query),
        }
        series = [
            {
                "step": number,
                "tau": level.tau,
                **{n: metrics[f"tau{level.tau:g}/{n}"] for n in ("probability", "holds")},
            }
            for number, level in enumerate(levels)
        ]
        figures = {"acc": figures["holds"], **figures, **metrics}
        return Evaluation(figures, protocol, self._strips(levels), series={TEMPERATURE: series})

    def kept_as(self) -> dict[str, Any]:
        return {"title": self.query.text, "steps": [f"tau {tau:g}" for tau in self.temperatures]}

    def _step(self, level: _Level, first: int, drawn: Drawn, logits: Tensor) -> Step:
        """Return what is kept of a batch at a temperature."""
        judged, probability = (
            judged_labels(self.query.schema, logits),
            level.system.probability(self.query, drawn.sample),
        )
        seeds = range(first, first + len(drawn.images))
        table = sample_table(self.query, seeds, drawn.sample, judged, None, probability, self.role)
        latents = level.system.latents_of(drawn.sample)
        return Step(drawn.images, latents, [{"seed": row["seed"], "temperature": level.tau, **row} for row in table])

    def _probability(self, logits: Tensor) -> Tensor:
        """Return the probability (B,) that the judge gives the query."""
        result: Tensor = (-build(self.query)(logits)).exp()
        return result

    def _strips(self, levels: Sequence[_Level]) -> Image.Image | None:
        if not levels[0].kept:
            return None
        images, probabilities = (
            torch.stack([torch.cat([part[k] for part in level.kept]) for level in levels], 1) for k in (0, 1)
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
    """Sums of one temperature."""

    def __init__(self, owner: TemperatureStrips, system: System, tau: float, device: torch.device) -> None:
        self.tau, self.system = tau, system.with_temperature(tau)
        self.probability, self.holds = MeanMetric().to(device), MeanMetric().to(device)
        self.quality = owner.statistics(device)
        self.evaluations = self.seconds = 0.0
        self.kept: list[tuple[Tensor, Tensor]] = []
