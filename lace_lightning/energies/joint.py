"""The energy of latent and attributes together, for models in which the classifier itself is the density."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LaceError
from ..schema import Attribute, Labels
from .base import Energy
from .terms import _positive


class Joint(Energy):
    """E(w, c) = -Σ_discrete f_i[c_i] + Σ_continuous (c_i - f_i)²/(2σ²) on logits f (B, L) (Eq. 24 and 25), p(w, c) ∝
    exp(-E).

    What `labels` (B, K), or (1, K) for every sample, do not know is summed out: -logsumexp f_i for a discrete
    attribute, nothing for a continuous one, so that with nothing known it is E(w) (Eq. 26). An unnormalised density: no
    event, no probability. Raises LaceError for a class that its attribute does not have.
    """

    # Which logits count, (N, L) bool: of discrete attributes and of continuous ones; and what the latter are wanted to
    # be (N, L).
    allowed: Tensor
    measured: Tensor
    wanted: Tensor
    is_probability = False

    def __init__(self, labels: Labels, sigma: float = 0.1) -> None:
        super().__init__()
        self.labels, self.sigma, schema = labels, _positive(sigma), labels.schema
        self.discrete = [schema.slices[attribute.name] for attribute in schema if attribute.kind == "discrete"]
        with torch.inference_mode(False):
            widths = torch.tensor([attribute.num_logits for attribute in schema], device=labels.values.device)
            continuous = torch.tensor([attribute.kind == "continuous" for attribute in schema], device=widths.device)
            self.register_buffer("measured", (labels.known & continuous).repeat_interleave(widths, 1), persistent=False)
            self.register_buffer("wanted", labels.values.repeat_interleave(widths, 1), persistent=False)
            self.register_buffer(
                "allowed", torch.cat([_allowed(attribute, labels) for attribute in schema], 1), persistent=False
            )

    def _logits(self, u: Tensor, columns: slice) -> Tensor:
        # A large finite number, not infinity, keeps the gradients free of 0·inf.
        return u[:, columns].masked_fill(~self.allowed[:, columns].to(u.device), torch.finfo(u.dtype).min)

    def _errors(self, u: Tensor) -> Tensor:
        """Return (f - c)/σ in the columns of continuous attributes that are known, 0 elsewhere (B, L)."""
        return torch.where(self.measured.to(u.device), (u - self.wanted.to(u)) / self.sigma, 0.0)

    def forward(self, u: Tensor) -> Tensor:
        energy = self._errors(u).square().sum(1) / 2
        for columns in self.discrete:
            energy = energy - self._logits(u, columns).logsumexp(1)
        return energy

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach()
        gradient = self._errors(u) / self.sigma
        for columns in self.discrete:
            gradient[:, columns] = -self._logits(u, columns).softmax(1)
        return self(u), gradient

    def rows(self, index: Tensor | slice) -> Energy:
        if len(self.labels) == 1:
            return self
        return Joint(self.labels[index.to(self.wanted.device) if isinstance(index, Tensor) else index], self.sigma)

    def extra_repr(self) -> str:
        return f"{int(self.labels.known.sum())} of {self.labels.known.numel()} values known, sigma={self.sigma:g}"


def _allowed(attribute: Attribute, labels: Labels) -> Tensor:
    """Return which of an attribute's logits count (N, num_logits) bool: that of the class, every one where it is not
    known.
    """
    column = labels.schema.index(attribute.name)
    known = labels.known[:, column]
    if attribute.kind == "continuous":
        return torch.ones_like(known)[:, None]
    classes = torch.where(known, labels.column(attribute.name), 0.0).long()
    if bool(((classes < 0) | (classes >= attribute.num_classes)).any()):
        raise LaceError(
            f"Codes of attribute '{attribute.name}' must be classes from 0 to {attribute.num_classes - 1}, received "
            f"{int(classes.min())} to {int(classes.max())}: give class numbers, and say in `known` what is free."
        )
    return F.one_hot(classes, attribute.num_classes).bool() | ~known[:, None]
