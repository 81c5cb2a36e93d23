"""Conditional accuracy (ACC): agreement of a judge's labels with the labels that a query asks for."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import LaceError
from ..schema import Labels, Schema


def judged_labels(schema: Schema, logits: Tensor) -> Labels:
    """Return the decided labels of logits; those with a NaN among their logits are not known.

    Args:
        schema: Schema of the judge.
        logits: Logits (B, num_logits).

    Returns:
        Labels (B, K) as `Schema.decode` gives them; `known` is False for an attribute with a NaN among its logits.

    Example:
        >>> from lace_lightning import Attribute, Schema
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> judged_labels(schema, torch.tensor([[0.0, 1.0, float("nan")]])).known.tolist()
        [[True, False]]
    """
    labels = schema.decode(logits)
    known = torch.stack([~logits[:, schema.slices[a.name]].isnan().any(1) for a in schema], 1)
    return Labels(schema, labels.values, known)


def _is_known(labels: Labels) -> Tensor:
    """Return which labels (B, K) are known and a number."""
    return labels.known & ~labels.values.isnan()


class ConditionalAccuracy(Metric):
    """ACC of judged labels against wanted ones: share of correct classes; mean of 1 - |ĉ - c| for continuous values.

    Labels that the judge does not know (NaN, or `known` is False) are neither right nor wrong: they are left out, and
    their share of the wanted labels is the figure `unknown`. A sample counts for `holds` only where all its wanted
    labels are known. Only sums are kept, so that results of processes add up exactly.

    Args:
        schema: Schema of judged and wanted labels.

    Returns:
        From `compute`: `acc` (mean over the wanted attributes), `holds` (share of samples for which the whole query is
        true), `unknown` (only where it is above 0), `acc/<attribute>`, and `acc/<attribute>/<class>`.

    Raises:
        LaceError: From `compute`, when the judge knows none of the labels that it was asked for.

    References:
        ACC in the tables of the article: Nie, Vahdat and Anandkumar, "Controllable and Compositional Generation with
        Latent-Space Energy-Based Models", 2021.

    Example:
        >>> from lace_lightning import Attribute, Labels, Schema
        >>> schema = Schema("s", (Attribute("hat", class_names=("no", "yes")), Attribute("age", "continuous")))
        >>> accuracy = ConditionalAccuracy(schema)
        >>> judged = Labels(schema, torch.tensor([[1.0, 0.5], [0.0, 0.5]]))
        >>> accuracy.update(judged, Labels.constant(schema, 2, hat=1.0))
        >>> accuracy.compute()
        {'acc': 0.5, 'acc/hat': 0.5, 'acc/hat/yes': 0.5}
    """

    full_state_update = False
    score: Tensor
    count: Tensor
    class_score: Tensor
    class_count: Tensor
    held: Tensor
    total: Tensor
    unknown: Tensor
    silent: Tensor

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
            ("unknown", len(schema)),
            ("silent", 1),
        ):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, judged: Labels, wanted: Labels, holds: Tensor | None = None) -> None:
        """Add samples.

        Args:
            judged: Labels (B, K) of the judge.
            wanted: Wanted labels (B, K), `known` where something is wanted.
            holds: Whether the query is true for the judged labels, bool (B,); None where it is not counted.
        """
        wanted = wanted.to(judged.values.device)
        judge_knows = _is_known(judged)
        error = (judged.values - wanted.values).abs()
        self.unknown += (wanted.known & ~judge_knows).sum(0)
        for index, attribute in enumerate(self.schema):
            known = wanted.known[:, index] & judge_knows[:, index]
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
            # Wanted labels do not name the attributes of a query with `not` or `or`: there, a sample counts unless the
            # judge knows none of its labels.
            judgeable = ~(wanted.known & ~judge_knows).any(1) & judge_knows.any(1)
            self.held += holds.to(judgeable.device)[judgeable].sum()
            self.total += judgeable.sum()
            self.silent += (~judgeable).sum()

    def compute(self) -> dict[str, float]:
        """Return the figures of all samples so far, by name."""
        unknown, known = float(self.unknown.sum()), float(self.count.sum())
        if (unknown or self.silent) and not known and not self.total:
            raise LaceError(
                "The judge must give labels for the pictures, and gave none for any of "
                f"{int(self.silent) or int(self.unknown.max())} pictures (NaN, or not known): check judge=..., and the "
                "range of the pictures that it expects."
            )
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
        if unknown:
            head["unknown"] = unknown / (unknown + known)
        elif self.silent:
            head["unknown"] = float(self.silent / (self.silent + self.total))
        return {**head, **result}
