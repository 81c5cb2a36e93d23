"""What weights tell: how probable the query is, and how many samples they are worth."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_probability(log_weights: Tensor, counts: Tensor | None = None) -> tuple[float, float]:
    """Return log P̂ with P̂ = Σ e^{w_i} / Σ n_i, and the standard error of log P̂ (relative error of P̂).

    `log_weights` (N,); `counts` (N,) says how many draws each sums up, one where it is not given.
    """
    w = log_weights.double()
    n = torch.ones_like(w) if counts is None else counts.double()
    total = float(w.logsumexp(0))
    if total == -math.inf or total < -1e3:
        return -math.inf, math.inf
    log_p = total - math.log(float(n.sum()))
    residual = (w - log_p).exp() - n
    return log_p, float(residual.square().sum().sqrt() / n.sum())


def effective_sample_size(log_weights: Tensor) -> float:
    """Return (Σ e^{w_i})² / Σ e^{2w_i}: what N weighted samples are worth, from 1 to N."""
    w = log_weights.double()
    if not bool((w > -1e3).any()):
        return 0.0
    return float((2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp())
