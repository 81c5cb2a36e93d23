"""The class of energies and its algebra: a combination of energies is an energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import LaceError

Map = Callable[[Tensor], Tensor]
Vjp = Callable[[Tensor], Tensor]


class Energy(nn.Module):
    """An energy E(u): (B, D) -> (B,), the negative log of an unnormalised density p(u) ∝ exp(-E(u)).

    Energies of events (attribute terms and the logic of them) also have the pair (l, l̄) = (log p, log(1 - p)) with
    E = -l, which makes negation and disjunction exact. `a & b` (also `a + b`), `a | b`, `~a`, `weight * a`,
    `a.tempered(τ)` and `a.pullback(g)` are energies again.

    A leaf defines `forward` or `pair`, and `rows` if it holds one value for each sample. A combinator also defines
    `rebuilt`, from which `rows`, `tempered` and `guide` follow.

    References:
        Eq. 3 of LACE (arXiv 2110.10873): the sum of energies is the product of densities.

    Example:
        >>> import torch
        >>> class Bowl(Energy):
        ...     def forward(self, u):
        ...         return u.square().sum(1)
        >>> value, gradient = (3 * Bowl() + Bowl()).value_and_grad(torch.ones(2, 5))
        >>> value.tolist(), gradient[0].tolist()
        ([20.0, 20.0], [8.0, 8.0, 8.0, 8.0, 8.0])
    """

    # What u is where the energy stands beside a query: z, w, or x for pictures.
    space: str = "z"

    def forward(self, u: Tensor) -> Tensor:
        """Return E(u) (B,) for u (B, D); an event needs to define `pair` only."""
        return -self.pair(u)[0]

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return (log p, log(1 - p)) of the event, each (B,).

        Raises:
            LaceError: when the energy is not that of an event.
        """
        raise LaceError(
            f"Logic needs the probability of an event, and {type(self).__name__} is an energy without one: "
            "combine it with & or +, or negate before weighting."
        )

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return E (B,) and ∂E/∂u (B, D), detached; works inside no_grad and inference_mode, keeps no graph."""
        with torch.inference_mode(False), torch.enable_grad():
            x = u.detach().clone().requires_grad_(True)
            value: Tensor = self(x)
            if not value.requires_grad:
                return value, torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        """Return this combinator with `change(part)` in the place of each part.

        The same object is returned where `change` returns every part itself, and for a leaf, which has no parts.

        Args:
            change: a function from an energy to the energy that replaces it.
        """
        return self

    def rows(self, index: Tensor | slice) -> Energy:
        """Return the energy of the samples `index` of the batch; per-sample values are indexed, the rest is shared.

        Args:
            index: numbers of samples (M,) int64, a mask (B,) bool, or a slice.
        """
        return self.rebuilt(lambda part: part.rows(index))

    def tempered(self, temperature: float) -> Energy:
        """Return the energy in which the logits of every discrete attribute are divided by `temperature` (above 0)."""
        return self.rebuilt(lambda part: part.tempered(temperature))

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return E (B,), ∂E/∂u (B, D) and rows G (B, K, D) with ∂²E/∂u² ≈ GᵀG (Gauss-Newton).

        K is 0 where no such factor is known.
        """
        value, gradient = self.value_and_grad(u)
        return value, gradient, gradient.new_zeros(len(gradient), 0, gradient.shape[1])

    @property
    def is_probability(self) -> bool:
        """Whether exp(-E) is at most 1, as the probability of an event is; rejection sampling needs it."""
        return True

    @property
    def guide(self) -> Energy:
        """The energy whose gradient flows and proposals follow: this one, except where a part is a hard region."""
        return self.rebuilt(lambda part: part.guide)

    @property
    def power(self) -> float:
        """The exponent γ of an energy -γ·log p of an event; NaN where samples have several."""
        return 1.0

    def pullback(self, map: Map | None) -> Energy:
        """Return u ↦ E(map(u)); None is the identity."""
        return self if map is None else Pullback(self, map)

    def __and__(self, other: Energy) -> Energy:
        return And(self, other)

    def __add__(self, other: Energy) -> Energy:
        return self & other

    def __or__(self, other: Energy) -> Energy:
        return Or(self, other)

    def __invert__(self) -> Energy:
        return Not(self)

    def __mul__(self, weight: float | Tensor) -> Energy:
        return Weighted(self, weight)

    __rmul__ = __mul__


