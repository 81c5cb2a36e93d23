"""Interface of metrics of pictures: a class with `update` and `compute`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from ..errors import LaceError
from ..query import Query
from ..schema import Labels


@dataclass(frozen=True)
class MeasuredBatch:
    """One batch of pictures with the labels, features and latents that a metric may use.

    Args:
        images: Pictures (B, C, H, W), uint8 from 0 to 255.
        judged: Labels (B, K) that the judge gives the pictures; `known` is False where it gives none.
        logits: Logits (B, num_logits) of the judge in the columns of its schema, None where it has none.
        features: Features (B, F) that the Fréchet distance is measured on, None where it is not measured.
        query: The condition that the pictures should satisfy; of an edit, the edit.
        wanted: Labels (B, K) that the condition asks for, `known` where it asks for something.
        holds: Whether the judge sees the condition satisfied, bool (B,).
        free: Values (B, K) of the free attributes of the query, None where it has none.
        latents: Latents (B, D) that the pictures are made of, None where a model makes pictures without.
        before: The same samples before an edit, None when no edit is measured.
        conditions: All conditions that the pictures should satisfy: of an edit, those of the edits in force; empty
            where it is the query alone.

    Example:
        >>> import torch
        >>> from lace_lightning import Attribute, Labels, Schema, parse
        >>> schema = Schema("s", (Attribute("hat", class_names=("no", "yes")),))
        >>> labels = Labels(schema, torch.tensor([[1.0], [0.0]]))
        >>> query = parse("hat == yes", schema)
        >>> batch = MeasuredBatch(
        ...     images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        ...     judged=labels,
        ...     query=query,
        ...     wanted=Labels.constant(schema, 2, hat=1.0),
        ...     holds=query.holds(labels),
        ... )
        >>> len(batch), batch.holds.tolist()
        (2, [True, False])
    """

    images: Tensor
    judged: Labels
    query: Query
    wanted: Labels
    holds: Tensor
    logits: Tensor | None = None
    features: Tensor | None = None
    free: Labels | None = None
    latents: Tensor | None = None
    before: MeasuredBatch | None = None
    conditions: tuple[Query, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


class PictureMetric(Metric):
    """Base class of metrics that a run calls with every batch of pictures.

    A further metric is a subclass with three parts. The constructor registers sums with `add_state`, so that they
    go to the right device and add up over processes. `update` adds a batch to them. `compute` returns figures by name.
    The figures appear at the end of the run's table, in metrics.json and in the results.csv of a sweep; a title or a
    place of their own in the tables is an entry of `metrics.names.FIGURES`.

    A file in the folder `metrics` of the configuration adds it to a run, with the class as `_target_` and the
    arguments of its constructor.

    Attributes:
        name: Name of the metric; the class's own in lower case with underscores where a subclass does not set it.

    Example:
        >>> import torch
        >>> class MeanBrightness(PictureMetric):
        ...     '''Mean brightness of the pictures, from 0 (black) to 1 (white).'''
        ...
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        ...         self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        ...
        ...     def update(self, batch: MeasuredBatch) -> None:
        ...         self.total += (batch.images.double() / 255).mean((1, 2, 3)).sum()
        ...         self.count += len(batch)
        ...
        ...     def compute(self) -> dict[str, float]:
        ...         return {self.name: float(self.total / self.count)}
        >>> from lace_lightning import Attribute, Labels, Schema, parse
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> labels = Labels.constant(schema, 2, hat=1.0)
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
        >>> metric = MeanBrightness()
        >>> metric.update(MeasuredBatch(images, labels, parse("hat == 1", schema), labels, torch.ones(2).bool()))
        >>> metric.compute()
        {'mean_brightness': 0.5}
    """

    full_state_update = False
    name: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def update(self, batch: MeasuredBatch) -> None:
        """Add a batch of pictures.

        Args:
            batch: The pictures with their labels, features and latents.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(batch).")

    def compute(self) -> dict[str, float]:
        """Return the figures of all pictures so far, by name."""
        raise NotImplementedError(f"{type(self).__name__} must define compute().")


def collect_figures(metrics: Iterable[PictureMetric], taken: Iterable[str] = ()) -> dict[str, float]:
    """Return the figures of several metrics as one mapping.

    Args:
        metrics: Metrics that have seen all pictures.
        taken: Names of figures that the run has already.

    Returns:
        Figures by name.

    Raises:
        LaceError: When a metric returns anything but finite numbers by name, or a name that is taken.
    """
    result: dict[str, float] = {}
    names = set(taken)
    for metric in metrics:
        figures: Any = metric.compute()
        if not isinstance(figures, Mapping):
            raise LaceError(
                f"The metric '{metric.name}' must return figures by name, and returned {type(figures).__name__}: "
                f"return {{self.name: value}} from compute."
            )
        for name, value in figures.items():
            try:
                number = float(value)
            except (TypeError, ValueError, RuntimeError):
                number = math.nan
            if not math.isfinite(number):
                raise LaceError(
                    f"The figure '{name}' of the metric '{metric.name}' must be a finite number, received {value}: "
                    "leave it out where it is not defined."
                )
            if name in names:
                raise LaceError(
                    f"The metric '{metric.name}' returns the figure '{name}', which another metric gives already: "
                    "rename it."
                )
            names.add(str(name))
            result[str(name)] = number
    return result
