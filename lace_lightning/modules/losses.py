"""Losses and scores of attribute predictions, one an attribute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..schema import Schema


def attribute_losses(schema: Schema, logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the loss of every attribute (K,): cross-entropy for discrete ones, squared error for continuous ones.

    `logits` is (B, L); `target` is labels (B, K), or logits of a labeler (B, L), which are soft labels.
    """
    soft = target.shape[1] != len(schema)
    result = []
    for index, attribute in enumerate(schema):
        columns = schema.slices[attribute.name]
        wanted = target[:, columns] if soft else target[:, index]
        if attribute.kind == "continuous":
            result.append(F.mse_loss(logits[:, columns.start], wanted.reshape(-1).float()))
        else:
            result.append(F.cross_entropy(logits[:, columns], wanted.softmax(1) if soft else wanted.long(),
                                          label_smoothing=label_smoothing))
    return torch.stack(result)


def attribute_scores(schema: Schema, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return for every attribute the share of right decisions, or the mean of 1 - |ĉ - c| where it is continuous."""
    truth = schema.decode(target).values if target.shape[1] != len(schema) else target
    error = (schema.decode(logits).values - truth).abs()
    return {attribute.name: (error[:, index] < 0.5).float().mean() if attribute.kind == "discrete" else 1 - error[:, index].mean()
            for index, attribute in enumerate(schema)}
