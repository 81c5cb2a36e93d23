"""Metrics of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.metrics import MeasuredBatch, PictureMetric, collect_figures
from lace_lightning.query import parse
from lace_lightning.schema import Attribute, Labels, Schema

SCHEMA = Schema("s", (Attribute("hat"),))


class ShareOfHats(PictureMetric):
    """Share of pictures with a hat."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, batch: MeasuredBatch) -> None:
        self.hats += batch.judged.column("hat").sum()
        self.count += len(batch)

    def compute(self) -> dict[str, float]:
        return {self.name: float(self.hats / self.count)}


class Returns(PictureMetric):
    name = "given"

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def update(self, batch: MeasuredBatch) -> None:
        pass

    def compute(self) -> Any:
        return self.value


def _batch(*hats: float) -> MeasuredBatch:
    judged, query = Labels(SCHEMA, torch.tensor(hats)[:, None]), parse("hat == 1", SCHEMA)
    return MeasuredBatch(
        images=torch.zeros(len(hats), 3, 2, 2, dtype=torch.uint8),
        judged=judged,
        query=query,
        wanted=Labels.constant(SCHEMA, len(hats), hat=1.0),
        holds=query.holds(judged),
    )


def test_sums_over_batches() -> None:
    metric = ShareOfHats()
    metric.update(_batch(1, 1, 0))
    metric.update(_batch(0))
    assert metric.compute() == {"share_of_hats": 0.5}
    metric.reset()
    metric.update(_batch(1))
    assert collect_figures([metric], taken=["acc"]) == {"share_of_hats": 1.0}


def test_names() -> None:
    assert (ShareOfHats.name, Returns.name) == ("share_of_hats", "given")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.5, "by name"),
        ({"x": float("nan")}, "finite number"),
        ({"x": "much"}, "finite number"),
        ({"x": torch.ones(2)}, "finite number"),
        ({"acc": 0.5}, "gives already"),
    ],
)
def test_figures_that_are_refused(value: Any, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        collect_figures([Returns(value)], taken=["acc"])
