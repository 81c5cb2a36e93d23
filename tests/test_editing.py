"""Editing against closed forms, and what a person expects of undo and of order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.energies import Anchor, Continuous, Near, Pullback
from lace_lightning.errors import LaceError
from lace_lightning.generators import Generator
from lace_lightning.samplers import ODE, Annealed, EllipticalSlice, HamiltonianMC, Heun, Langevin
from lace_lightning.schema import Attribute, Schema
from lace_lightning.seeds import normal
from lace_lightning.systems.editing import Edited, EditOptions, Editor, parse_edit

SCHEMA = Schema("s", (Attribute("yaw", "continuous"), Attribute("age", "continuous"), Attribute("smile")))
LENGTH = 5.025
TIGHT = ODE(time="s", atol=1e-6, rtol=1e-6)


class Toy(Generator):
    """Four latents, three style layers; pictures are the styles."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__(4, 4, (1, layers, 4), layers)
        self.mapping = nn.Identity()

    def render(self, ws: Tensor) -> Tensor:
        return torch.tanh(ws)[:, None]


def linear_classifier(rows: list[list[float]]) -> AttributeClassifier:
    """Logits A·w; the columns are yaw, age, and two of smile."""
    result = AttributeClassifier(SCHEMA, "w", arguments={"input_dim": 4, "hidden": []})
    result.network.weight0.data[0] = torch.tensor(rows).T
    result.network.bias0.data.zero_()
    return result.eval().requires_grad_(False)


AXES = linear_classifier([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0]])
START = normal(torch.arange(8), (4,))


def editor(sampler=TIGHT, classifier=AXES, generator=None, **options) -> Editor:
    return Editor(generator or Toy(), classifier, sampler, EditOptions(**{"sigma": 1.0, **options}))


def test_anchor_by_hand() -> None:
    anchor = Anchor(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), 0.5, [0, 2])
    u = torch.tensor([[2.0, 9.0, 5.0], [1.0, 1.0, 0.0]])
    value, gradient = anchor.value_and_grad(u)
    assert value.tolist() == [2.5, 0.5]
    assert gradient.tolist() == [[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]]
    assert anchor.rows(torch.tensor([1]))(u[1:]).tolist() == [0.5]
    assert torch.equal(anchor(u), value)


def test_gradients_agree_with_automatic_differentiation() -> None:
    near = Near(Anchor(START, 0.3) & Continuous(slice(0, 1), 0.4, 0.5), START.flip(0), 0.8)
    v = normal(torch.arange(20, 28), (4,)).requires_grad_(True)
    value = near(v)
    (expected,) = torch.autograd.grad(value.sum(), v)
    torch.testing.assert_close(near.value_and_grad(v)[1], expected)
    torch.testing.assert_close(near.rows(torch.tensor([5, 2]))(v[[5, 2]]), value[[5, 2]])


def test_a_weight_goes_through_a_pullback() -> None:
    map = nn.Identity()
    energy = 2 * Anchor(START).pullback(map) & 3 * Anchor(START + 1).pullback(map)
    assert isinstance(energy, Pullback)
    torch.testing.assert_close(energy(START), torch.full((8,), 12.0))


def test_from_the_start_is_the_flow_and_forgets_nothing() -> None:
    tool = editor(method="from_start", proximity=0.0, keep=0.0)
    begin = tool.begin(START)
    after = tool.apply(tool.apply(begin, "yaw == 0.9"), "age == 0.1")
    decay = math.exp(-LENGTH)
    expected = START.clone()
    expected[:, 0] = 0.9 + (START[:, 0] - 0.9) * decay
    expected[:, 1] = 0.1 + (START[:, 1] - 0.1) * decay
    torch.testing.assert_close(after.z, expected, atol=1e-4, rtol=0)
    other_order = tool.apply(tool.apply(begin, "age == 0.1"), "yaw == 0.9")
    torch.testing.assert_close(after.z, other_order.z, atol=1e-4, rtol=0)
    replaced = tool.apply(after, "yaw == 0.5")
    assert [str(edit) for edit in replaced.edits] == ["age == 0.1", "yaw == 0.5"]
    torch.testing.assert_close(replaced.z[:, 0], 0.5 + (START[:, 0] - 0.5) * decay, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["sequential", "from_start", "posterior"])
