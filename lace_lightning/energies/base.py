"""The noun and its algebra: what combines energies is an energy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import LaceError

Map = Callable[[Tensor], Tensor]
Vjp = Callable[[Tensor], Tensor]


class Energy(nn.Module):
    """E(u): (B, D) -> (B,), with p(u) ∝ exp(-E(u)).

    Energies of events (attribute terms and the logic of them) also carry the pair (l, l̄) = (log p, log(1 - p)), with
    E = -l, which makes negation and disjunction exact. `a & b` (also `a + b`), `a | b`, `~a`, `weight * a`,
    `a.tempered(τ)` and `a.pullback(g)` are energies again.
    """

    def forward(self, u: Tensor) -> Tensor:
        """Return E (B,). Events need to define `pair` only."""
        return -self.pair(u)[0]

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return (log p, log(1 - p)), each (B,). Raises LaceError where the energy is not the event of a query."""
        raise LaceError(
            f"Logic needs the probability of an event, and {type(self).__name__} is an energy without one: "
            "combine it with & or +, or negate before weighting."
        )

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return E (B,) and ∂E/∂u (B, D), detached; works inside no_grad and inference_mode, keeps no graph."""
        with torch.inference_mode(False), torch.enable_grad():
            x = u.detach().clone().requires_grad_(True)
            value = self(x)
            if not value.requires_grad:
                return value, torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    def rows(self, index: Tensor | slice) -> Energy:
        """Return the energy of these samples of the batch.

        Per-sample targets are indexed, everything else is shared.
        """
        return self

    def tempered(self, temperature: float) -> Energy:
        """Divide the logits of every discrete attribute by `temperature` before the softmax."""
        return self

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return E (B,), ∂E/∂u (B, D) and rows G (B, K, D) with ∂²E/∂u² ≈ GᵀG (Gauss-Newton), none where it is not
        known.
        """
        value, gradient = self.value_and_grad(u)
        return value, gradient, gradient.new_zeros(len(gradient), 0, gradient.shape[1])

    @property
    def is_probability(self) -> bool:
        """Whether exp(-E) is at most 1, as that of an event is: what rejection needs."""
        return True

    @property
    def guide(self) -> Energy:
        """The energy whose gradient shows the way: this one, except where it is a region with walls."""
        return self

    @property
    def power(self) -> float:
        """γ, where the energy is -γ·log p of an event; NaN where samples have several."""
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
    """E = Σ E_i (Eq. 3): independent events together, or any sum of energies. l = Σ l_i."""

    parts: nn.ModuleList

    def __init__(self, *parts: Energy) -> None:
        super().__init__()
        flat: list[Energy] = []
        for part in parts:
            flat.extend(part.parts if isinstance(part, And) else [part])  # type: ignore[arg-type]
        self.parts = nn.ModuleList(flat)

    def forward(self, u: Tensor) -> Tensor:
        return torch.stack([part(u) for part in self.parts]).sum(0)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        l, l_bar = self.parts[0].pair(u)  # type: ignore[operator]
        for part in list(self.parts)[1:]:
            other, other_bar = part.pair(u)  # type: ignore[operator]
            l, l_bar = l + other, torch.logaddexp(l_bar, l + other_bar)
        return l, l_bar

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        results = [part.value_and_grad(u) for part in self.parts]  # type: ignore[operator]
        return torch.stack([value for value, _ in results]).sum(0), torch.stack([grad for _, grad in results]).sum(0)

    def rows(self, index: Tensor | slice) -> Energy:
        return And(*(part.rows(index) for part in self.parts))  # type: ignore[operator]

    def tempered(self, temperature: float) -> Energy:
        return And(*(part.tempered(temperature) for part in self.parts))  # type: ignore[operator]

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, gradients, rows = zip(*(part.curvature(u) for part in self.parts), strict=True)  # type: ignore[operator]
        return torch.stack(values).sum(0), torch.stack(gradients).sum(0), torch.cat(rows, 1)

    @property
    def is_probability(self) -> bool:
        return all(part.is_probability for part in self.parts)

    @property
    def guide(self) -> Energy:
        guides = [part.guide for part in self.parts]
        return self if all(guide is part for guide, part in zip(guides, self.parts, strict=True)) else And(*guides)  # type: ignore[arg-type]

    @property
    def power(self) -> float:
        powers = {float(part.power) for part in self.parts}  # type: ignore[arg-type]
        return powers.pop() if len(powers) == 1 else math.nan


