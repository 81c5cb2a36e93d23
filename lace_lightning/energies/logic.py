"""Events over the values of one attribute, counts of events, and the logic of the paper as it is stated there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import LaceError
from .base import Energy
from .terms import HalfLine, Interval


class Certain(Energy):
    """The event that always happens: E = 0.

    Example:
        >>> Certain()(torch.ones(2, 3))
        tensor([0., 0.])
    """

    def forward(self, u: Tensor) -> Tensor:
        return u.new_zeros(len(u))

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        zero = u.new_zeros(len(u))
        return zero, zero - math.inf

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return u.new_zeros(len(u)), torch.zeros_like(u)


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
        log_p = self._log_p(u)
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

    def _log_p(self, u: Tensor) -> Tensor:
        """Return the logs (B, N) of the probabilities of the cases."""
        return (u[:, self.columns] / self.temperature).log_softmax(1)

    def _with_branches(self, branches: Sequence[Energy | bool], temperature: float) -> Cases:
        """Return these cases with other branches."""
        return Cases(self.columns, branches, temperature)

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
        return self if same else self._with_branches(branches, self.temperature)

    def tempered(self, temperature: float) -> Energy:
        branches = self._changed(lambda branch: branch.tempered(temperature))
        return self._with_branches(branches, self.temperature * temperature)

    def extra_repr(self) -> str:
        return f"columns {self.columns.start}:{self.columns.stop}, certain {self.certain}"


class Cells(Cases):
    """The event p = Σ_i p(cell_i)·p(branch_i) over the cells into which bounds divide a continuous attribute.

    It is exact for a query with several bounds of one attribute, whose value is N(f, σ²): given its cell, the rest of
    the query is independent of it.

    Args:
        columns: the attribute's one column of the logits (B, L).
        bounds: values in ascending order, at least one; the cells lie below, between and above them.
        branches: for each cell, one more than bounds, the energy of an event, or True or False.
        sigma: the standard deviation σ of the classifier's normal error, above 0.

    Raises:
        LaceError: when sigma is not above 0; at evaluation, when a branch is not the energy of an event.

    Example:
        >>> outside = Cells(slice(0, 1), [0.4, 0.6], [True, False, True], sigma=0.1)
        >>> torch.exp(-outside(torch.tensor([[0.5]]))).round(decimals=4)
        tensor([0.3173])
    """

    def __init__(
        self, columns: slice, bounds: Sequence[float], branches: Sequence[Energy | bool], sigma: float = 0.1
    ) -> None:
        super().__init__(columns, branches)
        self.bounds, self.sigma = list(bounds), sigma
        first, last = HalfLine(columns, bounds[0], sigma=sigma), HalfLine(columns, bounds[-1], True, sigma)
        between = [Interval(columns, low, high, sigma) for low, high in pairwise(bounds)]
        self.cells = nn.ModuleList([first, *between, last])

    def _log_p(self, u: Tensor) -> Tensor:
        return torch.stack([cell.pair(u)[0] for cell in self.cells], 1)  # type: ignore[operator]

    def _with_branches(self, branches: Sequence[Energy | bool], temperature: float) -> Cases:
        return Cells(self.columns, self.bounds, branches, self.sigma)

    def extra_repr(self) -> str:
        return f"column {self.columns.start}, bounds {self.bounds}, certain {self.certain}"


class Count(Energy):
    """The event that at least, at most or exactly k of several independent events happen.

    The logs of the probabilities of 0, 1, ... events are the recursion log p_i(j) = logaddexp(log p_{i-1}(j) + l̄_i,
    log p_{i-1}(j-1) + l_i). Event and complement are sums of them, so that neither is a difference.

    Args:
        allowed: the numbers of events that count, at least one of 0 to their number, and not all of these.
        events: energies of events that are independent given u, at least one.

    Raises:
        LaceError: when every or no number of events is allowed; at evaluation, when a part is no event.

    References:
        The Poisson binomial distribution.

    Example:
        >>> from lace_lightning.energies import Discrete
        >>> two_or_more = Count([2, 3], [Discrete(slice(2 * i, 2 * i + 2), 1) for i in range(3)])
        >>> torch.exp(-two_or_more(torch.zeros(1, 6)))
        tensor([0.5000])
    """

    events: nn.ModuleList

    def __init__(self, allowed: Sequence[int], events: Sequence[Energy]) -> None:
        super().__init__()
        self.allowed = sorted(set(allowed) & set(range(len(events) + 1)))
        if not 0 < len(self.allowed) <= len(events):
            raise LaceError(
                f"Some of the numbers 0 to {len(events)} must be allowed, and not all, received {list(allowed)}: "
                "correct them."
            )
        self.events = nn.ModuleList(events)

    @property
    def _events(self) -> list[Energy]:
        return [cast(Energy, event) for event in self.events]

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        table: list[Tensor] = []
        for event in self._events:
            l, l_bar = event.pair(u)
            if not table:
                table = [l_bar, l]
                continue
            between = [torch.logaddexp(more + l_bar, less + l) for less, more in pairwise(table)]
            table = [table[0] + l_bar, *between, table[-1] + l]
        true = [table[number] for number in self.allowed]
        false = [log_p for number, log_p in enumerate(table) if number not in self.allowed]
        return torch.stack(true).logsumexp(0), torch.stack(false).logsumexp(0)

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        events = [change(event) for event in self._events]
        same = all(after is before for after, before in zip(events, self._events, strict=True))
        return self if same else Count(self.allowed, events)

    def extra_repr(self) -> str:
        return f"{self.allowed} of {len(self.events)}"


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
