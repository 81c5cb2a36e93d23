"""Painting anti-aliased shapes on a batch of pictures, each with its own parameters, by signed distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Bounds = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """A region of the plane for every picture of a batch, given by signed distances.

    `a & b` is the intersection, `a - b` the difference and `a | b` the union.

    Args:
        distance: function of columns x (1, 1, W) and rows y (1, H, 1) that returns distances (B, H, W) in units of the
            plane, negative inside.
        bounds: left, top, right and bottom of a box around the region, each (B,), in units of the plane.

    Example:
        >>> one = torch.ones(1)
        >>> circle = ellipse(0 * one, 0 * one, one, one)
        >>> circle.distance(torch.tensor([[[0.0, 2.0]]]), torch.zeros(1, 1, 1)).flatten().tolist()
        [-1.0, 1.0]
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    bounds: Bounds

    def __and__(self, other: Shape) -> Shape:
        left, top, right, bottom = zip(self.bounds, other.bounds, strict=True)
        return Shape(
            lambda x, y: torch.maximum(self.distance(x, y), other.distance(x, y)),
            (torch.maximum(*left), torch.maximum(*top), torch.minimum(*right), torch.minimum(*bottom)),
        )

    def __or__(self, other: Shape) -> Shape:
        left, top, right, bottom = zip(self.bounds, other.bounds, strict=True)
        return Shape(
            lambda x, y: torch.minimum(self.distance(x, y), other.distance(x, y)),
            (torch.minimum(*left), torch.minimum(*top), torch.maximum(*right), torch.maximum(*bottom)),
        )

    def __sub__(self, other: Shape) -> Shape:
        return Shape(lambda x, y: torch.maximum(self.distance(x, y), -other.distance(x, y)), self.bounds)

    def outline(self, thickness: Tensor) -> Shape:
        """Return the band along the edge.

        Args:
            thickness: half of the band's width (B,), in units of the plane.

        Returns:
            The points at most `thickness` from the edge.
        """
        left, top, right, bottom = self.bounds
        return Shape(
            lambda x, y: self.distance(x, y).abs_().sub_(_wide(thickness)),
            (left - thickness, top - thickness, right + thickness, bottom + thickness),
        )