def test_undo_is_exact_and_any_edit_can_be_taken_out(method: str) -> None:
    tool = editor(Heun(), method=method)
    one = tool.apply(tool.begin(START), "yaw == 0.9")
    two = tool.apply(one, "smile == 1")
    assert two.undo() is one
    assert torch.equal(one.undo().z, START)
    assert torch.equal(tool.without(two, "smile == 1").z, one.z)
    torch.testing.assert_close(tool.without(two, "yaw == 0.9").z, tool.apply(tool.begin(START), "smile == 1").z)
    with pytest.raises(LaceError, match="no edit to undo"):
        one.undo().undo()
    with pytest.raises(LaceError, match="not among the edits in force"):
        tool.without(two, "age == 1")


@pytest.mark.parametrize("method", ["sequential", "from_start", "posterior"])
def test_a_sample_does_not_change_with_its_batch(method: str) -> None:
    tool = editor(Heun(), method=method)

    def run(rows: slice) -> Edited:
        return tool.apply(tool.apply(tool.begin(START[rows]), "yaw == 0.9"), "smile == 1")

    torch.testing.assert_close(run(slice(2, 5)).z, run(slice(None)).z[2:5], atol=1e-6, rtol=1e-6)


def test_proximity_and_keep_hold_what_they_should() -> None:
    mixed = linear_classifier([[0.8, 0.6, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0]])

    def moved(**options: float) -> Tensor:
        tool = editor(Heun(1e-3, 1e-3), mixed, proximity=0.0, **{"keep": 0.0, **options})
        return tool.apply(tool.begin(START), "yaw == 0.9").z - START

    free, kept = moved(), moved(keep=5.0)
    torch.testing.assert_close(free @ torch.tensor([0.6, -0.8, 0.0, 0.0]), torch.zeros(8), atol=1e-3, rtol=0)
    assert (kept[:, 1].abs() < 0.3 * free[:, 1].abs()).all()
    near = editor(Heun(1e-3, 1e-3), mixed, keep=0.0, proximity=2.0)
    assert ((near.apply(near.begin(START), "yaw == 0.9").z - START).norm(dim=1) < 0.3 * free.norm(dim=1)).all()


