"""Features of a Fréchet distance that come with the package, and the shipped statistics that are used for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lace_lightning.cache import Cache
from lace_lightning.errors import LaceError
from lace_lightning.generators import load_generator
from lace_lightning.labelers import face_labeler
from lace_lightning.metrics import GivenStatistics
from lace_lightning.metrics.feature_space import LITE0_NETWORK, build_feature_space, lite0_extractor

RECORDED = np.load(Path(__file__).parents[1] / "faces" / "recorded.npz")


class Pictures:
    """A data set of recorded faces, of a generator."""

    def __init__(self, count: int, generator: str = "other", side: int = 64) -> None:
        self.source = {"generator": generator, "count": count, "shape": [3, side, side]}
        self.pictures = torch.from_numpy(RECORDED["images"][:count])

    def train_pictures(self) -> torch.Tensor:
        return self.pictures


def test_features_of_lite0_are_the_recorded_ones():
    extractor = lite0_extractor()
    features = extractor.features(torch.from_numpy(RECORDED["images"][:10]))
    assert (extractor.key, extractor.size) == ("fd_lite0", features.shape[1])
    assert torch.allclose(features, torch.from_numpy(RECORDED["lite0_features"][:10]), atol=1e-4)


def test_statistics_of_lite0_are_measured_once(tmp_path, monkeypatch):
    judge, pictures, cache = face_labeler("second", ["brightness"]), Pictures(4), Cache(tmp_path)
    # The generator's pictures may have another shape: the network resizes both.
    space = build_feature_space("lite0", judge, pictures, "recorded", cache, image_shape=[3, 32, 32])
    features = torch.from_numpy(RECORDED["lite0_features"][:4]).double()
    assert torch.allclose(space.reference["mean"], features.mean(0), atol=1e-4)
    assert torch.allclose(space.reference["covariance"], features.T.cov(), atol=1e-4)
    monkeypatch.setattr(Pictures, "train_pictures", lambda _: pytest.fail("measured twice"))
    again = build_feature_space("lite0", judge, pictures, "recorded", cache)
    assert torch.equal(again.reference["mean"], space.reference["mean"])


def test_given_statistics_of_lite0_are_known_by_name_or_size(tmp_path):
    judge = face_labeler("second", ["brightness"])
    tensors = {"mean": torch.zeros(1280), "covariance": torch.eye(1280)}
    for network in (LITE0_NETWORK, None):
        given = GivenStatistics(tensors, {"reference": "given", "network": network})
        assert build_feature_space("auto", judge, None, "faces", Cache(tmp_path), given=given).key == "fd_lite0"
    given = GivenStatistics({"mean": torch.zeros(9), "covariance": torch.eye(9)}, {"reference": "given"})
    with pytest.raises(LaceError, match=f"must be of the features '{LITE0_NETWORK}', and are of 9 features"):
        build_feature_space("lite0", judge, None, "faces", Cache(tmp_path), given=given)


def test_shipped_reference_is_that_of_the_generator_alone(tmp_path, monkeypatch):
    generator, judge = load_generator("faces"), face_labeler("second", ["brightness"])
    monkeypatch.setattr(Pictures, "train_pictures", lambda _: pytest.fail("measured"))
    space = build_feature_space("lite0", judge, Pictures(4, generator.digest), "faces", Cache(tmp_path))
    assert space.protocol["reference"] == "faces train, 10000 pictures"
    assert space.reference["count"] == 10_000
    monkeypatch.undo()
    other = build_feature_space("lite0", judge, Pictures(4, "other"), "faces", Cache(tmp_path))
    assert other.reference["count"] == 4
