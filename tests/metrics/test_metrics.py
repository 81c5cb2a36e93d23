from __future__ import annotations

import numpy as np
import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.metrics import (
    ConditionalAccuracy,
    EditStrength,
    FeatureStatistics,
    LayerShares,
    frechet_distance,
    judged_labels,
    layers_of,
    load_statistics,
    save_statistics,
)
from lace_lightning.query import parse
from lace_lightning.schema import Attribute, Labels, Schema

SCHEMA = Schema(
    "s", (Attribute("kind", "discrete", 3, ("a", "b", "c")), Attribute("age", "continuous"), Attribute("hat"))
)


def test_accuracy_by_hand() -> None:
    wanted = Labels(
        SCHEMA,
        torch.tensor([[0, 0.5, 0], [1, 0.5, 0], [1, 1.0, 0], [2, 0.0, 0]]),
        torch.tensor([[True, True, False]] * 4),
    )
    judged = Labels(SCHEMA, torch.tensor([[0, 0.4, 1], [1, 0.5, 1], [2, 0.7, 1], [0, 0.0, 1]]))
    metric = ConditionalAccuracy(SCHEMA)
    query = parse("kind == * and age == *", SCHEMA)
    metric.update(judged, wanted, query.holds(judged, wanted))
    result = metric.compute()
    assert result == pytest.approx(
        {
            "acc": (0.5 + 0.9) / 2,
            "holds": 0.5,
            "acc/kind": 0.5,
            "acc/age": 0.9,
            "acc/kind/a": 1.0,
            "acc/kind/b": 0.5,
            "acc/kind/c": 0.0,
        }
    )


def test_labels_that_the_judge_does_not_know_are_neither_right_nor_wrong() -> None:
    nan = float("nan")
    wanted = Labels.constant(SCHEMA, 4, kind=1.0, age=0.5)
    judged = Labels(
        SCHEMA,
        torch.tensor([[1, 0.5, 0], [0, nan, 0], [nan, 0.1, 0], [1, 0.5, 0]]),
        torch.tensor([[True, True, True]] * 3 + [[False, True, True]]),
    )
    metric, query = ConditionalAccuracy(SCHEMA), parse("kind == b and age == 0.5", SCHEMA)
    metric.update(judged, wanted, query.holds(judged))
    result = metric.compute()
    assert result == pytest.approx(
        {
            "acc": (0.5 + 2.6 / 3) / 2,
            "holds": 1.0,
            "unknown": 3 / 8,
            "acc/kind": 0.5,
            "acc/age": 2.6 / 3,
            "acc/kind/b": 0.5,
        }
    )


@pytest.mark.parametrize("text", ["kind == b", "not kind == b"])
def test_a_judge_that_knows_nothing_is_an_error(text: str) -> None:
    judged = judged_labels(SCHEMA, torch.full((5, SCHEMA.num_logits), float("nan")))
    assert not judged.known.any()
    query, metric = parse(text, SCHEMA), ConditionalAccuracy(SCHEMA)
    wanted = Labels.constant(SCHEMA, 5, **({} if text.startswith("not") else {"kind": 1.0}))
    metric.update(judged, wanted, query.holds(judged))
    with pytest.raises(LaceError, match="gave none for any of 5 pictures"):
        metric.compute()


def test_labels_without_nan_are_those_that_are_decoded() -> None:
    logits = torch.randn(6, SCHEMA.num_logits)
    judged = judged_labels(SCHEMA, logits)
    assert judged.known.all()
    assert torch.equal(judged.values, SCHEMA.decode(logits).values)


def test_strength_leaves_out_what_the_judge_does_not_know() -> None:
    before = Labels(SCHEMA, torch.tensor([[0, 0.2, 0], [2, 0.6, 1]]))
    after = Labels(SCHEMA, torch.tensor([[0, 0.7, 1], [2, float("nan"), 1]]))
    strength = EditStrength(SCHEMA)
    strength.update(before, after, Labels.constant(SCHEMA, 2, age=0.8))
    # Room 0.6, gained 0.5; the hat of the first changed, nothing of the second.
    assert strength.compute() == pytest.approx({"gain": 0.5 / 0.6, "change": 0.5, "des": 0.5 / 0.6 - 0.5})


def test_strength_of_an_edit_by_hand() -> None:
    before = Labels(SCHEMA, torch.tensor([[0, 0.2, 0], [2, 0.6, 1], [1, 0.5, 0]]))
    after = Labels(SCHEMA, torch.tensor([[0, 0.7, 1], [2, 0.8, 1], [1, 0.5, 0]]))
    aged = Labels.constant(SCHEMA, 3, age=0.8)
    strength = EditStrength(SCHEMA)
    strength.update(before, after, aged)
    # Room 0.6 + 0.2 + 0.3, gained 0.5 + 0.2 + 0; the hat of the first changed.
    assert strength.compute() == pytest.approx({"gain": 0.7 / 1.1, "change": 1 / 3, "des": 0.7 / 1.1 - 1 / 3})
    hat = EditStrength(SCHEMA)
    hat.update(before[:2], after[:2], Labels.constant(SCHEMA, 2, hat=1.0))
    assert hat.compute() == pytest.approx({"gain": 1.0, "change": (0.5 + 0.2) / 2, "des": 0.65})


