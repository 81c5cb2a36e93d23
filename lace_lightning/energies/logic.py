"""Events over classes of one attribute, and the logic of the paper as it is stated there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .base import Energy


class Cases(Energy):
    """The event p = Σ_c p(c)·p(branch_c), case by case over the classes c of one discrete attribute.

    It is exact for a query in which an attribute occurs more than once: its atoms are not independent of each other,
    but given its class the rest of the query is independent of them.

    Args:
        columns: the attribute's columns of the logits (B, L), one a class.
        branches: for each class the energy of an event, or True or False where the class decides the query.
        temperature: divides the logits of `columns`, above 0.

    Raises:
        LaceError: at evaluation, when a branch is not the energy of an event.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Discrete
        >>> energy = Cases(slice(0, 2), [False, Discrete(slice(2, 4), 1)])
        >>> torch.exp(-energy(torch.zeros(1, 4)))
        tensor([0.2500])
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
                l, l_bar = self._branch(index).pair(u)
                true.append(log_p[:, index] + l)
                false.append(log_p[:, index] + l_bar)
        return torch.stack(true).logsumexp(0), torch.stack(false).logsumexp(0)

    def _branch(self, index: int) -> Energy:
        return cast(Energy, self.branches[str(index)])

    def _changed(self, change: Callable[[Energy], Energy]) -> list[Energy | bool]:
        """Return the branches with each energy changed."""
        return [
            change(self._branch(index)) if certain is None else certain for index, certain in enumerate(self.certain)
        ]

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        branches = self._changed(change)
        same = all(branch is self._branch(index) for index, branch in enumerate(branches) if isinstance(branch, Energy))
        return self if same else Cases(self.columns, branches, self.temperature)

    def tempered(self, temperature: float) -> Energy:
        branches = self._changed(lambda branch: branch.tempered(temperature))
        return Cases(self.columns, branches, self.temperature * temperature)

    def extra_repr(self) -> str:
        return f"columns {self.columns.start}:{self.columns.stop}, certain {self.certain}"


class PaperOr(Energy):
    """The paper's disjunction E = -log(20·exp(-E_1) + exp(-E_2)), in which the first side weighs more.

    Args:
        left: E_1, any energy.
        right: E_2, any energy.

    References:
        The disjunction in the code of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> torch.exp(-PaperOr(Prior(), Prior())(torch.zeros(1, 2))).round(decimals=3)
        tensor([21.])
    """

    left: Energy
    right: Energy

    def __init__(self, left: Energy, right: Energy) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, u: Tensor) -> Tensor:
        return -torch.logaddexp(math.log(20) - self.left(u), -self.right(u))

    is_probability = False

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        left, right = change(self.left), change(self.right)
        return self if left is self.left and right is self.right else PaperOr(left, right)


class PaperNot(Energy):
    """The paper's negation E = -α·E_1 with α = min(0.1/|E_1|, 1) held constant, of magnitude at most 0.1.

    Args:
        inner: E_1, any energy.

    References:
        The negation in the code of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> PaperNot(Prior())(torch.ones(1, 4))
        tensor([-0.1000])
    """

    inner: Energy

    def __init__(self, inner: Energy) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, u: Tensor) -> Tensor:
        energy: Tensor = self.inner(u)
        return -(0.1 / energy.detach().abs()).clamp(max=1) * energy

    is_probability = False

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        inner = change(self.inner)
        return self if inner is self.inner else PaperNot(inner)