class Or(Energy):
    """Exact disjunction of independent events: l = logaddexp(l_1, l_2 + l̄_1), l̄ = l̄_1 + l̄_2."""

    left: Energy
    right: Energy

    def __init__(self, left: Energy, right: Energy) -> None:
        super().__init__()
        self.left, self.right = left, right

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        (l1, l1_bar), (l2, l2_bar) = self.left.pair(u), self.right.pair(u)
        return torch.logaddexp(l1, l2 + l1_bar), l1_bar + l2_bar

    def rows(self, index: Tensor | slice) -> Energy:
        return Or(self.left.rows(index), self.right.rows(index))

    def tempered(self, temperature: float) -> Energy:
        return Or(self.left.tempered(temperature), self.right.tempered(temperature))


class Not(Energy):
    """Exact negation: (l, l̄) becomes (l̄, l)."""

    inner: Energy

    def __new__(cls, inner: Energy) -> Energy:  # type: ignore[misc]
        return inner.inner if isinstance(inner, Not) else super().__new__(cls)

    def __init__(self, inner: Energy) -> None:
        super().__init__()
        self.inner = inner

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        l, l_bar = self.inner.pair(u)
        return l_bar, l

    def rows(self, index: Tensor | slice) -> Energy:
        return Not(self.inner.rows(index))

    def tempered(self, temperature: float) -> Energy:
        return Not(self.inner.tempered(temperature))


class Weighted(Energy):
    """weight · E: the posterior N(z)·p(c|w)^γ for weight γ, one for all samples or one for each (B,)."""

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

    def _times(self, value: Tensor) -> Tensor:
        if self.per_sample is None:
            return self.number * value
        return self.per_sample.to(value).view(-1, *[1] * (value.ndim - 1)) * value

    def forward(self, u: Tensor) -> Tensor:
        return self._times(self.inner(u))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.inner.value_and_grad(u)
        return self._times(value), self._times(gradient)

    @property
    def weight(self) -> float | Tensor:
        """Return γ: a number, or one for each sample (B,)."""
        return self.number if self.per_sample is None else self.per_sample

    def rows(self, index: Tensor | slice) -> Energy:
        return Weighted(self.inner.rows(index), self.weight if isinstance(self.weight, float) else self.weight[index])

    def tempered(self, temperature: float) -> Energy:
        return Weighted(self.inner.tempered(temperature), self.weight)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, rows = self.inner.curvature(u)
        return self._times(value), self._times(gradient), self._times_root(rows)

    def _times_root(self, rows: Tensor) -> Tensor:
        if self.per_sample is None:
            return max(self.number, 0.0) ** 0.5 * rows
        return self.per_sample.to(rows).clamp(min=0).sqrt()[:, None, None] * rows

    @property
    def is_probability(self) -> bool:
        return self.inner.is_probability and bool((torch.as_tensor(self.weight) >= 0).all())

    @property
    def guide(self) -> Energy:
        guide = self.inner.guide
        return self if guide is self.inner else Weighted(guide, self.weight)

    @property
    def power(self) -> float:
        return self.number * self.inner.power if self.per_sample is None else math.nan

    def extra_repr(self) -> str:
        return f"weight={self.number:g}" if self.per_sample is None else f"{len(self.per_sample)} weights"


class Pullback(Energy):
    """u ↦ E(map(u)); two pull-backs through the same map combine into one, so that the map runs once per evaluation.

    A map with a method `linearize(u) -> (map(u), vjp)` is differentiated by it, any other by automatic differentiation.
    """

    inner: Energy

    def __init__(self, inner: Energy, map: Map) -> None:
        super().__init__()
        self.inner = inner
        # Held in a tuple: the map is shared, and its weights are no part of the energy's own state.
        self._map = (map,)

    @property
    def map(self) -> Map:
        return self._map[0]

    def forward(self, u: Tensor) -> Tensor:
        return self.inner(self.map(u))

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
    def guide(self) -> Energy:
        guide = self.inner.guide
        return self if guide is self.inner else Pullback(guide, self.map)

    @property
    def power(self) -> float:
        return self.inner.power

    def rows(self, index: Tensor | slice) -> Energy:
        return Pullback(self.inner.rows(index), self.map)

    def tempered(self, temperature: float) -> Energy:
        return Pullback(self.inner.tempered(temperature), self.map)

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
    """Return map(u) and the function g ↦ gᵀ·∂map/∂u, both detached.

    The graph lives only until that function is gone.
    """
    if hasattr(map, "linearize"):
        return map.linearize(u)
    with torch.inference_mode(False), torch.enable_grad():
        x = u.detach().clone().requires_grad_(True)
        y = map(x)

    def vjp(gradient: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(y, x, gradient.clone(), retain_graph=True)[0]

    return y.detach(), vjp
