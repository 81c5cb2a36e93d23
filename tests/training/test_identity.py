"""Identity embeddings: the margin by hand, the round trip of weights."""

from __future__ import annotations

import math

import pytest
import torch

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.classifiers.embedding import IdentityEmbedding
from lace_lightning.errors import LaceError
from lace_lightning.training.identity import IdentityTraining


def test_the_margin_is_added_to_the_angle_of_the_right_person() -> None:
    module = IdentityTraining(arguments={"width": 4}, size=2, num_people=3, scale=10.0, margin=0.3)
    angles = torch.tensor([0.0, 0.5, 3.0])
    module.people.data = 7 * torch.stack([angles.cos(), angles.sin()], dim=1)
    vectors = torch.tensor([[1.0, 0.0]] * 3)
    logits = module.margin_logits(vectors, torch.tensor([0, 1, 2])).detach() / 10
    right = [math.cos(0.3), math.cos(0.8), math.cos(math.pi)]
    expected = angles.cos().repeat(3, 1)
    expected[[0, 1, 2], [0, 1, 2]] = torch.tensor(right)
    torch.testing.assert_close(logits, expected, atol=2e-3, rtol=0)


def test_distance_and_round_trip(tmp_path) -> None:
    embedding = IdentityEmbedding(arguments={"width": 4}, size=8).eval()
    pictures = torch.rand(4, 3, 32, 32)
    embedding.save(tmp_path / "id.safetensors")
    again = IdentityEmbedding.load(tmp_path / "id.safetensors")
    assert again.digest == embedding.digest
    torch.testing.assert_close(again(pictures).norm(dim=1), torch.ones(4))
    torch.testing.assert_close(again.distance(pictures, pictures), torch.zeros(4))
    direct = (embedding(pictures) - embedding(pictures.flip(0))).norm(dim=1).detach()
    torch.testing.assert_close(again.distance(pictures, pictures.flip(0)), direct)
    with pytest.raises(LaceError, match="must be a classifier"):
        AttributeClassifier.load(tmp_path / "id.safetensors")
