"""Energies of single attributes on logits (B, L), and the prior of latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LaceError
from ..numerics.normal import log_ndtr
from .base import Energy

# Below this energy 1 - exp(-E) is rounding: the negation of a target that is met exactly would have a NaN gradient.
TINY = 1e-12


def _target(value: Tensor | float, dtype: torch.dtype) -> Tensor:
    """Copy a target out of inference mode, so that gradients may pass by it."""
    with torch.inference_mode(False):
        return torch.as_tensor(value, dtype=dtype).detach().clone()


class Term(Energy):
    """Base class of the energies of one attribute; a subclass defines its energy and `_with_target`.

    Args:
        columns: the attribute's columns of the logits (B, L).
        target: the value that is asked for, one for all samples or a tensor (B,).
        dtype: the type in which the target is held.

    Example:
        >>> import torch
        >>> term = Discrete(slice(0, 3), torch.tensor([0, 1, 2]))
        >>> isinstance(term, Term), term.rows(slice(1, 3)).target.tolist()
        (True, [1, 2])
    """

    target: Tensor

    def __init__(self, columns: slice, target: Tensor | float, dtype: torch.dtype) -> None:
        super().__init__()
        self.columns = columns
        self.register_buffer("target", _target(target, dtype), persistent=False)

    def _with_target(self, target: Tensor) -> Energy:
        raise NotImplementedError

    def rows(self, index: Tensor | slice) -> Energy:
        return self if self.target.ndim == 0 else self._with_target(self.target[index])

    def extra_repr(self) -> str:
        target = f"{self.target.item():g}" if self.target.ndim == 0 else f"{len(self.target)} values"
        return f"columns {self.columns.start}:{self.columns.stop}, target {target}"


class Discrete(Term):
    """The energy E(c|u) = -f[c] + logsumexp f of class c, for logits f that are divided by a temperature.

    Args:
        columns: the attribute's columns of the logits (B, L), one a class.
        target: the class c, a number from 0, one for all samples or a tensor (B,) int64.
        temperature: divides the logits f, above 0.
        paper_temperature: divide f[c] alone, as the paper's code does. At a temperature other than 1 that is no
            probability and takes part in no logic.

    Raises:
        LaceError: when the temperature is not above 0; in `pair`, when the energy is no probability.

    References:
        Eq. 4 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> torch.exp(-Discrete(slice(0, 4), 2)(torch.zeros(1, 4)))
        tensor([0.2500])
    """

    def __init__(
        self, columns: slice, target: Tensor | float, temperature: float = 1.0, paper_temperature: bool = False
    ) -> None:
        if not temperature > 0:
            raise LaceError(f"A temperature must be above 0, received {temperature}: 1 is the classifier's own.")
        super().__init__(columns, target, torch.long)
        self.temperature, self.paper_temperature = float(temperature), paper_temperature

    def _split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        f = u[:, self.columns]
        return f, self.target.to(u.device).expand(f.shape[0])

    def forward(self, u: Tensor) -> Tensor:
        f, target = self._split(u)
        chosen = f.gather(1, target[:, None])[:, 0] / self.temperature
        return (f if self.paper_temperature else f / self.temperature).logsumexp(1) - chosen

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.paper_temperature and self.temperature != 1:
            raise LaceError(
                "Logic needs normalised probabilities, and paper_temperature leaves the normaliser untempered: "
                "set paper_temperature=False."
            )
        f, target = self._split(u)
        log_p = (f / self.temperature).log_softmax(1)
        # A large finite number, not infinity, keeps the gradients of the other classes free of 0·inf.
        others = log_p.masked_fill(F.one_hot(target, f.shape[1]).bool(), torch.finfo(f.dtype).min)
        return log_p.gather(1, target[:, None])[:, 0], others.logsumexp(1)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach()
        f, target = self._split(u)
        gradient = torch.zeros_like(u)
        chosen = F.one_hot(target, f.shape[1]).to(f.dtype) / self.temperature
        scale = 1.0 if self.paper_temperature else 1 / self.temperature
        log_p = (f * scale if scale != 1 else f).log_softmax(1)
        gradient[:, self.columns] = log_p.exp() * scale - chosen
        if not self.paper_temperature:
            return -log_p.gather(1, target[:, None])[:, 0], gradient
        # logsumexp is what log_softmax took away, the same in every column.
        return f[:, 0] - log_p[:, 0] - (f * chosen).sum(1), gradient

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # diag(p) - ppᵀ = Σ_c p_c (e_c - p)(e_c - p)ᵀ, of which two classes need one term.
        value, gradient = self.value_and_grad(u)
        f, _ = self._split(u.detach())
        p = (f / self.temperature).softmax(1)
        classes = f.shape[1]
        rows = u.new_zeros(len(u), 1 if classes == 2 else classes, u.shape[1])
        if classes == 2:
            rows[:, 0, self.columns] = (
                p.prod(1, keepdim=True).sqrt() * torch.tensor([1.0, -1.0]).to(p) / self.temperature
            )
        else:
            rows[:, :, self.columns] = p.sqrt()[:, :, None] * (torch.eye(classes).to(p) - p[:, None]) / self.temperature
        return value, gradient, rows

    @property
    def is_probability(self) -> bool:
        return not self.paper_temperature or self.temperature == 1

    def _with_target(self, target: Tensor) -> Energy:
        return Discrete(self.columns, target, self.temperature, self.paper_temperature)

    def tempered(self, temperature: float) -> Energy:
        return Discrete(self.columns, self.target, self.temperature * temperature, self.paper_temperature)


class Continuous(Term):
    """The energy E(c|u) = (c - f)²/(2σ²) of a continuous value c; as an event its probability is exp(-E).

    Args:
        columns: the attribute's one column of the logits (B, L).
        target: c in units of the attribute (0 to 1 for labels), one for all samples or a tensor (B,).
        sigma: the classifier's error σ in the same units, above 0.

    Raises:
        LaceError: when sigma is not above 0.

    References:
        Eq. 4 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> Continuous(slice(0, 1), 0.5, sigma=0.5)(torch.tensor([[1.0]]))
        tensor([0.5000])
    """

    def __init__(self, columns: slice, target: Tensor | float, sigma: float = 0.1) -> None:
        super().__init__(columns, target, torch.float32)
        self.sigma = _positive(sigma)

    def forward(self, u: Tensor) -> Tensor:
        return (self.target.to(u) - u[:, self.columns.start]).square() / (2 * self.sigma**2)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        energy = self(u)
        return -energy, torch.log(-torch.expm1(-energy.clamp(min=TINY)))

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach()
        error = u[:, self.columns.start] - self.target.to(u)
        gradient = torch.zeros_like(u)
        gradient[:, self.columns.start] = error / self.sigma**2
        return error.square() / (2 * self.sigma**2), gradient

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient = self.value_and_grad(u)
        rows = u.new_zeros(len(u), 1, u.shape[1])
        rows[:, 0, self.columns.start] = 1 / self.sigma
        return value, gradient, rows

    def _with_target(self, target: Tensor) -> Energy:
        return Continuous(self.columns, target, self.sigma)


class HalfLine(Term):
    """The event that a continuous value lies below (or above) a threshold τ: p = Φ((τ - f)/σ).

    Args:
        columns: the attribute's one column of the logits (B, L).
        target: τ in units of the attribute, one for all samples or a tensor (B,).
        above: the event is that the value lies above τ.
        sigma: the standard deviation σ of the classifier's normal error, above 0.

    Raises:
        LaceError: when sigma is not above 0.

    Example:
        >>> import torch
        >>> torch.exp(-HalfLine(slice(0, 1), 0.5)(torch.tensor([[0.5]])))
        tensor([0.5000])
    """

    def __init__(self, columns: slice, target: Tensor | float, above: bool = False, sigma: float = 0.1) -> None:
        super().__init__(columns, target, torch.float32)
        self.above, self.sigma = above, _positive(sigma)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        x = (self.target.to(u) - u[:, self.columns.start]) / self.sigma
        x = -x if self.above else x
        return log_ndtr(x), log_ndtr(-x)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # With x = ±(τ - f)/σ and m = φ(x)/Φ(x) the second derivative of -log Φ(x) in f is m(x + m)/σ².
        value, gradient = self.value_and_grad(u)
        x = (self.target.to(u) - u.detach()[:, self.columns.start]) / self.sigma
        x = -x if self.above else x
        m = torch.exp(-x.square() / 2 - log_ndtr(x)) / math.sqrt(2 * math.pi)
        rows = u.new_zeros(len(u), 1, u.shape[1])
        rows[:, 0, self.columns.start] = (m * (x + m)).clamp(min=0).sqrt() / self.sigma
        return value, gradient, rows

    def _with_target(self, target: Tensor) -> Energy:
        return HalfLine(self.columns, target, self.above, self.sigma)


class Interval(Energy):
    """The event that a continuous value lies between a and b: p = Φ((b - f)/σ) - Φ((a - f)/σ).

    Value and gradient are stable where p is tiny: both ends are taken to the lower tail, and computed in float64.

    Args:
        columns: the attribute's one column of the logits (B, L).
        low: a, in units of the attribute, below `high`.
        high: b, in units of the attribute.
        sigma: the standard deviation σ of the classifier's normal error, above 0.

    Raises:
        LaceError: when sigma is not above 0, and for an interval that is empty.

    Example:
        >>> import torch
        >>> torch.exp(-Interval(slice(0, 1), 0.4, 0.6, sigma=0.1)(torch.tensor([[0.5]]))).round(decimals=4)
        tensor([0.6827])
    """

    def __init__(self, columns: slice, low: float, high: float, sigma: float = 0.1) -> None:
        super().__init__()
        if not low < high:
            raise LaceError(
                f"An interval must begin below its end, received {low:g} to {high:g}: write the smaller value first, "
                "and `==` for a single value."
            )
        self.columns, self.low, self.high, self.sigma = columns, float(low), float(high), _positive(sigma)

    def _ends(self, u: Tensor) -> tuple[Tensor, Tensor]:
        f = u[:, self.columns.start].double()
        return (self.low - f) / self.sigma, (self.high - f) / self.sigma

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._ends(u)
        outside = torch.logaddexp(log_ndtr(a), log_ndtr(-b))
        return _log_between(a, b).to(u.dtype), outside.to(u.dtype)

    def _ratios(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return a, b, φ(a)/p, φ(b)/p and log p, where φ is the normal density."""
        a, b = self._ends(u.detach())
        log_p = _log_between(a, b)
        low, high = (torch.exp(-x.square() / 2 - math.log(2 * math.pi) / 2 - log_p) for x in (a, b))
        return a, b, low, high, log_p

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        _, _, low, high, log_p = self._ratios(u)
        gradient = torch.zeros_like(u)
        gradient[:, self.columns.start] = ((high - low) / self.sigma).to(u.dtype)
        return -log_p.to(u.dtype), gradient

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The second derivative of -log p in f, with r = φ/p at the ends, is (b·r_b - a·r_a + (r_b - r_a)²)/σ².
        value, gradient = self.value_and_grad(u)
        a, b, low, high, _ = self._ratios(u)
        rows = u.new_zeros(len(u), 1, u.shape[1])
        second = b * high - a * low + (high - low).square()
        rows[:, 0, self.columns.start] = (second.clamp(min=0).sqrt() / self.sigma).to(u.dtype)
        return value, gradient, rows

    def extra_repr(self) -> str:
        return f"columns {self.columns.start}:{self.columns.stop}, {self.low:g} to {self.high:g}"


