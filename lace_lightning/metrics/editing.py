"""How well an edit went: disentangled edit strength (DES), and the distance to who it was (ID)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..schema import Labels, Schema


class EditStrength(Metric):
    """DES of one edit: the gain of the edited attributes, minus the largest change of the others.

    Per sample, the score a of an edited attribute is 1 or 0 for a right or wrong class, 1 - |ĉ - c| for a continuous
    value; the change of another attribute is 1 or 0 for a class that changed or not, |ĉ' - ĉ| for a continuous value.
    DES = Σ(a' - a)/Σ(1 - a) - mean(max_j change_j): 1 when all there was to gain is gained and nothing else moves. The
    paper's exact normalisation is not known; this one is ours. `compute()` -> {"des", "gain", "change"}; only sums are
    kept, so that results of processes add up exactly.
    """

    full_state_update = False
    gained: Tensor
    room: Tensor
    changed: Tensor
    count: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        for name in ("gained", "room", "changed", "count"):
            self.add_state(name, torch.zeros([], dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, before: Labels, after: Labels, wanted: Labels) -> None:
        """Add samples: what the judge saw before and after,
        and what the edit wants (`known` where it wants something).
        """
        wanted = wanted.to(after.values.device)
        discrete = torch.tensor([a.kind == "discrete" for a in self.schema], device=after.values.device)

        def difference(first: Tensor, second: Tensor) -> Tensor:
            distance = (first - second).abs().double()
            return torch.where(discrete, (distance > 0.5).double(), distance)

        old, new = (1 - difference(labels.values, wanted.values) for labels in (before, after))
        known = wanted.known.double()
        self.gained += ((new - old) * known).sum()
        self.room += ((1 - old) * known).sum()
        self.changed += (difference(before.values, after.values) * (1 - known)).amax(1).sum()
        self.count += len(known)

    def compute(self) -> dict[str, float]:
        gain = float(self.gained / self.room.clamp_min(1e-12))
        change = float(self.changed / self.count.clamp_min(1))
        return {"des": gain - change, "gain": gain, "change": change}
