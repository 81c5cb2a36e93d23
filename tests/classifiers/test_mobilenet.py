"""MobileNets: what they see of a picture, and how they fit into classifiers and labelers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lace_lightning.classifiers import AttributeClassifier, MobileNet
from lace_lightning.classifiers.mobilenet import VARIANTS
from lace_lightning.errors import LaceError
from lace_lightning.labelers import Labeler
from lace_lightning.schema import Attribute, Schema

SCHEMA = Schema("s", (Attribute("smile"), Attribute("yaw", "continuous")))


def _network(**arguments) -> MobileNet:
    torch.manual_seed(0)
    return MobileNet(3, **{"variant": "v3_small", "width": 0.25, "resolution": 32, **arguments}).eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_linear_head_of_the_features_and_scale_with_it(variant: str) -> None:
    network, x = _network(variant=variant), torch.rand(3, 3, 40, 40) * 2 - 1
    features, logits = network.features(x), network(x)
    assert features.shape == (3, network.num_features)
    assert torch.equal(network.head(features), logits)
    maps = network.feature_maps(x)
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2, 1]
    network.scale_outputs(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(network(x), logits * torch.tensor([1.0, 2.0, 3.0]))


def test_a_picture_does_not_depend_on_its_batch() -> None:
    network, x = _network(), torch.rand(5, 3, 32, 32) * 2 - 1
    alone = torch.cat([network(picture[None]) for picture in x])
    torch.testing.assert_close(network(x), alone, atol=1e-6, rtol=1e-5)


def test_pictures_of_any_size_show_the_same() -> None:
    """A smooth picture looks alike at every size, and a crop of a larger one is the smaller one."""
    network = _network()
    grid = torch.linspace(-1, 1, 65)[:-1] + 1 / 64
    large = torch.stack([grid.expand(64, 64), grid[:, None].expand(64, 64), (grid[:, None] * grid)])[None]
    seen = network.view(large)
    # Antialiasing a ramp away from its ends takes means of neighbours.
    torch.testing.assert_close(
        seen[..., 1:-1, 1:-1], torch.nn.functional.avg_pool2d(large, 2)[..., 1:-1, 1:-1], atol=2e-3, rtol=0
    )
    assert torch.equal(network.view(seen), seen)
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    assert network.view(checkers.expand(1, 3, 64, 64))[..., 1:-1, 1:-1].abs().max() < 1e-5
    framed = torch.nn.functional.pad(large, (16, 16, 8, 24), value=-1)
    torch.testing.assert_close(_network(crop=(8 / 96, 16 / 96, 64 / 96, 64 / 96))(framed), network(large))


def test_what_is_seen_is_normalised() -> None:
    network = _network()
    white = network.normalize(torch.ones(1, 3, 2, 2))[0, :, 0, 0]
    torch.testing.assert_close(white, (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))


def test_a_saved_classifier_labels_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {"variant": "v3_small", "width": 0.25, "resolution": 32, "crop": [0.1, 0.0, 0.8, 0.8]}
    classifier = AttributeClassifier(SCHEMA, "x", "mobilenet", arguments).eval()
    classifier.save(tmp_path / "c.safetensors")
    x = torch.rand(4, 3, 48, 48) * 2 - 1
    labeler = Labeler(tmp_path / "c.safetensors", precision="float32")
    torch.testing.assert_close(labeler(x), classifier(x), atol=1e-5, rtol=1e-5)
    assert labeler.digest.startswith(classifier.digest)
    assert labeler.features(x).shape == (4, labeler.num_features)
    rough = Labeler(tmp_path / "c.safetensors", precision="bfloat16")(x)
    torch.testing.assert_close(rough, classifier(x).detach(), atol=0.05, rtol=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variant": "v3_larg"}, "Did you mean 'v3_large'"),
        ({"resolution": 16}, "at least 32, received 16"),
        ({"crop": (0.5, 0, 0.6, 1)}, "within the picture"),
        ({"crop": (0, 0, 0, 1)}, "within the picture"),
        ({"crop": [0.8]}, r"received \[0\.8\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        _network(**arguments)
