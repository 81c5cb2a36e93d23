"""The ceiling of ACC: shares of pictures that the labeler, and of these the judge, call right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lace_lightning.labelers import function_labeler
from lace_lightning.metrics.base import MeasuredBatch
from lace_lightning.metrics.ceiling import Ceiling
from lace_lightning.query import parse
from lace_lightning.schema import Attribute, Labels, Schema

SCHEMA = Schema("s", (Attribute("left"), Attribute("right")))


def _logits(images: Tensor) -> Tensor:
    """Class 1 of an attribute where its half of the picture is bright."""
    halves = torch.stack([part.mean((1, 2, 3)) for part in images.chunk(2, 3)], 1)
    return torch.stack([-halves, halves], 2).flatten(1)


def _pictures(classes: Tensor) -> Tensor:
    return (255 * classes).byte().repeat_interleave(2, 1)[:, None, None].expand(-1, 1, 4, -1)


def _measure(labels: Tensor, judged: Tensor, known: Tensor, conditions: list[str], parts: int) -> dict[str, float]:
    metric = Ceiling(function_labeler(_logits, SCHEMA))
    queries = [parse(text, SCHEMA) for text in conditions]
    for rows in torch.arange(len(labels)).chunk(parts):
        by_judge = Labels(SCHEMA, judged[rows].float(), known[rows])
        metric.update(
            MeasuredBatch(
                _pictures(labels[rows]),
                by_judge,
                queries[-1],
                Labels.constant(SCHEMA, len(rows), left=1.0, right=1.0),
                torch.stack([query.holds(by_judge) for query in queries]).all(0),
                conditions=tuple(queries),
            )
        )
    return metric.compute()


@pytest.mark.parametrize("parts", [1, 7])
def test_shares_are_those_of_a_count(parts: int) -> None:
    labels, judged = torch.randint(0, 2, (50, 2)), torch.randint(0, 2, (50, 2))
    known = torch.rand(50, 2) < 0.8
    labels[0], judged[0], known[0] = 1, 1, True
    found = _measure(labels, judged, known, ["left == 1", "right == 1"], parts)
    right = labels.bool().all(1)
    counted = right & known.all(1)
    assert found["labeled_right"] == pytest.approx(float(right.double().mean()))
    assert found["ceiling"] == pytest.approx(float(judged[counted].bool().all(1).double().mean()))


def test_no_ceiling_where_the_labeler_calls_nothing_right() -> None:
    nothing = torch.zeros(4, 2, dtype=torch.long)
    assert _measure(nothing, nothing + 1, torch.ones(4, 2).bool(), ["left == 1"], 1) == {"labeled_right": 0.0}
