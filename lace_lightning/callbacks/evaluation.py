"""What evaluations at test time share: batches over processes, the judge, distances, loggers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..artifacts import Cache, digest
from ..generators import Generator
from ..labelers import Labeler
from ..metrics import FeatureStatistics, frechet_distance, load_statistics, save_statistics
from ..metrics.feature_space import FeatureSpace
from ..pictures.convert import float_batches
from ..systems.base import ConditionalModel


@dataclass
class Evaluation:
    """What was measured: `metrics` by name, the `protocol` behind them, the grid of pictures, and `frames` of a moving
    one.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    grid: Image.Image | None = None
    frames: list[Image.Image] = field(default_factory=list)


class LatentEvaluation(pl.Callback):
    """Make pictures with a latent classifier or a conditional model at the end of a test epoch, and measure them, into
    `evaluation`.

    Sample i depends on `seed` and i alone, batches are whole, and every process takes every n-th batch: the figures do
    not depend on the number of processes. Subclasses give `measure`.
    """

    def __init__(
        self,
        generator: Generator,
        judge: Labeler,
        sampler: Any,
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        num_samples: int = 10_000,
        batch_size: int = 500,
        seed: int = 1,
        progress: bool = True,
    ) -> None:
        self.generator, self.judge, self.sampler = generator, judge, sampler
        self.feature_space, self.cache = feature_space, cache
        self.num_samples, self.batch_size, self.seed, self.progress = num_samples, batch_size, seed, progress
        self.evaluation = Evaluation()

    def measure(self, source: Any, device: torch.device, rank: int, world_size: int) -> Evaluation:
        """Return the measurement; processes meet only when sums are added."""
        raise NotImplementedError

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A training of a classifier has it in there; a conditional model is what it is.
        source = pl_module if isinstance(pl_module, ConditionalModel) else pl_module.classifier
        self.evaluation = self.evaluate(source, trainer.global_rank, trainer.world_size)
        numbers = {f"sampling/{name}": value for name, value in self.evaluation.metrics.items()}
        pl_module.log_dict(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}, rank_zero_only=True
        )
        if trainer.is_global_zero:
            self._show(trainer)

    def evaluate(self, source: Any, rank: int = 0, world_size: int = 1) -> Evaluation:
        """Run the whole measurement for one classifier or model."""
        training = source.training
        source.eval()
        device = next(source.parameters()).device
        self.generator.to(device)
        self.judge.to(device)
        result = self.measure(source, device, rank, world_size)
        source.train(training)
        return result

    def statistics(self, device: torch.device) -> FeatureStatistics | None:
        """Return empty statistics for the Fréchet distance, None where it is not measured."""
        return self.feature_space.statistics().to(device) if self.feature_space else None

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = map(torch.cat, zip(*map(self.judge.features_and_logits, float_batches(images)), strict=True))
        if self.feature_space is not None and self.feature_space.key == "fid":
            features = self.feature_space.features(images)
        return features, logits

    def _batches(self, rank: int, world_size: int, what: str) -> Iterator[tuple[int, int]]:
        starts = range(0, self.num_samples, self.batch_size)[rank::world_size]
        bar = tqdm(
            starts,
            desc=f"{what} ({type(self.sampler).__name__})",
            unit="batch",
            disable=not self.progress or rank > 0,
            leave=False,
            mininterval=0.5,
        )
        for first in bar:
            yield first, min(self.batch_size, self.num_samples - first)

    def _share(self, rank: int, world_size: int) -> int:
        return sum(
            min(self.batch_size, self.num_samples - f)
            for f in range(0, self.num_samples, self.batch_size)[rank::world_size]
        )

    def _unconditional_pictures(self, rank: int, world_size: int, device: torch.device) -> Iterator[Tensor]:
        """Draw what the generator makes of the starting points themselves, uint8 batches."""
        for first, count in self._batches(rank, world_size, "the generator alone"):
            yield self.generator.pictures(self.generator.mapping(self.generator.prior(count, self.seed, first, device)))

    def _unconditional(self, rank: int, world_size: int, device: torch.device) -> float:
        """Measure the generator alone on the same number of samples, once for all samplers."""
        space = self.feature_space
        assert space is not None
        key = digest(
            {
                "generator": self.generator.digest,
                "protocol": space.protocol,
                "count": self.num_samples,
                "seed": self.seed,
            }
        )
        path = None if self.cache is None else self.cache.folder("unconditional", key) / "statistics.safetensors"
        if path is not None and path.is_file():
            return frechet_distance(load_statistics(path)[0], space.reference)
        statistics: FeatureStatistics = space.statistics().to(device)
        with torch.no_grad():
            for images in self._unconditional_pictures(rank, world_size, device):
                statistics.update(space.features(images))
        result = statistics.compute()
        if path is not None and rank == 0:
            save_statistics(path, {name: value.cpu() for name, value in result.items()}, space.protocol)
        return frechet_distance(result, space.reference)

    def described(self) -> str:
        """Return the sampler, or the model, and its settings in one line."""
        return self.sampler.described() if isinstance(self.sampler, ConditionalModel) else repr(self.sampler)

    def _common_protocol(self, source: Any, device: torch.device) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "sampler": self.described(),
            "space": source.space,
            "judge": self.judge.name,
            "judge_digest": self.judge.digest,
            "classifier": source.digest,
            "generator": self.generator.digest,
            "frechet": None
            if self.feature_space is None
            else {**self.feature_space.protocol, "samples": self.num_samples},
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads",
        }

    def _show(self, trainer: pl.Trainer) -> None:
        """Hand the grid and the table per class to every logger that takes them."""
        rows = [[name, value] for name, value in self.evaluation.metrics.items()]
        for logger in trainer.loggers:
            if hasattr(logger, "log_image") and self.evaluation.grid is not None:
                logger.log_image("samples", [self.evaluation.grid])
            if hasattr(logger, "log_table"):
                logger.log_table("results", columns=["metric", "value"], data=rows)
