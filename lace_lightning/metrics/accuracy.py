"""Conditional accuracy (ACC): does a judge see what was asked for?"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..schema import Labels, Schema


class ConditionalAccuracy(Metric):
    """ACC of judged labels against wanted ones: share of correct classes; mean of 1 - |ĉ - c| for continuous values.

    `compute()` -> {"acc": mean over the wanted attributes, "acc/<attribute>", "acc/<attribute>/<class>", "holds": share
    of samples for which the whole query is true}. Only sums are kept, so that results of processes add up exactly.
    """

    full_state_update = False
    score: Tensor
    count: Tensor
    class_score: Tensor
    class_count: Tensor
    held: Tensor
    total: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        for name, size in (
            ("score", len(schema)),
            ("count", len(schema)),
            ("class_score", schema.num_logits),
            ("class_count", schema.num_logits),
            ("held", 1),
            ("total", 1),
        ):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, judged: Labels, wanted: Labels, holds: Tensor | None = None) -> None:
        """Add samples: labels (B, K) of the judge, wanted labels with their `known` mask, and whether the query is
        true.
        """
        wanted = wanted.to(judged.values.device)
        error = (judged.values - wanted.values).abs()
        for index, attribute in enumerate(self.schema):
            known = wanted.known[:, index]
            discrete = attribute.kind == "discrete"
            score = ((error[:, index] < 0.5).double() if discrete else 1 - error[:, index].double())[known]
            self.score[index] += score.sum()
            self.count[index] += known.sum()
            if discrete:
                columns = self.schema.slices[attribute.name]
                classes = wanted.values[known, index].long()
                self.class_score[columns] += torch.bincount(classes, score, attribute.num_classes).to(self.class_score)
                self.class_count[columns] += torch.bincount(classes, minlength=attribute.num_classes)
        if holds is not None:
            self.held += holds.sum()
            self.total += len(holds)

    def compute(self) -> dict[str, float]:
        result: dict[str, float] = {}
        for index, attribute in enumerate(self.schema):
            if not self.count[index]:
                continue
            result[f"acc/{attribute.name}"] = float(self.score[index] / self.count[index])
            if attribute.kind == "discrete":
                columns = self.schema.slices[attribute.name]
                for number, (score, count) in enumerate(
                    zip(self.class_score[columns], self.class_count[columns], strict=True)
                ):
                    if count:
                        result[f"acc/{attribute.name}/{attribute.class_name(number)}"] = float(score / count)
        means = [value for name, value in result.items() if name.count("/") == 1]
        head = {"acc": sum(means) / len(means)} if means else {}
        if self.total:
            head["holds"] = float(self.held / self.total)
        return {**head, **result}