class OneOf(Energy):
    """The event that a discrete attribute has one of several classes: p = Σ_c p(c), for logits f.

    Args:
        columns: the attribute's columns of the logits (B, L), one a class.
        classes: numbers of the classes from 0, at least one and not all of them.
        temperature: divides the logits f, above 0.

    Raises:
        LaceError: when the temperature is not above 0, and for no class or all of them.

    Example:
        >>> import torch
        >>> torch.exp(-OneOf(slice(0, 4), [0, 2])(torch.zeros(1, 4)))
        tensor([0.5000])
    """

    inside: Tensor

    def __init__(self, columns: slice, classes: Sequence[int], temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise LaceError(f"A temperature must be above 0, received {temperature}: 1 is the classifier's own.")
        self.columns, self.classes, self.temperature = columns, sorted(set(classes)), float(temperature)
        count = columns.stop - columns.start
        if not self.classes or len(self.classes) >= count or self.classes[0] < 0 or self.classes[-1] >= count:
            raise LaceError(
                f"Some of the classes 0 to {count - 1} must be chosen, and not all, received {list(classes)}: correct "
                "them."
            )
        with torch.inference_mode(False):
            inside = torch.zeros(count, dtype=torch.bool)
            inside[self.classes] = True
            self.register_buffer("inside", inside, persistent=False)

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p (B, C) of all classes, and of those inside and outside, where the others count for nothing."""
        log_p = (u[:, self.columns] / self.temperature).log_softmax(1)
        inside = self.inside.to(u.device)
        # A large finite number, not infinity, keeps the gradients free of 0·inf.
        lowest = torch.finfo(log_p.dtype).min
        return log_p, log_p.masked_fill(~inside, lowest), log_p.masked_fill(inside, lowest)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        _, inside, outside = self._parts(u)
        return inside.logsumexp(1), outside.logsumexp(1)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_p, inside, _ = self._parts(u.detach())
        gradient = torch.zeros_like(u)
        gradient[:, self.columns] = (log_p.exp() - inside.softmax(1)) / self.temperature
        return -inside.logsumexp(1), gradient

    def tempered(self, temperature: float) -> Energy:
        return OneOf(self.columns, self.classes, self.temperature * temperature)

    def extra_repr(self) -> str:
        return f"columns {self.columns.start}:{self.columns.stop}, classes {self.classes}"


class Prior(Energy):
    """The energy E(z) = ½‖z‖² of the standard normal prior of latents z (B, D), up to its constant.

    References:
        Eq. 5 of LACE (arXiv 2110.10873).

    Example:
        >>> import torch
        >>> Prior()(torch.ones(1, 4))
        tensor([2.])
    """

    def forward(self, u: Tensor) -> Tensor:
        return u.square().sum(1) / 2

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach()
        return u.square().sum(1) / 2, u.clone()


def _log_between(a: Tensor, b: Tensor) -> Tensor:
    """Return log(Φ(b) - Φ(a)) for a < b, without cancellation in either tail."""
    # Φ(b) - Φ(a) = Φ(-a) - Φ(-b): in the lower tail the logs of both are exact.
    upper = a + b > 0
    a, b = torch.where(upper, -b, a), torch.where(upper, -a, b)
    log_b = log_ndtr(b)
    # Far from f both ends round to one number: the difference stays below 0.
    ratio = (log_ndtr(a) - log_b).clamp(max=-TINY)
    result: Tensor = log_b + torch.log(-torch.expm1(ratio))
    return result


def _positive(sigma: float) -> float:
    if not sigma > 0:
        raise LaceError(f"sigma, the classifier's error, must be above 0, received {sigma}: 0.1 is the paper's.")
    return float(sigma)
