"""Events over classes of one attribute, and the logic of the paper as it is stated there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Energy


class Cases(Energy):
    """Case by case over the classes of one discrete attribute: p = Σ_c p(c)·p(branch_c).

    A branch is an energy, True or False. Exact where an attribute occurs more than once in a query: its atoms are not
    independent, but under each of its classes the rest is.
    """

    def __init__(self, columns: slice, branches: Sequence[Energy | bool], temperature: float = 1.0) -> None:
        super().__init__()
        self.columns, self.temperature = columns, temperature
        self.certain = [branch if isinstance(branch, bool) else None for branch in branches]
        self.branches = nn.ModuleDict({str(c): b for c, b in enumerate(branches) if isinstance(b, Energy)})

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_p = (u[:, self.columns] / self.temperature).log_softmax(1)
        true: list[Tensor] = []
        false: list[Tensor] = []
        for index, certain in enumerate(self.certain):
            if certain is not None:
                (true if certain else false).append(log_p[:, index])
            else:
                l, l_bar = self.branches[str(index)].pair(u)  # type: ignore[operator]
                true.append(log_p[:, index] + l)
                false.append(log_p[:, index] + l_bar)
        return torch.stack(true).logsumexp(0), torch.stack(false).logsumexp(0)

    def _map(self, change: str, argument: object, temperature: float) -> Energy:
        branches = [
            getattr(self.branches[str(index)], change)(argument) if certain is None else certain
            for index, certain in enumerate(self.certain)
        ]
        return Cases(self.columns, branches, temperature)

    def rows(self, index: Tensor | slice) -> Energy:
        return self._map("rows", index, self.temperature)

    def tempered(self, temperature: float) -> Energy:
        return self._map("tempered", temperature, self.temperature * temperature)

    def extra_repr(self) -> str:
        return f"columns {self.columns.start}:{self.columns.stop}, certain {self.certain}"


class PaperOr(Energy):
    """E = -log(20·exp(-E_1) + exp(-E_2)): the paper's disjunction, in which the first side weighs more."""

    def __init__(self, left: Energy, right: Energy) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, u: Tensor) -> Tensor:
        return -torch.logaddexp(math.log(20) - self.left(u), -self.right(u))

    is_probability = False

    def rows(self, index: Tensor | slice) -> Energy:
        return PaperOr(self.left.rows(index), self.right.rows(index))

    def tempered(self, temperature: float) -> Energy:
        return PaperOr(self.left.tempered(temperature), self.right.tempered(temperature))


class PaperNot(Energy):
    """E = -α·E_1 with α = min(0.1/|E_1|, 1) held constant: the paper's negation inside a sum, a gentle push."""

    def __init__(self, inner: Energy) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, u: Tensor) -> Tensor:
        energy = self.inner(u)
        return -(0.1 / energy.detach().abs()).clamp(max=1) * energy

    is_probability = False

    def rows(self, index: Tensor | slice) -> Energy:
        return PaperNot(self.inner.rows(index))

    def tempered(self, temperature: float) -> Energy:
        return PaperNot(self.inner.tempered(temperature))