def test_reweighting_prefers_the_new_edit() -> None:
    # Two attributes that read the same direction and want different things.
    same = linear_classifier([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0]])
    ends = {}
    for reweight in (False, True):
        tool = editor(Heun(1e-3, 1e-3), same, proximity=0.0, keep=0.0, reweight=reweight)
        ends[reweight] = tool.apply(tool.apply(tool.begin(START), "yaw == 0"), "age == 1").z[:, 0]
    torch.testing.assert_close(ends[False], torch.full((8,), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(ends[True], torch.full((8,), 10 / 10.1), atol=0.02, rtol=0)


@pytest.mark.parametrize("method", ["sequential", "from_start", "posterior"])
def test_a_weight_is_a_smaller_error(method: str) -> None:
    """γ·(c - f)²/(2σ²) = (c - f)²/(2(σ/√γ)²)."""
    first, second = (editor(method=method, **options) for options in ({"weight": 4.0, "sigma": 1.0}, {"sigma": 0.5}))
    torch.testing.assert_close(
        first.apply(first.begin(START), "yaw == 0.9").z, second.apply(second.begin(START), "yaw == 0.9").z
    )


def test_the_posterior_near_the_start() -> None:
    """ρ = 0.9, σ = 0.1, c = 1, f₀ = -0.5: mean 0.9275, variance 0.0095; elsewhere mean ρz₀, variance 0.19."""
    count, step = 4000, 0.02
    z0 = torch.tensor([[-0.5, 0.7, 0.0, 0.0]]).expand(count, 4)
    tool = editor(Langevin(400, step, math.sqrt(2 * step)), method="posterior", sigma=0.1, closeness=0.9)
    z = tool.apply(tool.begin(z0), "yaw == 1", torch.arange(count)).z
    # Along the edit the step of 0.02 times the curvature 1 + 0.19/0.01 = 20 makes the chain's variance 1/(1 - 0.2)
    # times the law's.
    assert z[:, 0].mean().item() == pytest.approx(0.9275, abs=0.006)
    assert z[:, 0].var().item() == pytest.approx(0.0095 / 0.8, rel=0.1)
    assert z[:, 1].mean().item() == pytest.approx(0.63, abs=0.03)
    assert z[:, 1].var().item() == pytest.approx(0.19, rel=0.08)


@pytest.mark.parametrize("sampler", [EllipticalSlice(60), HamiltonianMC(20), Annealed(20)], ids=repr)
def test_exact_samplers_draw_that_posterior(sampler) -> None:
    z0 = torch.tensor([[-0.5, 0.7, 0.0, 0.0]]).expand(4000, 4)
    tool = editor(sampler, method="posterior", sigma=0.1, closeness=0.9)
    z = tool.apply(tool.begin(z0), "yaw == 1", torch.arange(4000)).z
    for column, mean, variance in ((0, 0.9275, 0.0095), (1, 0.63, 0.19)):
        assert abs(float(z[:, column].mean()) - mean) < 3 * math.sqrt(variance / 4000)
        assert float(z[:, column].var()) == pytest.approx(variance, rel=3 * math.sqrt(2 / 4000))


def test_subset_selection_changes_the_chosen_layers_alone() -> None:
    tool = editor(Heun(), layers={"yaw": [0], "smile": [1, 2]})
    begin = tool.begin(START)
    one = tool.apply(begin, "yaw == 0.9")
    assert torch.equal(one.ws[:, 1:], begin.ws[:, 1:])
    assert torch.equal(one.ws[:, 0], one.z)
    two = tool.apply(one, "smile == 1")
    assert torch.equal(two.ws[:, 0], one.ws[:, 0])
    assert torch.equal(two.ws[:, 1:], two.z[:, None].expand(-1, 2, -1))
    assert not torch.equal(tool.generator.synthesis(one.ws), tool.generator.synthesis(begin.ws))


def test_what_cannot_be_edited_is_refused() -> None:
    tool = editor()
    for edit, message in (
        ("beard == 1", "yaw, age, smile"),
        ("yaw == 1.5", "from 0 to 1"),
        ("smile == *", "leaves smile free"),
    ):
        with pytest.raises(LaceError, match=message):
            parse_edit(edit, SCHEMA)
    with pytest.raises(LaceError, match="can never be true"):
        tool.apply(tool.begin(START), "smile == 1 and smile == 0")
    with pytest.raises(LaceError, match="one latent for the whole picture"):
        editor(generator=Toy(1), layers={"yaw": [0]})
    with pytest.raises(LaceError, match="must lie in 0 to 2"):
        editor(layers={"yaw": [3]})
    with pytest.raises(LaceError, match="sequential, from_start, posterior"):
        editor(method="sequentially")
    with pytest.raises(LaceError, match="closeness must be at least 0 and below 1"):
        editor(closeness=1.0)
    with pytest.raises(LaceError, match="latents of generator another"):
        Editor(Toy(), replace_generator(AXES), TIGHT)


def replace_generator(classifier: AttributeClassifier) -> AttributeClassifier:
    result = AttributeClassifier(SCHEMA, "w", arguments=classifier.arguments, generator="another")
    return result.eval()
