"""Calibration of classifiers: a temperature for each discrete attribute, an error for each continuous one."""

from __future__ import annotations

import math

from torch import Tensor

from ..schema import Schema

# A temperature lies within [1/LIMIT, LIMIT]: without mistakes among the pairs the best temperature would be 0.
LIMIT = 10.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T in [1/LIMIT, LIMIT] that maximises the likelihood of the labels under softmax(logits/T).

    -log p is convex in β = 1/T and its derivative E_p[z] - z_c is monotone in β. Bisection of log β therefore finds the
    minimum.

    Args:
        logits: logits (N, C) of one discrete attribute, N at least 1.
        labels: class indices (N,), from 0 to C - 1.

    Returns:
        The temperature, between 1/LIMIT and LIMIT.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> # Three labels of four agree: σ(1/T) = 3/4, T = 1/log 3.
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 4)
        0.9102
    """
    # Not every device has float64, and these tensors are small.
    z = logits.detach().cpu().double()
    right = z.gather(1, labels.detach().cpu().long()[:, None]).mean()
    low, high = -math.log(LIMIT), math.log(LIMIT)
    for _ in range(50):
        middle = (low + high) / 2
        slope = ((math.exp(middle) * z).softmax(1) * z).sum(1).mean() - right
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def fit_calibration(
    schema: Schema, logits: Tensor, labels: Tensor, known: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Return the temperature of each discrete attribute and the root mean square error of each continuous one.

    Args:
        schema: the attributes.
        logits: logits (N, L) of all attributes.
        labels: labels (N, K): class indices, and values in [0, 1].
        known: which labels are known (N, K) bool; all by default.

    Returns:
        {"temperature": {name: T}, "sigma": {name: error in units of the attribute}}, without the attributes that no row
        knows.

    Example:
        >>> import torch
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("age", "continuous"),))
        >>> fit_calibration(schema, torch.tensor([[0.5], [0.1]]), torch.tensor([[0.25], [0.35]]))
        {'temperature': {}, 'sigma': {'age': 0.25}}
    """
    temperature, sigma = {}, {}
    for index, attribute in enumerate(schema):
        columns, wanted = logits[:, schema.slices[attribute.name]], labels[:, index]
        if known is not None:
            columns, wanted = columns[known[:, index]], wanted[known[:, index]]
        if not len(wanted):
            continue
        if attribute.kind == "discrete":
            temperature[attribute.name] = fit_temperature(columns, wanted)
        else:
            sigma[attribute.name] = float((columns[:, 0] - wanted).square().mean().sqrt())
    return {"temperature": temperature, "sigma": sigma}
