"""Codes are read in one way by every conditional model."""

from __future__ import annotations

import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.base import ConditionalModel
from lace_lightning.systems.latent_jem import LatentJEM
from lace_lightning.systems.pixel_ebm.cond_ebm import CondEBM
from lace_lightning.systems.pixel_ebm.jem import JEM
from lace_lightning.systems.score.model import ScoreModel
from lace_lightning.systems.styleflow.model import StyleFlow

HUE, AGE, SIZE = (
    Attribute("hue", "discrete", 3, ("red", "green", "blue")),
    Attribute("age", "continuous"),
    Attribute("size"),
)
SCHEMA = Schema("s", (HUE, AGE))
PICTURES = {"chain": {"num_steps": 1}, "buffer": {"size": 9}, "shape": (3, 8, 8)}
SEEDS = torch.arange(2)


def models() -> dict[str, ConditionalModel]:
    torch.manual_seed(0)
    return {
        "jem": JEM(SCHEMA, network={"depth": 10, "widen": 1}, sampling={"num_steps": 1}, **PICTURES),
        "cond_ebm": CondEBM(
            SCHEMA,
            network={"filter_dim": 4, "stages": 1, "multiscale": False},
            sampling={"models": 1, "rounds": 1, "steps": 1, "refine": 1},
            **PICTURES,
        ),
        "score": ScoreModel(
            SCHEMA,
            resolution=8,
            network={"nf": 8, "multipliers": [1], "blocks": 1, "attention": []},
            classifier={"widen": 1},
            sde={"kind": "ve"},
            sampler={"num_steps": 3},
            precision="float32",
        ),
        "latent_jem": LatentJEM(SCHEMA, 4, {"hidden": [8]}, num_steps=2),
        "styleflow": StyleFlow(SCHEMA, 4, [8], solver={"method": "rk4", "steps": 2}),
    }


@pytest.mark.parametrize("kind", ["jem", "cond_ebm", "score", "latent_jem", "styleflow"])
def test_codes_are_read_by_name_and_others_are_refused(kind: str) -> None:
    model = models()[kind]
    starts = torch.zeros(2, 4) if model.space == "w" else torch.zeros(2, 3, 8, 8)
    nameless = Attribute("hue", "discrete", 3)
    # In another order, with an attribute that the model does not have and nothing says.
    turned = Labels(
        Schema("t", (SIZE, AGE, nameless)), torch.tensor([[9.0, 0.3, 2.0]] * 2), torch.tensor([[False, True, True]] * 2)
    )
    wanted = model.sample(Labels.constant(SCHEMA, 2, hue=2, age=0.3), SEEDS, starts).z
    assert torch.equal(model.sample(turned, SEEDS, starts).z, wanted)
    # The callbacks of a test run in inference mode.
    with torch.inference_mode():
        assert torch.equal(model.sample(turned, SEEDS, starts).z, wanted)
    other = Schema("o", (Attribute("hue", "discrete", 3, ("cyan", "pink", "grey")),))
    for codes, words in (
        (Labels(turned.schema, turned.values), "'size' was asked for"),
        (Labels.constant(other, 2, hue=1), "their 'hue' is another"),
        (Labels.constant(SCHEMA, 2, hue=3), "'hue' must be classes from 0 to 2, received 3"),
        (Labels.constant(SCHEMA, 2, hue=0.5), "'hue' must be classes from 0 to 2, received 0.5"),
        (Labels.constant(SCHEMA, 2, age=torch.tensor([0.2, 1.5])), "'age' must be values from 0 to 1, received 1.5"),
        (Labels.constant(SCHEMA, 2, age=torch.nan), "received nan"),
        (Labels.constant(SCHEMA, 3, hue=1), "3 codes, 2 seeds"),
    ):
        with pytest.raises(LaceError, match=words):
            model.sample(codes, SEEDS, starts)


def test_what_is_free_is_free_whatever_stands_there() -> None:
    model = ConditionalModel(SCHEMA)
    codes = model.checked(
        Labels(SCHEMA, torch.tensor([[7.0, 0.5], [1.0, torch.nan]]), torch.tensor([[False, True], [True, False]]))
    )
    assert codes.values.tolist() == [[0, 0.5], [1, 0]]
    assert codes.known.tolist() == [[False, True], [True, False]]
    assert not model.checked(Labels.constant(Schema("o", (SIZE,)), 4)).known.any()


def test_a_model_that_needs_a_condition_says_which_code_has_none() -> None:
    class Needy(ConditionalModel):
        needs_condition = True

    codes = Labels(SCHEMA, torch.zeros(2, 2), torch.tensor([[False, True], [False, False]]))
    assert len(ConditionalModel(SCHEMA).checked(codes)) == 2
    with pytest.raises(LaceError, match="Needy needs a condition, and code 1 knows no attribute"):
        Needy(SCHEMA).checked(codes)
