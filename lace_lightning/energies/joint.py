"""The joint energy of latents or pictures and attributes, for models whose classifier is also the density."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LaceError
from ..schema import Attribute, Labels
from .base import Energy
from .terms import _positive


class Joint(Energy):
    """The energy E(x, c) = -Σ_discrete f_i[c_i] + Σ_continuous (c_i - f_i)²/(2σ²) on logits f, p(x, c) ∝ exp(-E).

    Attributes whose values are not known are summed out: -logsumexp f_i for a discrete one, nothing for a continuous
    one. With nothing known this is E(x) = -Σ_discrete logsumexp f_i, so that E(x, c) = E(x) - log p(c|x). With an
    energy head E(x) is minus the last of L + 1 columns, and -log p(c|x) of the known values is added to it. The density
    is not normalised: the energy is not that of an event.

    Args:
        labels: the codes c, one row for each sample (B, K) or one row for all samples (1, K), with their mask `known`.
        sigma: the classifier's error σ on continuous attributes, in units of the attribute, above 0.
        energy_head: logits have one column more (B, L + 1), the last of which is -E(x).

    Raises:
        LaceError: when sigma is not above 0, or a known class is none of its attribute's.

    References:
        Eq. 24 to 26 of LACE (arXiv 2110.10873); JEM (arXiv 1912.03263).

    Example:
        >>> import torch
        >>> from lace_lightning.schema import Attribute, Labels, Schema
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> f = torch.tensor([[0.0, 2.0]])
        >>> Joint(Labels.constant(schema, 1, hat=1))(f)
        tensor([-2.])
        >>> Joint(Labels.constant(schema, 1))(f).round(decimals=3)
        tensor([-2.1270])
    """

    # Masks (N, L) of the logits of discrete attributes that count, and of continuous attributes that are known.
    allowed: Tensor
    measured: Tensor
    # Values (N, L) of continuous attributes.
    wanted: Tensor
    is_probability = False

    def __init__(self, labels: Labels, sigma: float = 0.1, energy_head: bool = False) -> None:
        super().__init__()
        self.labels, self.sigma, self.energy_head, schema = labels, _positive(sigma), energy_head, labels.schema
        self.discrete = [schema.slices[attribute.name] for attribute in schema if attribute.kind == "discrete"]
        self.num_logits = schema.num_logits
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
        f = u[:, : self.num_logits]
        return torch.where(self.measured.to(u.device), (f - self.wanted.to(u)) / self.sigma, 0.0)

    def forward(self, u: Tensor) -> Tensor:
        energy = self._errors(u).square().sum(1) / 2
        for columns in self.discrete:
            energy = energy - self._logits(u, columns).logsumexp(1)
            if self.energy_head:
                energy = energy + u[:, columns].logsumexp(1)
        return energy - u[:, self.num_logits] if self.energy_head else energy

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach()
        gradient = torch.zeros_like(u)
        gradient[:, : self.num_logits] = self._errors(u) / self.sigma
        for columns in self.discrete:
            gradient[:, columns] = -self._logits(u, columns).softmax(1)
            if self.energy_head:
                gradient[:, columns] += u[:, columns].softmax(1)
        if self.energy_head:
            gradient[:, self.num_logits] = -1.0
        value: Tensor = self(u)
        return value, gradient

    def rows(self, index: Tensor | slice) -> Energy:
        if len(self.labels) == 1:
            return self
        chosen = self.labels[index.to(self.wanted.device) if isinstance(index, Tensor) else index]
        return Joint(chosen, self.sigma, self.energy_head)

    def extra_repr(self) -> str:
        head = ", energy_head" if self.energy_head else ""
        return f"{int(self.labels.known.sum())} of {self.labels.known.numel()} values known, sigma={self.sigma:g}{head}"


def _allowed(attribute: Attribute, labels: Labels) -> Tensor:
    """Return which of an attribute's logits count (N, num_logits) bool: the known class, or all of them."""
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