def test_shards_add_up() -> None:
    torch.manual_seed(0)
    features = torch.randn(900, 5) @ torch.randn(5, 5)
    whole, left, right = FeatureStatistics(5), FeatureStatistics(5), FeatureStatistics(5)
    whole.update(features)
    left.update(features[:300])
    right.update(features[300:700])
    right.update(features[700:])
    left.count += right.count
    left.first += right.first
    left.second += right.second
    for name, value in whole.compute().items():
        torch.testing.assert_close(left.compute()[name], value)
    np.testing.assert_allclose(
        whole.compute()["covariance"], np.cov(features.double().numpy(), rowvar=False), rtol=1e-8
    )


def test_distance_of_gaussians_in_closed_form() -> None:
    """Diagonal Gaussians: Σ (μ_a - μ_b)² + Σ (σ_a - σ_b)²."""
    a = {
        "count": torch.tensor(100.0),
        "mean": torch.tensor([0.0, 1.0]),
        "covariance": torch.diag(torch.tensor([4.0, 9.0])),
    }
    b = {
        "count": torch.tensor(100.0),
        "mean": torch.tensor([1.0, 3.0]),
        "covariance": torch.diag(torch.tensor([1.0, 16.0])),
    }
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_distance_equals_torch_fidelity_on_features() -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    torch.manual_seed(1)
    sides = [torch.randn(400, 6) * scale + shift for scale, shift in ((1.0, 0.0), (1.5, 0.3))]
    statistics = []
    for side in sides:
        metric = FeatureStatistics(6)
        metric.update(side)
        statistics.append(metric.compute())
    expected = fid_statistics_to_metric(*(fid_features_to_statistics(side.double()) for side in sides), verbose=False)
    assert frechet_distance(*statistics) == pytest.approx(expected["frechet_inception_distance"], rel=1e-9)


def test_statistics_keep_their_protocol(tmp_path) -> None:
    metric = FeatureStatistics(3)
    metric.update(torch.randn(10, 3))
    save_statistics(tmp_path / "s.safetensors", metric.compute(), {"network": "abc", "pictures": 10})
    loaded, protocol = load_statistics(tmp_path / "s.safetensors", network="abc")
    assert protocol["pictures"] == 10
    torch.testing.assert_close(loaded["covariance"], metric.compute()["covariance"])
    with pytest.raises(LaceError, match="measured with the network abc"):
        load_statistics(tmp_path / "s.safetensors", network="xyz")


def test_too_few_samples() -> None:
    few = FeatureStatistics(4)
    few.update(torch.randn(3, 4))
    with pytest.warns(UserWarning, match="biased upwards"):
        frechet_distance(few.compute(), few.compute())
    one = FeatureStatistics(4)
    one.update(torch.randn(1, 4))
    with pytest.raises(LaceError, match="at least 2"):
        frechet_distance(one.compute(), one.compute())


def test_shares_of_layers_add_up_where_layers_do_not_interact() -> None:
    """The value is 0.5, 0.25 and 0.25 of the three layers; the class hangs on the last one alone."""
    weights, schema = torch.tensor([0.5, 0.25, 0.25]), Schema("s", (Attribute("age", "continuous"), Attribute("hat")))

    def logits(layers: torch.Tensor) -> torch.Tensor:
        return torch.stack([layers @ weights, torch.zeros(len(layers)), layers[:, 2]], 1)

    a, b = torch.randn(2, 4000, 3)
    mixed = torch.stack([logits(torch.where(torch.arange(3) == i, b, a)) for i in range(3)])
    metric = LayerShares(schema, 3)
    for rows in (slice(1000), slice(1000, None)):
        metric.update(logits(a[rows]), logits(b[rows]), mixed[:, rows])
    shares = metric.compute()
    # Of the variance: w_i²/Σw².
    torch.testing.assert_close(shares[:, 0], torch.tensor([4, 1, 1]) / 6, atol=0.03, rtol=0)
    torch.testing.assert_close(shares.sum(0), torch.ones(2))
    torch.testing.assert_close(shares[:, 1], torch.tensor([0.0, 0.0, 1.0]))
    assert [layers_of(shares[:, k], 0.5) for k in (0, 1)] == [[0], [2]]
    assert layers_of(shares[:, 0], 0.9) == [0]
