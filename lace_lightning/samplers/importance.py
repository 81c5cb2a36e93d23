"""Importance weights: the estimate of a probability, and the effective sample size."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_probability(log_weights: Tensor, counts: Tensor | None = None) -> tuple[float, float]:
    """Return log P̂ with P̂ = Σ e^{w_i} / Σ n_i, and the standard error of log P̂ (the relative error of P̂).

    Args:
        log_weights: w (N,), logs of weights or of sums of them.
        counts: n (N,), the number of draws that each sums up; one by default.

    Returns:
        (-inf, inf) where no weight is above e^-1000.

    Example:
        >>> import torch
        >>> log_p, error = log_probability(torch.tensor([0.5, 0.5]).log())
        >>> round(log_p, 4), error < 1e-6
        (-0.6931, True)
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
    """Return the effective sample size (Σ e^{w_i})² / Σ e^{2w_i} of N weighted samples, from 1 to N.

    Args:
        log_weights: w (N,), logs of weights.

    Returns:
        0 where no weight is above e^-1000.

    References:
        Kong, Liu and Wong, Sequential imputations and Bayesian missing data problems, JASA 1994.

    Example:
        >>> import torch
        >>> round(effective_sample_size(torch.zeros(8)), 6)
        8.0
    """
    w = log_weights.double()
    if not bool((w > -1e3).any()):
        return 0.0
    return float((2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp())
