"""Losses and scores of attribute predictions, one an attribute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..schema import Schema


def batch_parts(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return points, target (B, K) or (B, L), and which attributes are known (B, K) bool: None for all, where the batch
    does not say.
    """
    return batch[0], batch[1], batch[2] if len(batch) > 2 else None


def labelled_batch(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return points, labels (B, K), and which of them are known (B, K) bool: all, where the batch does not say."""
    points, labels, known = batch_parts(batch)
    return points, labels, torch.ones_like(labels, dtype=torch.bool) if known is None else known


def attribute_losses(
    schema: Schema, logits: Tensor, target: Tensor, label_smoothing: float = 0.0, known: Tensor | None = None
) -> Tensor:
    """Return the loss of every attribute (K,): cross-entropy for discrete ones, squared error for continuous ones.

    `logits` is (B, L); `target` is labels (B, K), or logits of a labeler (B, L), which are soft labels. Means are over
    the rows where an attribute is `known` (B, K) bool, all without it; the loss of one that no row knows is 0.
    """
    soft = target.shape[1] != len(schema)
    result = []
    for index, attribute in enumerate(schema):
        columns = schema.slices[attribute.name]
        wanted = target[:, columns] if soft else target[:, index]
        if attribute.kind == "continuous":
            losses = F.mse_loss(logits[:, columns.start], wanted.reshape(-1).float(), reduction="none")
        else:
            losses = F.cross_entropy(
                logits[:, columns],
                wanted.softmax(1) if soft else wanted.long(),
                label_smoothing=label_smoothing,
                reduction="none",
            )
        result.append(_mean(losses, known, index))
    return torch.stack(result)


def _mean(values: Tensor, known: Tensor | None, index: int) -> Tensor:
    """Return the mean of `values` (B,) over the rows that know attribute `index`; 0 where none does."""
    if known is None:
        return values.mean()
    rows = known[:, index]
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)


def attribute_scores(schema: Schema, logits: Tensor, target: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
    """Return for every attribute the share of right decisions, or the mean of 1 - |ĉ - c| where it is continuous.

    Only rows where an attribute is `known` (B, K) bool count.
    """
    truth = schema.decode(target).values if target.shape[1] != len(schema) else target
    error = (schema.decode(logits).values - truth).abs()
    return {
        attribute.name: _mean(
            (error[:, index] < 0.5).float() if attribute.kind == "discrete" else 1 - error[:, index], known, index
        )
        for index, attribute in enumerate(schema)
    }