def _wide(value: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, 1)."""
    return value[:, None, None]


def ellipse(cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor) -> Shape:
    """Return ellipses; the distance is exact to first order near a circle.

    Args:
        cx: column of the centre (B,), in units of the plane.
        cy: row of the centre (B,).
        rx: half of the width (B,), above 0.
        ry: half of the height (B,), above 0.

    Returns:
        The region, for every picture of the batch.
    """
    size = _wide((rx * ry).sqrt())

    def distance(x: Tensor, y: Tensor) -> Tensor:
        across, down = ((x - _wide(cx)) / _wide(rx)).square_(), ((y - _wide(cy)) / _wide(ry)).square_()
        return (across + down).sqrt_().sub_(1).mul_(size)

    return Shape(distance, (cx - rx, cy - ry, cx + rx, cy + ry))


def egg(cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor, jaw: Tensor) -> Shape:
    """Return ellipses whose lower half is wider or narrower.

    Args:
        cx: column of the centre (B,), in units of the plane.
        cy: row of the centre (B,).
        rx: half of the width (B,), above 0.
        ry: half of the height (B,), above 0.
        jaw: share (B,) by which the lower half is wider than an ellipse's, above -1.

    Returns:
        The region, for every picture of the batch.
    """
    size = _wide((rx * ry).sqrt())

    def distance(x: Tensor, y: Tensor) -> Tensor:
        down = (y - _wide(cy)) / _wide(ry)
        width = _wide(rx) * (1 + _wide(jaw) * down.clamp(0, 1).square())
        across = ((x - _wide(cx)) / width).square_()
        return (across + down.square()).sqrt_().sub_(1).mul_(size)

    wide = rx * (1 + jaw.clamp_min(0))
    return Shape(distance, (cx - wide, cy - ry, cx + wide, cy + ry))


def box(cx: Tensor, cy: Tensor, half_width: Tensor, half_height: Tensor, radius: Tensor) -> Shape:
    """Return rectangles with rounded corners.

    Args:
        cx: column of the centre (B,), in units of the plane.
        cy: row of the centre (B,).
        half_width: half of the width (B,), above 0.
        half_height: half of the height (B,), above 0.
        radius: radius of the corners (B,), from 0 to the smaller half.

    Returns:
        The region, for every picture of the batch.
    """

    def distance(x: Tensor, y: Tensor) -> Tensor:
        across = (x - _wide(cx)).abs_() - _wide(half_width - radius)
        down = (y - _wide(cy)).abs_() - _wide(half_height - radius)
        corner = (across.clamp_min(0).square() + down.clamp_min(0).square()).sqrt_()
        return corner.add_(torch.maximum(across, down).clamp_max_(0)).sub_(_wide(radius))

    return Shape(distance, (cx - half_width, cy - half_height, cx + half_width, cy + half_height))


def stroke(cx: Tensor, cy: Tensor, half_length: Tensor, thickness: Tensor, bend: Tensor, tilt: Tensor) -> Shape:
    """Return bands about the parabolas y = cy + tilt·(x - cx) + bend·((x - cx)/half_length)².

    Args:
        cx: column of the middle (B,), in units of the plane.
        cy: row of the middle (B,).
        half_length: half of the length (B,), above 0.
        thickness: half of the band's height (B,), above 0.
        bend: height of the ends above the middle (B,), downwards positive.
        tilt: slope in the middle (B,).

    Returns:
        The region, for every picture of the batch.
    """

    def distance(x: Tensor, y: Tensor) -> Tensor:
        across = x - _wide(cx)
        middle = _wide(cy) + _wide(tilt) * across + _wide(bend) * (across / _wide(half_length)).square()
        return torch.maximum((y - middle).abs_().sub_(_wide(thickness)), across.abs() - _wide(half_length))

    height = thickness + bend.abs() + (tilt * half_length).abs()
    return Shape(distance, (cx - half_length, cy - height, cx + half_length, cy + height))


def crescent(cx: Tensor, cy: Tensor, half_width: Tensor, upper: Tensor, lower: Tensor) -> Shape:
    """Return the regions between two parabolas that meet at (cx ± half_width, cy); empty where upper >= lower.

    Args:
        cx: column of the middle (B,), in units of the plane.
        cy: row of the corners (B,).
        half_width: half of the width (B,), above 0.
        upper: depth of the upper parabola below cy in the middle (B,).
        lower: depth of the lower parabola below cy in the middle (B,).

    Returns:
        The region, for every picture of the batch.
    """

    def distance(x: Tensor, y: Tensor) -> Tensor:
        arch = (1 - ((x - _wide(cx)) / _wide(half_width)).square()).clamp_min_(-1)
        down = y - _wide(cy)
        return torch.maximum(_wide(upper) * arch - down, down - _wide(lower) * arch)

    return Shape(
        distance,
        (
            cx - half_width,
            cy + torch.minimum(upper, lower).clamp_max(0),
            cx + half_width,
            cy + torch.maximum(upper, lower).clamp_min(0),
        ),
    )


def below(edge: Tensor) -> Shape:
    """Return the half-planes of rows below an edge.

    Args:
        edge: row of the edge (B,), in units of the plane.

    Returns:
        The region, for every picture of the batch.
    """
    far = torch.full_like(edge, 4.0)
    return Shape(lambda x, y: _wide(edge) - y + torch.zeros_like(x), (-far, edge, far, far))


class Canvas:
    """Pictures (B, 3, R, R) of a square of the plane, black at first, with colours in [0, 1].

    The square has the half-width `extent` about (0, `middle`); y points downwards.

    Args:
        count: number of pictures B, at least 1.
        resolution: side of the pictures R in pixels, at least 1.
        device: where they are painted.
        extent: half of the side of the square in units of the plane, above 0.
        middle: row of its centre in units of the plane.

    Example:
        >>> canvas, one = Canvas(1, 8, "cpu"), torch.ones(1)
        >>> canvas.paint(ellipse(0 * one, 0 * one, one / 2, one / 2), torch.ones(1, 3))
        >>> canvas.image[0, 0, 4, 4].item(), canvas.image[0, 0, 0, 0].item()
        (1.0, 0.0)
    """

    def __init__(
        self, count: int, resolution: int, device: torch.device | str, extent: float = 1.0, middle: float = 0.0
    ) -> None:
        self.pixel = 2.0 * extent / resolution
        self.left, self.top = -extent, middle - extent
        grid = (torch.arange(resolution, device=device) + 0.5) * self.pixel
        self.x, self.y = (grid + self.left)[None, None, :], (grid + self.top)[None, :, None]
        self.image = torch.zeros(count, 3, resolution, resolution, device=device)

    def _window(self, bounds: Bounds) -> tuple[slice, slice]:
        """Return the rows and columns that a shape may cover.

        On a GPU these are all: reading the bounds would take longer than painting every pixel.
        """
        whole = slice(None)
        if self.image.is_cuda:
            return whole, whole
        left, top, right, bottom = (
            float(b) for b in (bounds[0].min(), bounds[1].min(), bounds[2].max(), bounds[3].max())
        )
        size = self.image.shape[-1]

        def span(low: float, high: float) -> slice:
            first = min(size, max(0, int(low / self.pixel) - 1))
            return slice(first, max(first, min(size, int(high / self.pixel) + 2)))

        return span(top - self.top, bottom - self.top), span(left - self.left, right - self.left)

    def paint(self, shape: Shape, colour: Tensor, opacity: Tensor | float = 1.0) -> None:
        """Blend a colour into the pictures inside a region, with soft edges of one pixel.

        Args:
            shape: the region.
            colour: colours (B, 3) in [0, 1].
            opacity: opacity in [0, 1], a number or (B,).
        """
        rows, columns = self._window(shape.bounds)
        target = self.image[:, :, rows, columns]
        if target.numel() == 0:
            return
        cover = shape.distance(self.x[..., columns], self.y[:, rows]).mul(-1 / self.pixel).add_(0.5).clamp_(0, 1)
        cover = cover * (_wide(opacity) if isinstance(opacity, Tensor) else opacity)
        target.lerp_(colour[:, :, None, None].expand_as(target), cover[:, None].expand_as(target))
