"""Confidence that is what it says: a temperature for each discrete attribute, an error for each continuous one."""

from __future__ import annotations

import math

from torch import Tensor

from ..schema import Schema

# A temperature lies within [1/LIMIT, LIMIT]: pairs without a single mistake would have it at 0.
LIMIT = 10.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T for which softmax(logits/T) (N, C) makes the classes `labels` (N,) likeliest, within [1/LIMIT,
    LIMIT].

    -log p is convex in β = 1/T and its derivative E_p[z] - z_c is monotone, so that halving the interval of log β finds
    the minimum (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).
    """
    # float64 is not everywhere, and nothing here is large.
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
    """Return {"temperature": one a discrete attribute, "sigma": root mean square error of each continuous one}.

    `logits` is (N, L), `labels` (N, K) decided labels; rows count where an attribute is `known` (N, K) bool, and one
    that none knows is left as it is.
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
