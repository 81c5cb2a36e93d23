"""Diagnostics of a sampler from its weights and latents: log P, effective sample size, confidence, spread."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

# With fewer effective starting points a group's spread under the target is not estimated from them.
ENOUGH = 10
# Where no sample has a p(c|u) above this, the query is said to have next to no probability.
LOWEST = 1e-3


class SamplerDiagnosis(Metric):
    """log P(c), effective sample size, confidence and spread, from weights of the sampler and of the starting points.

    Only sums are kept, so that results of processes add up.

    Args:
        dim: Dimension D of the latents u.
        groups: Number of groups of samples, one for every combination of free classes.

    Returns:
        From `compute`: `log_p`, the log of the query's probability P, and `log_p/error`, its standard error; `ess`, the
        effective number of samples as a share; `confidence`, the mean p(c|u) of the samples, and `predicted`, that of
        exact samples as the starting points give it; `spread`, tr Cov(u) averaged over groups, and `spread/reference`,
        that of exact samples. A figure that cannot be estimated is left out.

    Example:
        >>> diagnosis = SamplerDiagnosis(dim=2)
        >>> u, group = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, dtype=torch.long)
        >>> diagnosis.update(u, torch.zeros(2), group)
        >>> diagnosis.compute()
        {'confidence': 1.0, 'spread': 2.0}
    """

    full_state_update = False
    weights: Tensor
    event: Tensor
    start: Tensor
    sums: Tensor
    samples: Tensor
    exact: Tensor
    highest: Tensor

    def __init__(self, dim: int, groups: int = 1) -> None:
        super().__init__()
        self.dim, self.groups = dim, groups
        for name, shape in (
            ("weights", (3,)),
            ("event", (5,)),
            ("start", (groups, 7)),
            ("sums", (3,)),
            ("samples", (groups, dim + 2)),
            ("exact", (groups, dim + 3)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("highest", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    def update(
        self,
        u: Tensor,
        log_p: Tensor,
        group: Tensor,
        log_weights: Tensor | None = None,
        event_log_weights: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        """Add samples.

        Args:
            u: Latents (B, D) of the samples.
            log_p: log p(c|u) (B,).
            group: Group (B,) of every sample, int64 below `groups`.
            log_weights: Logs (B,) of the sampler's importance weights, None where it has none.
            event_log_weights: Logs (B,) of weights whose mean is P, None where the sampler has none.
            counts: Number (B,) of draws behind each of these; one each where None.
        """
        p = log_p.double().exp()
        self.sums += torch.stack([p.sum(), torch.ones_like(p).sum(), p.square().sum()])
        self.highest = torch.maximum(self.highest, p.max())
        self.samples += self._moments(u, torch.ones_like(log_p, dtype=torch.float64), group)
        if log_weights is not None and counts is None:
            w = log_weights.double().exp()
            self.weights += torch.stack([w.sum(), w.square().sum(), torch.tensor(float(len(w))).to(w)])
        if event_log_weights is not None:
            w = event_log_weights.double().exp()
            n = torch.ones_like(w) if counts is None else counts.double()
            self.event += torch.stack([w.sum(), n.sum(), w.square().sum(), (w * n).sum(), n.square().sum()])

    def update_start(self, u: Tensor, log_p: Tensor, log_target: Tensor, group: Tensor) -> None:
        """Add starting points.

        Args:
            u: Latents (B, D) of the prior.
            log_p: log p(c|u) (B,).
            log_target: Log (B,) of the factor that makes the target of the prior.
            group: Group (B,) of every starting point, int64 below `groups`.
        """
        p, w = log_p.double().exp(), log_target.double().exp()
        columns = torch.stack([p, p.square(), w, w * p, w * w, w * w * p, (w * p).square()], 1)
        self.start += torch.zeros_like(self.start).index_add_(0, group, columns)
        moments = self._moments(u, w, group)
        squares = torch.zeros(self.groups, 1, dtype=torch.float64, device=u.device).index_add_(
            0, group, w.square()[:, None]
        )
        self.exact += torch.cat([moments, squares], 1)

    def _moments(self, u: Tensor, w: Tensor, group: Tensor) -> Tensor:
        """Return Σ w·u, Σ w·|u|² and Σ w of every group, (groups, D + 2)."""
        u = u.double()
        rows = torch.cat([w[:, None] * u, (w * u.square().sum(1))[:, None], w[:, None]], 1)
        return torch.zeros(self.groups, self.dim + 2, dtype=torch.float64, device=u.device).index_add_(0, group, rows)

    def _spread(self, moments: Tensor, effective: Tensor) -> float | None:
        """Return tr Cov(u) averaged over the groups with more than one effective sample, None where there is none."""
        total = moments[:, self.dim + 1]
        used = effective > 1
        if not bool(used.any()):
            return None
        mean = moments[:, : self.dim] / total.clamp(min=1e-300)[:, None]
        variance = (moments[:, self.dim] / total.clamp(min=1e-300) - mean.square().sum(1)) * effective / (effective - 1)
        return float(variance[used].mean())

    def disagreement(self) -> float | None:
        """Return by how many standard errors the samples' mean p(c|u) is from that of exact samples.

        Returns:
            The distance, at least 0; None where the starting points do not tell that of exact samples.
        """
        figures = self.compute()
        if "predicted" not in figures:
            return None
        n = float(self.sums[1])
        variance = max(float(self.sums[2]) / n - figures["confidence"] ** 2, 0.0) / n
        total, weighted, square, square_p, square_pp = self.start[self.samples[:, self.dim + 1] > 0, 2:].T
        ratio = weighted / total
        of_groups = (square_pp - 2 * ratio * square_p + ratio.square() * square) / total.square()
        error = math.sqrt(variance + float(of_groups.sum()) / len(of_groups) ** 2)
        return abs(figures["confidence"] - figures["predicted"]) / max(error, 1e-6)

    def compute(self) -> dict[str, float]:
        """Return the figures of all samples so far, by name."""
        result: dict[str, float] = {}
        n = float(self.sums[1])
        if n == 0:
            return result
        start_p, start_square = self.start[:, :2].sum(0).tolist()
        w, m, w2, wm, m2 = self.event.tolist()
        if m and w > 0:
            p = w / m
            result["log_p"] = math.log(p)
            result["log_p/error"] = math.sqrt(max(0.0, w2 - 2 * p * wm + p * p * m2)) / (p * m)
        elif start_p > 0 and (start_p * start_p / max(start_square, 1e-300)) > ENOUGH:
            p = start_p / n
            result["log_p"], result["log_p/error"] = (
                math.log(p),
                math.sqrt(max(0.0, start_square - n * p * p)) / (p * n),
            )
        if self.weights[2] > 0:
            result["ess"] = float(self.weights[0] ** 2 / self.weights[1].clamp(min=1e-300) / self.weights[2])
        result["confidence"] = float(self.sums[0]) / n
        effective = self.exact[:, self.dim + 1].square() / self.exact[:, self.dim + 2].clamp(min=1e-300)
        used = self.samples[:, self.dim + 1] > 0
        enough = bool((effective[used] > ENOUGH).all())
        if enough:
            # Group by group, as samples are drawn: classes differ in how probable they are.
            result["predicted"] = float((self.start[used, 3] / self.start[used, 2]).mean())
        spread = self._spread(self.samples, self.samples[:, self.dim + 1])
        if spread is not None:
            result["spread"] = spread
            reference = self._spread(self.exact, effective) if enough else None
            if reference is not None:
                result["spread/reference"] = reference
        return result
