"""Losses and scores of attribute predictions, one for each attribute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..schema import Schema


def batch_parts(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return points, labels, and the mask of known labels of a batch; the mask is None in a batch of two entries.

    Args:
        batch: points (B, ...); labels (B, K) or logits of a labeler (B, L); optionally known (B, K) bool.

    Returns:
        The three parts, without a copy.

    Example:
        >>> batch_parts((torch.zeros(2, 4), torch.zeros(2, 1)))[2] is None
        True
    """
    return batch[0], batch[1], batch[2] if len(batch) > 2 else None


def labelled_batch(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return points, labels, and the mask of known labels of a batch; in a batch of two entries all labels are known.

    Args:
        batch: points (B, ...); labels (B, K); optionally known (B, K) bool.

    Returns:
        Points, labels (B, K) and known (B, K) bool.

    Example:
        >>> labelled_batch((torch.zeros(2, 4), torch.zeros(2, 1)))[2].tolist()
        [[True], [True]]
    """
    points, labels, known = batch_parts(batch)
    return points, labels, torch.ones_like(labels, dtype=torch.bool) if known is None else known


def attribute_losses(
    schema: Schema, logits: Tensor, target: Tensor, label_smoothing: float = 0.0, known: Tensor | None = None
) -> Tensor:
    """Return the loss of every attribute (K,): cross-entropy for discrete ones, squared error for continuous ones.

    Args:
        schema: the attributes.
        logits: logits (B, L).
        target: labels (B, K), or logits of a labeler (B, L), which are soft labels; values of continuous attributes are
            clamped to [0, 1].
        label_smoothing: label smoothing of discrete attributes, from 0 to 1.
        known: which labels are known (B, K) bool; all by default.

    Returns:
        Means (K,) over the rows that know an attribute; 0 for an attribute that no row knows.

    References:
        Eq. 4 of LACE (arXiv 2110.10873), with squared errors without the factor 1/(2σ²).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> attribute_losses(schema, torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.6931, 0.2500])
    """
    soft = target.shape[1] != len(schema)
    result = []
    for index, attribute in enumerate(schema):
        columns = schema.slices[attribute.name]
        wanted = target[:, columns] if soft else target[:, index]
        if attribute.kind == "continuous":
            # Answers of a labeler may lie outside of [0, 1], some of them far, and its decisions do not.
            losses = F.mse_loss(logits[:, columns.start], wanted.reshape(-1).float().clamp(0, 1), reduction="none")
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
    """Return the mean of `values` (B,) over the rows that know attribute `index`; 0 if no row knows it."""
    if known is None:
        return values.mean()
    rows = known[:, index]
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)


def attribute_scores(schema: Schema, logits: Tensor, target: Tensor, known: Tensor | None = None) -> dict[str, Tensor]:
    """Return the score of every attribute: the accuracy of a discrete one, the mean of 1 - |ĉ - c| of a continuous one.

    Args:
        schema: the attributes.
        logits: logits (B, L), from which ĉ is decoded.
        target: labels c (B, K), or logits of a labeler (B, L), which are decoded.
        known: which labels are known (B, K) bool; all by default.

    Returns:
        A score in [0, 1] for each name, the mean over the rows that know the attribute; 0 if no row knows it.

    References:
        The accuracy ACC of LACE's experiments (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> attribute_scores(schema, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.ones(2, 1))
        {'hat': tensor(0.5000)}
    """
    truth = schema.decode(target).values if target.shape[1] != len(schema) else target
    error = (schema.decode(logits).values - truth).abs()
    return {
        attribute.name: _mean(
            (error[:, index] < 0.5).float() if attribute.kind == "discrete" else 1 - error[:, index], known, index
        )
        for index, attribute in enumerate(schema)
    }
