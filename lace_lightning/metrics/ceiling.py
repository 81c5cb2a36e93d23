"""The ceiling of ACC: how often the judge agrees with the labeler where the labeler sees the condition satisfied."""

from __future__ import annotations

import torch

from ..labelers import Labeler
from ..pictures.convert import from_bytes
from .base import MeasuredBatch, PictureMetric


class Ceiling(PictureMetric):
    """Share of pictures that the labeler calls right, and of these the share that the judge calls right too.

    A classifier learns from the labeler. The second share is what a perfect one would reach by the judge. Pictures of
    which the judge does not know a wanted label are left out of it, as they are of `holds`.

    Args:
        labeler: the labeler that the pairs were made with.

    Returns:
        From `compute`: `labeled_right`, and `ceiling` where there is at least one such picture.

    Example:
        >>> from lace_lightning import Attribute, Labels, Schema, parse
        >>> from lace_lightning.labelers import function_labeler
        >>> schema = Schema("s", (Attribute("bright"),))
        >>> labeler = function_labeler(lambda x: torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1), schema)
        >>> images = torch.tensor([0, 255, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 4)
        >>> judged, query = Labels(schema, torch.tensor([[1.0], [1.0], [0.0]])), parse("bright == 1", schema)
        >>> wanted = Labels.constant(schema, 3, bright=1.0)
        >>> metric = Ceiling(labeler)
        >>> metric.update(MeasuredBatch(images, judged, query, wanted, query.holds(judged)))
        >>> {name: round(value, 3) for name, value in metric.compute().items()}
        {'labeled_right': 0.667, 'ceiling': 0.5}
    """

    counts: torch.Tensor

    def __init__(self, labeler: Labeler) -> None:
        super().__init__()
        # In a list, so that the labeler is no part of the metric's state.
        self._labeler = [labeler]
        self.add_state("counts", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, batch: MeasuredBatch) -> None:
        labeler = self._labeler[0].to(batch.images.device)
        labels = labeler.labels(from_bytes(batch.images))
        right = torch.stack([query.holds(labels, batch.free) for query in batch.conditions or (batch.query,)]).all(0)
        known = (batch.judged.known | ~batch.wanted.known).all(1)
        agreed = right & known & batch.holds
        numbers = [int(part.sum()) for part in (right, right & known, agreed)]
        self.counts += torch.tensor([*numbers, len(batch)]).to(self.counts)

    def compute(self) -> dict[str, float]:
        right, known, agreed, total = self.counts.tolist()
        figures = {"labeled_right": right / total} if total else {}
        return figures | ({"ceiling": agreed / known} if known else {})
