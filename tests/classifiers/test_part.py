"""Parts of a latent classifier: the same logits, fewer networks."""

import pytest
import torch

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.energies import linearize
from lace_lightning.errors import LaceError
from lace_lightning.query import parse

from ..test_schema import FACES


@pytest.mark.parametrize("mode", ["single", "separate"])
@pytest.mark.parametrize("names", [["glasses"], ["haircolor", "glasses"], ["yaw", "haircolor"], list(FACES.names)])
def test_a_part_has_the_logits_and_the_gradients_of_the_whole(mode: str, names: list[str]) -> None:
    whole = AttributeClassifier(FACES, "w", "mlp", {"input_dim": 6, "hidden": [8, 5], "mode": mode}, "g").eval()
    part = whole.part(names)
    assert set(part.schema.names) == set(names)
    assert part.generator == "g"
    assert not part.training
    u = torch.randn(4, 6)
    columns = [c for name in part.schema.names for c in range(FACES.slices[name].start, FACES.slices[name].stop)]
    torch.testing.assert_close(part(u), whole(u)[:, columns])
    gradient = torch.randn(4, len(columns))
    full = torch.zeros(4, FACES.num_logits)
    full[:, columns] = gradient
    (y, vjp), (_, vjp_whole) = linearize(part, u), linearize(whole, u)
    torch.testing.assert_close(y, part(u))
    torch.testing.assert_close(vjp(gradient), vjp_whole(full))


def test_a_part_of_separate_networks_holds_only_those() -> None:
    whole = AttributeClassifier(FACES, "w", "mlp", {"input_dim": 6, "mode": "separate"})
    sizes = [sum(p.numel() for p in c.parameters()) for c in (whole, whole.part(["glasses"]))]
    assert sizes[1] < sizes[0] / (len(FACES) - 1)
    state = torch.random.get_rng_state()
    whole.part(["glasses"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_classifier_of_some_attributes_takes_queries_about_those() -> None:
    some = AttributeClassifier(FACES.part(["yaw", "glasses"]), "w", "mlp", {"input_dim": 6}).eval()
    whole = parse("glasses == 1 and yaw == 0.5", FACES)
    u = torch.randn(3, 6)
    torch.testing.assert_close(some.energy(whole)(u), some.energy("glasses == 1 and yaw == 0.5")(u))
    with pytest.raises(LaceError, match=r"needs haircolor, and the classifier knows glasses, yaw alone"):
        some.energy(parse("haircolor == red and glasses == 1", FACES))