class And(Energy):
    """The sum of energies E = Σ E_i, which for independent events is their conjunction, l = Σ l_i.

    Args:
        parts: at least one energy of the same u; the parts of an `And` take its place.

    References:
        Eq. 3 of LACE.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Discrete, Prior
        >>> both = Discrete(slice(0, 2), 1) & Prior()
        >>> both(torch.zeros(1, 2)).exp()
        tensor([2.])
    """

    parts: nn.ModuleList

    def __init__(self, *parts: Energy) -> None:
        super().__init__()
        flat: list[Energy] = []
        for part in parts:
            flat.extend(part.terms if isinstance(part, And) else [part])
        self.parts = nn.ModuleList(flat)

    @property
    def terms(self) -> list[Energy]:
        """The parts as a list."""
        return [cast(Energy, part) for part in self.parts]

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        old = self.terms
        new = [change(part) for part in old]
        return self if all(after is before for after, before in zip(new, old, strict=True)) else And(*new)

    def forward(self, u: Tensor) -> Tensor:
        return torch.stack([part(u) for part in self.parts]).sum(0)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        first, *rest = self.terms
        l, l_bar = first.pair(u)
        for part in rest:
            other, other_bar = part.pair(u)
            l, l_bar = l + other, torch.logaddexp(l_bar, l + other_bar)
        return l, l_bar

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        results = [part.value_and_grad(u) for part in self.terms]
        return torch.stack([value for value, _ in results]).sum(0), torch.stack([grad for _, grad in results]).sum(0)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, gradients, rows = zip(*(part.curvature(u) for part in self.terms), strict=True)
        return torch.stack(values).sum(0), torch.stack(gradients).sum(0), torch.cat(rows, 1)

    @property
    def is_probability(self) -> bool:
        return all(part.is_probability for part in self.terms)

    @property
    def power(self) -> float:
        powers = {float(part.power) for part in self.terms}
        return powers.pop() if len(powers) == 1 else math.nan


class Or(Energy):
    """The exact disjunction of two independent events: l = logaddexp(l_1, l_2 + l̄_1), l̄ = l̄_1 + l̄_2.

    Args:
        left: the energy of an event.
        right: the energy of an event that is independent of it given u.

    Raises:
        LaceError: at evaluation, when a side is not the energy of an event.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Discrete
        >>> either = Discrete(slice(0, 2), 1) | Discrete(slice(2, 4), 1)
        >>> torch.exp(-either(torch.zeros(1, 4)))
        tensor([0.7500])
    """

    left: Energy
    right: Energy

    def __init__(self, left: Energy, right: Energy) -> None:
        super().__init__()
        self.left, self.right = left, right

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        left, right = change(self.left), change(self.right)
        return self if left is self.left and right is self.right else Or(left, right)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        (l1, l1_bar), (l2, l2_bar) = self.left.pair(u), self.right.pair(u)
        return torch.logaddexp(l1, l2 + l1_bar), l1_bar + l2_bar


class Not(Energy):
    """The exact negation of an event: (l, l̄) becomes (l̄, l), and the negation of a negation is the event itself.

    Args:
        inner: the energy of an event.

    Raises:
        LaceError: at evaluation, when `inner` is not the energy of an event.

    Example:
        >>> from lace_lightning.energies import Discrete
        >>> event = Discrete(slice(0, 3), 1)
        >>> Not(Not(event)) is event
        True
    """

    inner: Energy

    def __new__(cls, inner: Energy) -> Energy:  # type: ignore[misc]
        return inner.inner if isinstance(inner, Not) else super().__new__(cls)

    def __init__(self, inner: Energy) -> None:
        super().__init__()
        self.inner = inner

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        inner = change(self.inner)
        return self if inner is self.inner else Not(inner)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        l, l_bar = self.inner.pair(u)
        return l_bar, l


