"""How a disjunction is shared out between its sides."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..query import Query
from ..schema import Labels


class BranchShares(Metric):
    """Of the samples for which a query `a or b or ...` holds: the share for which each side holds, and more than one.

    `compute()` -> {"branch/<side>": share, "branch/several": share}; shares of sides add up to 1 + what holds several
    times. Empty for a query that is no disjunction. Only counts are kept.
    """

    full_state_update = False
    held: Tensor
    several: Tensor
    total: Tensor

    def __init__(self, query: Query) -> None:
        super().__init__()
        self.query = query
        for name, size in (("held", max(1, len(query.branches))), ("several", 1), ("total", 1)):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, labels: Labels, free: Labels | None = None) -> None:
        """Add samples: labels (N, K), and the values of free attributes."""
        if not self.query.branches:
            return
        holds = torch.stack([branch.holds(labels, free) for branch in self.query.branches])
        self.held += holds.sum(1)
        self.several += (holds.sum(0) > 1).sum()
        self.total += holds.any(0).sum()

    def compute(self) -> dict[str, float]:
        if not self.query.branches or not self.total:
            return {}
        shares = {
            f"branch/{branch}": float(count / self.total)
            for branch, count in zip(self.query.branches, self.held, strict=True)
        }
        return {**shares, "branch/several": float(self.several / self.total)}
