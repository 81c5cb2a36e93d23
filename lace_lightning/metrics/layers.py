"""Shares of style layers in the attributes of a picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..schema import Schema


class LayerShares(Metric):
    """Share of the difference between two pictures in an attribute that comes with each style layer.

    For attribute k and layer i: Σ ⟨f_k(a with layer i of b) - f_k(a), f_k(b) - f_k(a)⟩ / Σ ‖f_k(b) - f_k(a)‖² over
    pairs of samples (a, b), where f_k is the class probabilities or the value. The shares of all layers sum to 1 where
    layers do not interact.

    Args:
        schema: Schema with K attributes.
        layers: Number L of style layers.

    Returns:
        From `compute`: shares (L, K).

    Example:
        >>> from lace_lightning import Attribute, Schema
        >>> shares = LayerShares(Schema("s", (Attribute("age", "continuous"),)), layers=2)
        >>> a, b = torch.zeros(1, 1), torch.ones(1, 1)
        >>> shares.update(a, b, torch.tensor([[[0.25]], [[0.75]]]))
        >>> shares.compute().tolist()
        [[0.25], [0.75]]
    """

    full_state_update = False
    gained: Tensor
    whole: Tensor

    def __init__(self, schema: Schema, layers: int) -> None:
        super().__init__()
        self.schema = schema
        self.add_state("gained", torch.zeros(layers, len(schema), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("whole", torch.zeros(len(schema), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, a: Tensor, b: Tensor, mixed: Tensor) -> None:
        """Add pairs of pictures.

        Args:
            a: Logits (B, num_logits) of the first pictures.
            b: Logits (B, num_logits) of the second pictures.
            mixed: Logits (L, B, num_logits) of the first pictures with one style layer of the second.
        """
        for index, attribute in enumerate(self.schema):
            columns = self.schema.slices[attribute.name]
            before, after, between = (
                (part.softmax(-1) if attribute.kind == "discrete" else part).double()
                for part in (a[:, columns], b[:, columns], mixed[:, :, columns])
            )
            self.whole[index] += (after - before).square().sum()
            self.gained[:, index] += ((between - before) * (after - before)).sum((1, 2))

    def compute(self) -> Tensor:
        """Return the shares (L, K)."""
        return (self.gained / self.whole.clamp(min=1e-12)).float()


def layers_of(shares: Tensor, threshold: float) -> list[int]:
    """Return the layers that carry an attribute: those with a large share, or the one with the largest.

    Args:
        shares: Shares (L,) of the layers in one attribute.
        threshold: Least share of a layer, from 0 to 1.

    Example:
        >>> layers_of(torch.tensor([0.6, 0.3, 0.1]), 0.25), layers_of(torch.tensor([0.2, 0.1]), 0.25)
        ([0, 1], [0])
    """
    return (shares >= threshold).nonzero()[:, 0].tolist() or [int(shares.argmax())]
