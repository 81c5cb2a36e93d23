"""Latents where a classifier is steered to, against the flow's closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data import LatentPairsDataModule, make_pairs
from lace_lightning.errors import LaceError
from lace_lightning.generators import Generator
from lace_lightning.samplers import ODE
from lace_lightning.schema import Attribute, Schema
from lace_lightning.systems.steered_latents import ControlledLatents

SCHEMA = Schema("s", (Attribute("yaw", "continuous"), Attribute("age", "continuous"), Attribute("smile")))


class Toy(Generator):
    def __init__(self) -> None:
        super().__init__(4, 4, (1, 1, 4))
        self.mapping = nn.Identity()

    def render(self, ws: Tensor) -> Tensor:
        return torch.tanh(ws)[:, None]


@pytest.fixture
def classifier() -> AttributeClassifier:
    """Yaw and age are z_0 and z_1 tenths, smile is the sign of z_3."""
    result = AttributeClassifier(SCHEMA, "w", arguments={"input_dim": 4, "hidden": []})
    result.network.weight0.data[0] = torch.tensor([[0.1, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 0, -3], [0, 0, 0, 3]]).T
    result.network.bias0.data.zero_()
    return result.eval().requires_grad_(False)


def test_each_sample_goes_where_it_wishes_and_nowhere_else(classifier) -> None:
    latents = ControlledLatents(Toy(), classifier, seed=5, sampler=ODE(time="s", atol=1e-6, rtol=1e-6), weight=2.0)
    wishes, start, end = latents.wishes(60, 0), Toy().prior(60, 5), latents(60, 0)
    # f = z/10: |a|² = 0.01 and σ = 0.1, so that f goes to c as exp(-weight·Λ).
    decay = math.exp(-2 * 5.025)
    for index in (0, 1):
        expected = 10 * wishes.values[:, index] + (start[:, index] - 10 * wishes.values[:, index]) * decay
        torch.testing.assert_close(
            end[:, index], torch.where(wishes.known[:, index], expected, start[:, index]), atol=1e-3, rtol=0
        )
    torch.testing.assert_close(end[:, 2], start[:, 2])
    smiling = (end[:, 3] > 0).float()
    assert torch.equal(smiling[wishes.known[:, 2]], wishes.values[wishes.known[:, 2], 2])
    torch.testing.assert_close(end[~wishes.known[:, 2], 3], start[~wishes.known[:, 2], 3])


def test_everyone_has_a_wish_of_their_own(classifier) -> None:
    latents = ControlledLatents(Toy(), classifier, share=0.3)
    wishes = latents.wishes(4000, 0)
    assert bool(wishes.known.any(1).all())
    # Independent with probability 0.3, and one of three where there would be none.
    torch.testing.assert_close(wishes.known.float().mean(0), torch.full((3,), 0.3 + 0.7**3 / 3), atol=0.03, rtol=0)
    for index, mean in enumerate((0.5, 0.5, 0.5)):
        torch.testing.assert_close(wishes.values[wishes.known[:, index], index].mean().item(), mean, atol=0.04, rtol=0)
    part = latents.wishes(10, 100)
    assert torch.equal(part.values, wishes.values[100:110])
    torch.testing.assert_close(latents(10, 100), latents(130, 0)[100:110], atol=1e-6, rtol=1e-6)


def test_pairs_of_controlled_latents_are_for_training_alone(tiny_generator, tiny_labeler, tmp_path) -> None:
    torch.manual_seed(0)
    classifier = (
        AttributeClassifier(tiny_labeler.schema, "w", arguments={"input_dim": 12, "hidden": [8]})
        .eval()
        .requires_grad_(False)
    )
    latents = ControlledLatents(tiny_generator, classifier, seed=9)
    more = make_pairs(tmp_path / "more", tiny_generator, tiny_labeler, 12, 9, 5, False, latents)
    torch.testing.assert_close(more.array("z"), latents(12, 0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(more.array("w"), tiny_generator.mapping(more.array("z")))
    with pytest.raises(LaceError, match="use another folder"):
        make_pairs(tmp_path / "more", tiny_generator, tiny_labeler, 12, 9, 5, False)
    pairs = make_pairs(tmp_path / "pairs", tiny_generator, tiny_labeler, 100, progress=False)
    parts = []
    for extra in (None, more):
        data = LatentPairsDataModule(pairs, "w", soft=True, fractions=(0.2, 0.2), more=extra)
        data.setup()
        parts.append(data.parts)
    for name in ("val", "test"):
        assert all(torch.equal(a, b) for a, b in zip(parts[0][name], parts[1][name], strict=True))
    assert torch.equal(parts[1]["train"][0], torch.cat([parts[0]["train"][0], more.array("w")]))
    assert torch.equal(parts[1]["train"][1], torch.cat([parts[0]["train"][1], more.array("logits")]))


def test_only_latents_of_the_same_generator_are_steered(tiny_generator, tiny_labeler, classifier) -> None:
    with pytest.raises(LaceError, match="space x"):
        ControlledLatents(tiny_generator, tiny_labeler.classifier)
    foreign = AttributeClassifier(SCHEMA, "w", arguments={"input_dim": 4, "hidden": []}, generator="another")
    with pytest.raises(LaceError, match="another"):
        ControlledLatents(Toy(), foreign)