class Weighted(Energy):
    """The energy γ·E, for the posterior N(z)·p(c|w)^γ.

    Args:
        inner: the energy E.
        weight: γ, one number for all samples or a tensor (B,) with one for each.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> (torch.tensor([1.0, 2.0]) * Prior())(torch.ones(2, 4))
        tensor([2., 4.])
    """

    inner: Energy
    per_sample: Tensor | None

    def __init__(self, inner: Energy, weight: float | Tensor) -> None:
        super().__init__()
        self.inner = inner
        each = isinstance(weight, Tensor) and weight.ndim > 0
        self.number = 1.0 if each else float(weight)
        with torch.inference_mode(False):
            self.register_buffer(
                "per_sample", torch.as_tensor(weight).detach().clone() if each else None, persistent=False
            )

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        inner = change(self.inner)
        return self if inner is self.inner else Weighted(inner, self.weight)

    def rows(self, index: Tensor | slice) -> Energy:
        if self.per_sample is None:
            return super().rows(index)
        return Weighted(self.inner.rows(index), self.per_sample[index])

    def _times(self, value: Tensor) -> Tensor:
        if self.per_sample is None:
            return self.number * value
        return self.per_sample.to(value).view(-1, *[1] * (value.ndim - 1)) * value

    def _times_root(self, rows: Tensor) -> Tensor:
        if self.per_sample is None:
            return cast(Tensor, max(self.number, 0.0) ** 0.5 * rows)
        return self.per_sample.to(rows).clamp(min=0).sqrt()[:, None, None] * rows

    def forward(self, u: Tensor) -> Tensor:
        return self._times(self.inner(u))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.inner.value_and_grad(u)
        return self._times(value), self._times(gradient)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, rows = self.inner.curvature(u)
        return self._times(value), self._times(gradient), self._times_root(rows)

    @property
    def weight(self) -> float | Tensor:
        """The factor γ: a number, or one for each sample (B,)."""
        return self.number if self.per_sample is None else self.per_sample

    @property
    def is_probability(self) -> bool:
        return self.inner.is_probability and bool((torch.as_tensor(self.weight) >= 0).all())

    @property
    def power(self) -> float:
        return self.number * self.inner.power if self.per_sample is None else math.nan

    def extra_repr(self) -> str:
        return f"weight={self.number:g}" if self.per_sample is None else f"{len(self.per_sample)} weights"


class Pullback(Energy):
    """The energy u ↦ E(map(u)); combinations of pull-backs through the same map evaluate the map once.

    A map with a method `linearize(u) -> (map(u), vjp)` is differentiated by it, any other by automatic differentiation.

    Args:
        inner: an energy of map(u).
        map: a function of u (B, *); a module is shared and is no part of the energy's state.

    Example:
        >>> import torch
        >>> from lace_lightning.energies import Prior
        >>> Prior().pullback(torch.nn.Flatten())(torch.ones(2, 3, 4))
        tensor([6., 6.])
    """

    inner: Energy

    def __init__(self, inner: Energy, map: Map) -> None:
        super().__init__()
        self.inner = inner
        # Held in a tuple: a module that is an attribute would become a part of the energy's state.
        self._map = (map,)

    @property
    def map(self) -> Map:
        """The function of u."""
        return self._map[0]

    def rebuilt(self, change: Callable[[Energy], Energy]) -> Energy:
        inner = change(self.inner)
        return self if inner is self.inner else Pullback(inner, self.map)

    def forward(self, u: Tensor) -> Tensor:
        value: Tensor = self.inner(self.map(u))
        return value

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.pair(self.map(u))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        y, vjp = linearize(self.map, u)
        value, gradient = self.inner.value_and_grad(y)
        return value, vjp(gradient)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, vjp = linearize(self.map, u)
        value, gradient, rows = self.inner.curvature(y)
        pulled = [vjp(rows[:, k].reshape(y.shape)) for k in range(rows.shape[1])]
        empty = u.new_zeros(len(u), 0, u.shape[1])
        return value, vjp(gradient), torch.stack(pulled, 1) if pulled else empty

    @property
    def is_probability(self) -> bool:
        return self.inner.is_probability

    @property
    def power(self) -> float:
        return self.inner.power

    def __and__(self, other: Energy) -> Energy:
        if isinstance(other, Pullback) and other.map == self.map:
            return Pullback(self.inner & other.inner, self.map)
        return super().__and__(other)

    def __or__(self, other: Energy) -> Energy:
        if isinstance(other, Pullback) and other.map == self.map:
            return Pullback(self.inner | other.inner, self.map)
        return super().__or__(other)

    def __invert__(self) -> Energy:
        return Pullback(~self.inner, self.map)

    def __mul__(self, weight: float | Tensor) -> Energy:
        return Pullback(weight * self.inner, self.map)

    __rmul__ = __mul__

    def extra_repr(self) -> str:
        return f"map={getattr(self.map, '__qualname__', type(self.map).__name__)}"


def linearize(map: Map, u: Tensor) -> tuple[Tensor, Vjp]:
    """Return map(u) and the function g ↦ gᵀ·∂map/∂u, both detached; the graph lives as long as that function.

    Args:
        map: a function of u; its method `linearize`, where it has one, is used.
        u: points (B, *).

    Example:
        >>> import torch
        >>> y, vjp = linearize(torch.sin, torch.zeros(1, 2))
        >>> vjp(torch.ones(1, 2))
        tensor([[1., 1.]])
    """
    if hasattr(map, "linearize"):
        return cast(tuple[Tensor, Vjp], map.linearize(u))
    with torch.inference_mode(False), torch.enable_grad():
        x = u.detach().clone().requires_grad_(True)
        y = map(x)

    def vjp(gradient: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(y, x, gradient.clone(), retain_graph=True)[0]

    return y.detach(), vjp
