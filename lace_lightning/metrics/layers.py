"""Which style layers carry an attribute."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..schema import Schema


class LayerShares(Metric):
    """How much of the difference between two pictures in an attribute comes with each style layer.

    For attribute k and layer i: Σ ⟨f_k(a with layer i of b) - f_k(a), f_k(b) - f_k(a)⟩ / Σ ‖f_k(b) - f_k(a)‖² over
    pairs of samples (a, b), where f_k is the class probabilities or the value. The shares of all layers sum to 1 where
    layers do not interact. `compute()` -> (L, K).
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
        """Add logits (N, num_logits) of the pictures a, of b, and (L, N, num_logits) of a with one layer of b."""
        for index, attribute in enumerate(self.schema):
            columns = self.schema.slices[attribute.name]
            before, after, between = (
                (part.softmax(-1) if attribute.kind == "discrete" else part).double()
                for part in (a[:, columns], b[:, columns], mixed[:, :, columns])
            )
            self.whole[index] += (after - before).square().sum()
            self.gained[:, index] += ((between - before) * (after - before)).sum((1, 2))

    def compute(self) -> Tensor:
        return (self.gained / self.whole.clamp(min=1e-12)).float()


def layers_of(shares: Tensor, threshold: float) -> list[int]:
    """Return the layers with at least `threshold` of an attribute (shares (L,)), or the one with most."""
    return (shares >= threshold).nonzero()[:, 0].tolist() or [int(shares.argmax())]
