"""Slant, thickness and width of drawn strokes, computed from grey pictures."""

from __future__ import annotations

import torch
from torch import Tensor

NAMES = ("slant", "thickness", "width")
# Values of a picture of side R that are 0 and 1: tangent of the slant, thickness and width in shares of R.
RANGES = {"slant": (-0.75, 1.25), "thickness": (0.03, 0.21), "width": (0.0, 0.8)}


def strokes_of(images: Tensor) -> Tensor:
    """Return slant, thickness and width of light strokes on a dark ground.

    With the grey value p in [0, 1] as a mass, the slant is -μ_xy / μ_yy, the tangent of the angle at which strokes lean
    to the right. The thickness is twice the area over the length of the edge, 2·Σp / Σ‖∇p‖. The width is four standard
    deviations of x after the slant is taken out. All three are scaled by `RANGES` and cut to [0, 1]; a picture without
    strokes has slant 0.375 and no thickness and width.

    Args:
        images: pictures (B, C, R, R) in [-1, 1].

    Returns:
        Values (B, 3) in [0, 1]: slant, thickness, width.

    Example:
        >>> bar = torch.full((1, 1, 32, 32), -1.0)
        >>> bar[:, :, 4:28, 14:18] = 1.0  # upright, four pixels thick
        >>> [round(value, 2) for value in strokes_of(bar)[0].tolist()]
        [0.38, 0.43, 0.17]
    """
    grey = ((images.float().mean(1) + 1) / 2).clamp(0, 1)
    side = grey.shape[-1]
    mass = grey.sum((1, 2)).clamp(min=1e-6)
    place = torch.arange(side, device=grey.device, dtype=grey.dtype)
    x = place - ((grey.sum(1) @ place) / mass)[:, None]
    y = place - ((grey.sum(2) @ place) / mass)[:, None]
    xx = (grey.sum(1) * x.square()).sum(1) / mass
    yy = (grey.sum(2) * y.square()).sum(1) / mass
    xy = torch.einsum("byx,by,bx->b", grey, y, x) / mass
    slope = xy / yy.clamp(min=1e-3)
    padded = torch.nn.functional.pad(grey, (0, 1, 0, 1))
    edge = torch.hypot(padded[:, :-1].diff(dim=2), padded[:, :, :-1].diff(dim=1)).sum((1, 2))
    values = {
        "slant": -slope,
        "thickness": 2 * grey.sum((1, 2)) / edge.clamp(min=1e-6) / side,
        "width": 4 * (xx - slope * xy).clamp(min=0).sqrt() / side,
    }
    scaled = [(values[name] - low) / (high - low) for name, (low, high) in RANGES.items()]
    return torch.stack(scaled, 1).clamp(0, 1)
