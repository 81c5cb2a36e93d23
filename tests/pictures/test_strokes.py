"""Slant, thickness and width of strokes, on shapes whose values are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lace_lightning.pictures.strokes import RANGES, strokes_of

SIDE = 64


def bar(tangent: float, thickness: float, length: float = 40.0) -> Tensor:
    """Return a picture (1, 1, 64, 64) of a bar that leans to the right by a tangent, with smooth edges."""
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    along = (thickness / 2 + 0.5 - (x + tangent * y).abs()).clamp(0, 1)
    ends = (length / 2 + 0.5 - y.abs()).clamp(0, 1)
    return (along * ends)[None, None] * 2 - 1


def value(name: str, images: Tensor) -> Tensor:
    """Return a value in its own unit."""
    low, high = RANGES[name]
    scaled = strokes_of(images)[:, ["slant", "thickness", "width"].index(name)]
    return low + (high - low) * scaled


@pytest.mark.parametrize("tangent", [-0.3, 0.0, 0.4])
def test_the_slant_is_the_tangent_of_a_bar(tangent: float) -> None:
    assert value("slant", bar(tangent, 6)).item() == pytest.approx(tangent, abs=0.01)


@pytest.mark.parametrize("thickness", [4.0, 6.0, 8.0])
def test_the_thickness_is_that_of_a_bar(thickness: float) -> None:
    # Twice the area over the edge: the ends count too.
    expected = 2 * thickness * 40 / (2 * (thickness + 40)) / SIDE
    assert value("thickness", bar(0, thickness)).item() == pytest.approx(expected, rel=0.05)


def test_the_width_is_that_of_an_upright_bar_whatever_its_slant() -> None:
    # A uniform distribution of width t has the standard deviation t/√12.
    upright, leaning = value("width", bar(0, 8)), value("width", bar(0.4, 8))
    assert upright.item() == pytest.approx(4 * 8 / math.sqrt(12) / SIDE, rel=0.03)
    torch.testing.assert_close(upright, leaning, rtol=0.05, atol=0)


def test_moving_and_channels_change_nothing() -> None:
    picture = bar(0.2, 5, 30)
    moved = picture.roll((5, -4), (2, 3))
    torch.testing.assert_close(strokes_of(moved), strokes_of(picture), atol=1e-4, rtol=0)
    torch.testing.assert_close(strokes_of(picture.expand(-1, 3, -1, -1)), strokes_of(picture), atol=1e-5, rtol=0)


def test_a_picture_without_strokes_has_finite_values() -> None:
    assert strokes_of(torch.full((1, 1, 32, 32), -1.0))[0].tolist() == [0.375, 0.0, 0.0]
