"""Base class of measurements at test time: batches over processes, the judge, Fréchet distances, loggers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from ..artifacts import remove_path
from ..cache import Cache
from ..data.processes import say, say_found
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..metrics import FeatureStatistics, frechet_distance, load_statistics, save_statistics
from ..metrics.base import PictureMetric
from ..metrics.feature_space import FeatureSpace
from ..pictures.convert import float_batches
from ..progress import steps
from ..schema import Labels
from ..source import identity_of
from ..systems.base import System
from ..systems.handover import SampleFolder


def agreed(choice: bool) -> bool:
    """Return the choice of the first process, in every process.

    Args:
        choice: the choice of this process.

    Example:
        >>> agreed(True)
        True
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return choice
    choices = [choice]
    torch.distributed.broadcast_object_list(choices)
    return choices[0]


@rank_zero_only
def announce(system: System) -> None:
    """Say what a system is going to sample and the ACC to expect, in one line on stderr of the first process.

    Args:
        system: the system, after `prepare`.

    Example:
        >>> from lace_lightning.examples import tiny_lace
        >>> announce(tiny_lace())
    """
    say_found()
    if system.outlook is not None:
        say(system.outlook.sentence)


# The role of a judge that knows no label.
NOBODY = "nobody"


@dataclass
class ResultTable:
    """A table for the loggers.

    Args:
        columns: names of the columns.
        rows: cells of each row: numbers, texts, truth values, None and PIL pictures.

    Example:
        >>> ResultTable.of([{"seed": 1, "p": 0.5}, {"seed": 2, "p": 0.7}]).columns
        ['seed', 'p']
    """

    columns: list[str]
    rows: list[list[Any]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> ResultTable:
        """Return the table of rows that all have the same keys."""
        return cls(list(rows[0]) if rows else [], [list(row.values()) for row in rows])


def with_disagreement(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with a column `disagrees` where they have `holds`: whether the judge sees no fulfilled query.

    Args:
        rows: rows of a table by column.

    Example:
        >>> with_disagreement([{"holds": True}, {"holds": None}])
        [{'holds': True, 'disagrees': False}, {'holds': None, 'disagrees': None}]
    """
    return [
        {**row, **({"disagrees": None if row["holds"] is None else not row["holds"]} if "holds" in row else {})}
        for row in rows
    ]


@dataclass
class Evaluation:
    """The result of a measurement.

    Args:
        metrics: figures by name.
        protocol: plain values that say how the figures were measured.
        grid: a grid of pictures, None for none.
        frames: frames of an animation, none by default.
        summary: text that is printed in place of a table of the figures; None for the table.
        tables: tables for the loggers by name.
        series: figures over steps by the name of the series; every row has `step`.

    Example:
        >>> Evaluation({"acc": 0.9}).metrics["acc"]
        0.9
    """

    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    grid: Image.Image | None = None
    frames: list[Image.Image] = field(default_factory=list)
    summary: str | None = None
    tables: dict[str, ResultTable] = field(default_factory=dict)
    series: dict[str, list[dict[str, float]]] = field(default_factory=dict)


class SystemEvaluation(pl.Callback):
    """Base class of callbacks that measure a system at the end of a test epoch; a subclass gives `measure`.

    The result is `evaluation`. Sample i depends on `seed` and i alone, and every process takes every n-th batch, so
    that the figures do not depend on the number of processes. The system is the module under test, bound to its
    generator.

    Args:
        judge: the network that measures, with other weights than the labeler.
        feature_space: features and reference of the Fréchet distance; None leaves it out.
        cache: cache of the measurement of the generator alone; None for none.
        num_samples: number of samples, at least 1.
        batch_size: samples a batch, at least 1.
        seed: the run's seed.
        progress: whether to show progress bars.
        metrics: further metrics of the pictures.
        keep: number of first samples that are also written as files, at least 0.
        folder: where these are written, a folder of their own that is replaced; None writes none.
        report: further plain values for their report.json.
        role: what the network that measures is in this run: judge, labeler where there is no judge, or
            nobody where it knows no label, so that no ACC is measured.
        table: number of first samples in the tables for loggers, at least 0.

    Attributes:
        needs_data: whether a system with given weights is tested on its data too.

    Example:
        >>> from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
        >>> from lace_lightning.query import parse
        >>> schema = tiny_schema()
        >>> lace = tiny_lace()
        >>> judge = tiny_labeler()
        >>> class Count(SystemEvaluation):
        ...     def measure(self, system, device, rank, world_size):
        ...         return Evaluation({"batches": len(list(self._batches(rank, world_size, "count")))})
        >>> Count(judge, num_samples=5, batch_size=2, progress=False).evaluate(lace).metrics
        {'batches': 3}
    """

    needs_data = True

    def __init__(
        self,
        judge: Labeler,
        feature_space: FeatureSpace | None = None,
        cache: Cache | None = None,
        num_samples: int = 10_000,
        batch_size: int = 500,
        seed: int = 1,
        progress: bool = True,
        metrics: Sequence[PictureMetric] = (),
        keep: int = 0,
        folder: str | os.PathLike[str] | None = None,
        report: Mapping[str, Any] | None = None,
        role: str = "judge",
        table: int = 0,
    ) -> None:
        self.role, self.table = role, table
        self.judge, self.feature_space, self.cache = judge, feature_space, cache
        self.num_samples, self.batch_size, self.seed, self.progress = num_samples, batch_size, seed, progress
        self.metrics = list(metrics)
        self.keep, self.folder, self.report = keep, None if folder is None else Path(folder), dict(report or {})
        self.evaluation = Evaluation()
        # The folder of the first samples while they are measured.
        self.kept: SampleFolder | None = None

    def check(self, system: System) -> None:
        """Refuse a system that the measurement cannot be made with, before the system is trained.

        Raises:
            LaceError: for such a system.
        """

    def use_labels(self, labels: Labels | None) -> None:
        """Store the labels of the pairs, for measurements that need them."""

    def measure(self, system: System, device: torch.device, rank: int, world_size: int) -> Evaluation:
        """Return the measurement by one process; processes meet only when sums are added.

        Args:
            system: the system, in evaluation mode.
            device: its device.
            rank: number of the process, from 0.
            world_size: number of processes.
        """
        raise NotImplementedError

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the module under test, and log the figures; the caller gives pictures and tables to loggers."""
        if not isinstance(pl_module, System):
            raise LaceError(
                f"A measurement needs a System as the module under test, received {type(pl_module).__name__}: give "
                "LACE or a model."
            )
        self.evaluation = self.evaluate(pl_module, trainer.global_rank, trainer.world_size)
        figures = {f"sampling/{name}": value for name, value in self.evaluation.metrics.items()}
        pl_module.log_dict(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}, rank_zero_only=True
        )

    def evaluate(self, system: System, rank: int = 0, world_size: int = 1) -> Evaluation:
        """Return the whole measurement of one system.

        Args:
            system: the system, bound to its generator.
            rank: number of this process, from 0.
            world_size: number of processes.
        """
        training = system.training
        system.eval()
        device = next(system.parameters()).device
        system.generator.to(device)
        self.judge.to(device)
        for metric in self.metrics:
            metric.to(device).reset()
        with self._keeping(rank) as self.kept:
            result = self.measure(system, device, rank, world_size)
        if self.kept is not None and rank == 0:
            self.kept.finish({**result.protocol, **self.report})
        system.train(training)
        return result

    def statistics(self, device: torch.device) -> FeatureStatistics | None:
        """Return empty statistics for the Fréchet distance, None where it is not measured."""
        return self.feature_space.statistics().to(device) if self.feature_space else None

    @contextmanager
    def _keeping(self, rank: int) -> Iterator[SampleFolder | None]:
        """Yield an empty folder for the first samples; None where none are kept."""
        count = min(self.keep, self.num_samples)
        if not count or self.folder is None:
            yield None
            return
        # An earlier attempt of this run may have left samples of other settings.
        if rank == 0:
            remove_path(self.folder)
        agreed(True)
        with SampleFolder(self.folder, count, {}, **self.kept_as(), rank=rank) as folder:
            yield folder
        # The first process goes on when the others have written their part.
        agreed(True)

    def kept_as(self) -> dict[str, Any]:
        """Return the title, the steps and the caption of the samples that are kept, see `SampleFolder`."""
        return {}

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = map(torch.cat, zip(*map(self.judge.features_and_logits, float_batches(images)), strict=True))
        if self.feature_space is not None and self.feature_space.key in ("fid", "fd_lite0"):
            features = self.feature_space.features(images)
        return features, logits

    def _batches(self, rank: int, world_size: int, title: str) -> Iterator[tuple[int, int]]:
        starts = range(0, self.num_samples, self.batch_size)[rank::world_size]
        for first in steps(starts, title, "batch", self.progress and rank == 0):
            yield first, min(self.batch_size, self.num_samples - first)

    def _share(self, rank: int, world_size: int) -> int:
        return sum(
            min(self.batch_size, self.num_samples - f)
            for f in range(0, self.num_samples, self.batch_size)[rank::world_size]
        )

    def _unconditional_pictures(
        self, generator: Generator, rank: int, world_size: int, device: torch.device
    ) -> Iterator[Tensor]:
        """Yield the generator's pictures of the starting points themselves, uint8 batches."""
        for first, count in self._batches(rank, world_size, "the generator alone"):
            yield generator.pictures(generator.mapping(generator.prior(count, self.seed, first, device)))

    def _unconditional(self, generator: Generator, rank: int, world_size: int, device: torch.device) -> float:
        """Measure the generator alone on the same number of samples, once for all samplers."""
        space = self.feature_space
        assert space is not None
        identity = {
            "generator": identity_of(generator),
            "protocol": space.protocol,
            "features": identity_of(self.judge),
            "count": self.num_samples,
            "seed": self.seed,
            "recipe": 2,
        }

        def make(path: Path | None) -> dict[str, Tensor]:
            statistics: FeatureStatistics = space.statistics().to(device)
            with torch.no_grad():
                for images in self._unconditional_pictures(generator, rank, world_size, device):
                    statistics.update(space.features(images))
            result = statistics.compute()
            if path is not None:
                save_statistics(path, {name: value.cpu() for name, value in result.items()}, space.protocol)
            return result

        entry = None if self.cache is None else self.cache.entry("unconditional", identity)
        if entry is None:
            return frechet_distance(make(None), space.reference)
        name = "statistics.safetensors"
        if world_size == 1:
            return frechet_distance(load_statistics(entry.file(name, make))[0], space.reference)
        # All processes take part in the measurement, so the first decides for all.
        if agreed(rank == 0 and entry.has(name)):
            return frechet_distance(load_statistics(entry.folder / name)[0], space.reference)
        result = make(None)
        if rank == 0:
            entry.file(
                name, lambda path: save_statistics(path, {n: v.cpu() for n, v in result.items()}, space.protocol)
            )
        return frechet_distance(result, space.reference)

    def _common_protocol(self, system: System, device: torch.device) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "sampler": system.summary(),
            "space": system.space,
            "judge": self.judge.name,
            "judge_digest": self.judge.digest,
            "judged_by": self.role,
            "classifier": system.digest,
            "generator": system.generator.digest,
            "frechet": None
            if self.feature_space is None
            else {**self.feature_space.protocol, "samples": self.num_samples},
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads",
        }
