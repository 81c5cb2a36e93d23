"""Editing of w and w+ without a known z, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lace_lightning.errors import LaceError
from lace_lightning.generators.whitening import Whitening
from lace_lightning.samplers import EllipticalSlice, GaussNewton, Heun
from lace_lightning.seeds import normal
from lace_lightning.systems.editing import EditOptions, Editor

from .test_editing import AXES, LENGTH, TIGHT, Toy, linear_classifier

STYLES = normal(torch.arange(8), (3, 4))
SCALES = torch.tensor([2.0, 0.5, 1.0, 0.0])


class Scaled(Toy):
    """w = 1 + z · (2, 1/2, 1, 0): the covariance of w is known."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        layer.weight.data, layer.bias.data = torch.diag(SCALES), torch.ones(4)
        self.mapping = layer
        self.frozen()


def editor(sampler=TIGHT, classifier=AXES, **options) -> Editor:
    return Editor(Scaled(), classifier, sampler, EditOptions(**{"sigma": 1.0, **options}))


def test_the_whitening_is_that_of_the_mapping() -> None:
    whitening = Whitening.of(Scaled())
    torch.testing.assert_close(whitening.mean, torch.ones(4), atol=0.05, rtol=0)
    torch.testing.assert_close(whitening.root, torch.diag(SCALES), atol=0.05, rtol=0)
    w = Scaled().mapping(normal(torch.arange(5), (4,)))
    torch.testing.assert_close(whitening.w(whitening.u(w)), w, atol=1e-4, rtol=0)
    # A direction without variance is left out.
    assert float(whitening.inverse[3].abs().max()) < 1e-3
    with pytest.raises(LaceError, match="need a generator with a space w"):
        Whitening.of(Narrow())


class Narrow(Toy):
    """A generator without w."""

    def __init__(self) -> None:
        super().__init__()
        self.has_w = False


def test_the_flow_of_a_displacement_is_known_in_closed_form() -> None:
    tool = editor(method="from_start", proximity=0.0, keep=0.0)
    after = tool.apply(tool.begin_styles(STYLES), "yaw == 0.9")
    assert after.z is None
    # dv/ds = -A(m + Av - c) with A = a on the axis of yaw: the mean moves to c at the rate a².
    mean, a = STYLES[:, :, 0].mean(1), tool._whitening.root[0, 0]
    rest = (0.9 - mean) * (1 - torch.exp(-LENGTH * a**2))
    torch.testing.assert_close(after.ws[:, :, 0], STYLES[:, :, 0] + rest[:, None], atol=2e-2, rtol=0)
    # Every layer has moved by the same displacement, so that differences of layers stay.
    moved = after.ws - STYLES
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
    assert float(moved[:, :, 3].abs().max()) < 1e-3


def test_w_and_the_same_w_in_every_layer_are_edited_alike() -> None:
    tool, w = editor(Heun()), STYLES[:, 0]
    one, other = (tool.apply(tool.begin_styles(given), "smile == 1") for given in (w, w[:, None].expand(-1, 3, -1)))
    assert torch.equal(one.ws, other.ws)
    torch.testing.assert_close(one.ws, one.ws[:, :1].expand_as(one.ws))


def test_an_edit_moves_its_layers_until_the_mean_of_its_layers_is_right() -> None:
    layers = {"yaw": [0, 1], "age": [1, 2]}
    tool = editor(GaussNewton(20), sigma=0.01, proximity=0.0, keep=0.0, layers=layers)
    begin = tool.begin_styles(STYLES)
    yaw = tool.apply(begin, "yaw == 0.9")
    assert torch.equal(yaw.ws[:, 2], STYLES[:, 2])
    torch.testing.assert_close(yaw.ws[:, :2, 0].mean(1), torch.full((8,), 0.9), atol=1e-3, rtol=0)
    # The second edit moves layers 1 and 2, and holds the first at the mean of layers 0 and 1.
    both = tool.apply(yaw, "age == 0.2")
    assert torch.equal(both.ws[:, 0], yaw.ws[:, 0])
    torch.testing.assert_close(both.ws[:, :2, 0].mean(1), torch.full((8,), 0.9), atol=1e-3, rtol=0)
    torch.testing.assert_close(both.ws[:, 1:, 1].mean(1), torch.full((8,), 0.2), atol=1e-3, rtol=0)
    assert torch.equal(tool.without(both, "age == 0.2").ws, yaw.ws)
    assert both.undo() is yaw


def test_one_displacement_is_the_nearest_change_of_layers_with_its_mean() -> None:
    change = normal(torch.arange(50, 58), (3, 4))
    equal = change.mean(1, keepdim=True).expand_as(change)
    assert bool((equal.square().sum((1, 2)) <= change.square().sum((1, 2))).all())


def test_proximity_and_unedited_attributes_hold() -> None:
    mixed = linear_classifier([[0.8, 0.6, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0]])

    def moved(**options: float) -> Tensor:
        tool = editor(Heun(), mixed, **options)
        return tool.apply(tool.begin_styles(STYLES), "yaw == 0.9").ws - STYLES

    free, kept, near = moved(proximity=0.0, keep=0.0), moved(proximity=0.0, keep=5.0), moved(proximity=1.0, keep=0.0)
    assert float(kept[:, :, 1].abs().mean()) < 0.3 * float(free[:, :, 1].abs().mean())
    assert float(near.norm(dim=2).mean()) < 0.6 * float(free.norm(dim=2).mean())


def test_the_posterior_is_that_of_the_whitened_w() -> None:
    styles = STYLES[:1, :1].expand(2000, 3, 4).contiguous()
    tool = editor(EllipticalSlice(40), method="posterior", closeness=0.6)
    state = tool.apply(tool.begin_styles(styles), "yaw == 0.9", torch.arange(2000))
    after = state.ws[:, 0, 0]
    whitening = tool._whitening
    u0, a = float(whitening.u(styles[:1, 0])[0, 0]), float(whitening.root[0, 0])
    shown, variance = float(styles[0, 0, 0]) + a * (0.6 - 1) * u0, 0.64 * a**2
    mean = (shown / variance + 0.9) / (1 / variance + 1)
    assert abs(float(after.mean()) - mean) < 0.1
    assert abs(float(after.std()) - math.sqrt(1 / (1 / variance + 1))) < 0.1


def test_a_sample_does_not_change_with_its_batch() -> None:
    tool = editor(Heun())
    whole = tool.apply(tool.begin_styles(STYLES), "smile == 1").ws
    part = tool.apply(tool.begin_styles(STYLES[2:5]), "smile == 1").ws
    torch.testing.assert_close(part, whole[2:5], atol=1e-6, rtol=1e-6)


def test_styles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LaceError, match=r"shape \(B, 4\) or \(B, 3, 4\), received \(8, 2, 4\)"):
        editor().begin_styles(STYLES[:, :2])
    classifier = linear_classifier([[1, 0, 0, 0]] * 4)
    classifier.space = "z"
    with pytest.raises(LaceError, match=r"the classifier is of z: set classifier\.space=w, or give z"):
        Editor(Scaled(), classifier, TIGHT).begin_styles(STYLES)
