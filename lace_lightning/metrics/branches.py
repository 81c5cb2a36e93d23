"""Shares of the sides of a disjunction among the samples for which it holds."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..query import Query
from ..schema import Labels


class BranchShares(Metric):
    """Of the samples for which a query `a or b or ...` holds: the share for which each side holds, and more than one.

    Only counts are kept, so that results of processes add up exactly.

    Args:
        query: The disjunction; a query of another form has no figures.

    Returns:
        From `compute`: `branch/<side>` for every side, `branch/several`. A sample with several sides counts for each.

    Example:
        >>> from lace_lightning import Attribute, Labels, Schema, parse
        >>> schema = Schema("s", (Attribute("hat"), Attribute("smile")))
        >>> shares = BranchShares(parse("hat == 1 or smile == 1", schema))
        >>> shares.update(Labels(schema, torch.tensor([[1.0, 0.0], [1.0, 1.0]])))
        >>> shares.compute()
        {'branch/hat == 1': 1.0, 'branch/smile == 1': 0.5, 'branch/several': 0.5}
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
        """Add samples.

        Args:
            labels: Labels (B, K) of the judge.
            free: Values (B, K) of the free attributes of the query, None where it has none.
        """
        if not self.query.branches:
            return
        holds = torch.stack([branch.holds(labels, free) for branch in self.query.branches])
        self.held += holds.sum(1)
        self.several += (holds.sum(0) > 1).sum()
        self.total += holds.any(0).sum()

    def compute(self) -> dict[str, float]:
        """Return the shares by name; nothing where no sample satisfies the query."""
        if not self.query.branches or not self.total:
            return {}
        shares = {
            f"branch/{branch}": float(count / self.total)
            for branch, count in zip(self.query.branches, self.held, strict=True)
        }
        return {**shares, "branch/several": float(self.several / self.total)}
