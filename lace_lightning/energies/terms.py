"""Energies of single attributes on logits (B, L), and the prior of latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LaceError
from .base import Energy

# Below this energy 1 - exp(-E) is rounding: a target that is met exactly would have a negation without gradient (NaN).
TINY = 1e-12


def _target(value: Tensor | float, dtype: torch.dtype) -> Tensor:
    """Copy a target out of inference mode, so that gradients may pass by it."""
    with torch.inference_mode(False):
        return torch.as_tensor(value, dtype=dtype).detach().clone()


class Term(Energy):
    """An attribute's energy: reads the columns `columns` of the logits; `target` is one value or one per sample."""

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
    """E(c|u) = -f[c] + logsumexp f (Eq. 4), with logits divided by `temperature`.

    With `paper_temperature` only f[c] is divided, as in the paper's code; that is no probability and takes part in no
    logic.
    """

    def __init__(
        self, columns: slice, target: Tensor | int, temperature: float = 1.0, paper_temperature: bool = False
    ) -> None:
        if not temperature > 0:
            raise LaceError(f"A temperature must be above 0, received {temperature}: 1 is the classifier's own.")
        super().__init__(columns, target, torch.long)
        self.temperature, self.paper_temperature = float(temperature), paper_temperature

    def _split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        f = u[:, self.columns]
        return f, self.target.to(u.device).expand(len(f))

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
    """E(c|u) = (c - f)² / (2σ²) (Eq. 4); as an event its probability is exp(-E)."""

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
    """The event f < τ (or f > τ with `above`) for a classifier with error σ: p = Φ((τ - f)/σ)."""

    def __init__(self, columns: slice, target: Tensor | float, above: bool = False, sigma: float = 0.1) -> None:
        super().__init__(columns, target, torch.float32)
        self.above, self.sigma = above, _positive(sigma)

    def pair(self, u: Tensor) -> tuple[Tensor, Tensor]:
        x = (self.target.to(u) - u[:, self.columns.start]) / self.sigma
        x = -x if self.above else x
        return torch.special.log_ndtr(x), torch.special.log_ndtr(-x)

    def curvature(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # With x = ±(τ - f)/σ and m = φ(x)/Φ(x) the second derivative of -log Φ(x) in f is m(x + m)/σ².
        value, gradient = self.value_and_grad(u)
        x = (self.target.to(u) - u.detach()[:, self.columns.start]) / self.sigma
        x = -x if self.above else x
        m = torch.exp(-x.square() / 2 - torch.special.log_ndtr(x)) / math.sqrt(2 * math.pi)
        rows = u.new_zeros(len(u), 1, u.shape[1])
        rows[:, 0, self.columns.start] = (m * (x + m)).clamp(min=0).sqrt() / self.sigma
        return value, gradient, rows

    def _with_target(self, target: Tensor) -> Energy:
        return HalfLine(self.columns, target, self.above, self.sigma)


class Prior(Energy):
    """E(z) = ½‖z‖², the standard normal prior (Eq. 5) up to its constant."""

    def forward(self, u: Tensor) -> Tensor:
        return u.square().sum(1) / 2

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach()
        return u.square().sum(1) / 2, u.clone()


def _positive(sigma: float) -> float:
    if not sigma > 0:
        raise LaceError(f"sigma, the classifier's error, must be above 0, received {sigma}: 0.1 is the paper's.")
    return float(sigma)
