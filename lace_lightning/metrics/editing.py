"""Disentangled edit strength (DES): the gain of edited attributes against the change of the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..schema import Labels, Schema


class EditStrength(Metric):
    """DES of one edit: the gain of the edited attributes, minus the largest change of the others.

    Per sample, the score a of an edited attribute is 1 or 0 for a right or wrong class, 1 - |ĉ - c| for a continuous
    value; the change of another attribute is 1 or 0 for a class that changed or not, |ĉ' - ĉ| for a continuous value.
    DES = Σ(a' - a)/Σ(1 - a) - mean(max_j change_j), which is 1 when every edited label becomes right and no other
    label changes. The article does not give its normalisation; this one was chosen here. Labels that the judge does
    not know before or after the edit (NaN, or `known` is False) are left out. Only sums are kept, so that results of
    processes add up exactly.

    Args:
        schema: Schema of the judged and the wanted labels.

    Returns:
        From `compute`: `des`, at most 1; `gain` and `change`, of which it is the difference.

    References:
        Disentangled edit strength in the tables of sequential editing: Nie, Vahdat and Anandkumar, "Controllable and
        Compositional Generation with Latent-Space Energy-Based Models", 2021.

    Example:
        >>> from lace_lightning import Attribute, Labels, Schema
        >>> schema = Schema("s", (Attribute("hat"), Attribute("smile")))
        >>> strength = EditStrength(schema)
        >>> before, after = (Labels(schema, torch.tensor([[hat, 0.0], [hat, 0.0]])) for hat in (0.0, 1.0))
        >>> strength.update(before, after, Labels.constant(schema, 2, hat=1.0))
        >>> strength.compute()
        {'des': 1.0, 'gain': 1.0, 'change': 0.0}
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
        """Add samples.

        Args:
            before: Labels (B, K) of the judge before the edit.
            after: Labels (B, K) of the judge after it.
            wanted: Labels (B, K) that the edit asks for, `known` where it asks for something.
        """
        wanted = wanted.to(after.values.device)
        discrete = torch.tensor([a.kind == "discrete" for a in self.schema], device=after.values.device)

        def difference(first: Tensor, second: Tensor) -> Tensor:
            distance = (first - second).abs().double()
            return torch.where(discrete, (distance > 0.5).double(), distance)

        # Zeros stand for labels that are not known: a NaN would spoil the sums in spite of its factor of 0.
        known = before.known & after.known & ~(before.values + after.values).isnan()
        filled = [labels.values.masked_fill(~known, 0.0) for labels in (before, after)]
        old, new = (1 - difference(values, wanted.values) for values in filled)
        edited, others = (wanted.known & known).double(), (~wanted.known & known).double()
        self.gained += ((new - old) * edited).sum()
        self.room += ((1 - old) * edited).sum()
        self.changed += (difference(*filled) * others).amax(1).sum()
        self.count += known.any(1).sum()

    def compute(self) -> dict[str, float]:
        """Return the figures of all samples so far, by name."""
        gain = float(self.gained / self.room.clamp_min(1e-12))
        change = float(self.changed / self.count.clamp_min(1))
        return {"des": gain - change, "gain": gain, "change": change}
