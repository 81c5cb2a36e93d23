"""What a sampler tells about itself, against a case that can be worked out."""

from __future__ import annotations

import math

import pytest
import torch

from lace_lightning.metrics import SamplerDiagnosis
from lace_lightning.samplers import effective_sample_size, log_probability
from lace_lightning.seeds import normal

COUNT = 20_000


def logistic(z: torch.Tensor) -> torch.Tensor:
    """log σ(2 z_1), whose posterior has mean 0.605706 and variance 0.633121 along z_1."""
    return torch.nn.functional.logsigmoid(2 * z[:, 0])


def test_exact_samples_are_as_confident_and_as_wide_as_predicted() -> None:
    start, group = normal(torch.arange(COUNT), (3,)), torch.zeros(COUNT, dtype=torch.long)
    proposals = normal(torch.arange(COUNT, 4 * COUNT), (3,))
    exact = proposals[
        torch.rand(len(proposals), generator=torch.Generator().manual_seed(0)).log() < logistic(proposals)
    ][:COUNT]
    diagnosis = SamplerDiagnosis(3)
    # Two batches are one.
    for part in (slice(0, 123), slice(123, COUNT)):
        diagnosis.update(exact[part], logistic(exact[part]), group[part], torch.zeros(COUNT)[part])
        diagnosis.update_start(start[part], logistic(start[part]), logistic(start[part]), group[part])
    figures = diagnosis.compute()
    assert figures["log_p"] == pytest.approx(math.log(0.5), abs=3 * figures["log_p/error"])
    assert figures["log_p/error"] < 0.01
    # E[p²]/E[p] of the prior, by quadrature.
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density, p = (-x.square() / 2).exp(), torch.sigmoid(2 * x)
    want = float((density * p * p).sum() / (density * p).sum())
    assert figures["predicted"] == pytest.approx(want, abs=0.01)
    assert figures["confidence"] == pytest.approx(want, abs=0.01)
    assert figures["spread/reference"] == pytest.approx(2 + 0.633121, abs=0.06)
    assert figures["spread"] == pytest.approx(2 + 0.633121, abs=0.06)
    assert figures["ess"] == pytest.approx(1)


def test_predictions_are_made_group_by_group() -> None:
    """One class has p = 0.2 everywhere, the other 0.4: as many samples of each, whatever their probabilities."""
    group, u = torch.arange(100) % 2, normal(torch.arange(100), (2,))
    log_p = torch.tensor([0.2, 0.4]).log()[group]
    diagnosis = SamplerDiagnosis(2, groups=2)
    diagnosis.update(u, log_p, group)
    diagnosis.update_start(u, log_p, log_p, group)
    assert diagnosis.compute()["predicted"] == pytest.approx(0.3)


def test_groups_have_spreads_of_their_own_and_what_is_not_known_is_left_out() -> None:
    group = torch.arange(2000) % 2
    u = normal(torch.arange(2000), (4,)) + 10 * group[:, None]
    diagnosis = SamplerDiagnosis(4, groups=2)
    diagnosis.update(u, torch.zeros(2000), group)
    rare = torch.full((2000,), -300.0)
    rare[:3] = 0
    diagnosis.update_start(u, rare, rare, group)
    figures = diagnosis.compute()
    assert figures["spread"] == pytest.approx(4, abs=0.15)
    assert set(figures) == {"spread", "confidence"}


def test_weights() -> None:
    w = torch.tensor([0.0, math.log(3.0), -math.inf])
    assert effective_sample_size(w) == pytest.approx(16 / 10)
    assert log_probability(w)[0] == pytest.approx(math.log(4 / 3))
    # Four successes in ten attempts, however they are grouped.
    assert log_probability(torch.tensor([math.log(1.0), math.log(3.0)]), torch.tensor([2, 8]))[0] == pytest.approx(
        math.log(0.4)
    )
    assert effective_sample_size(torch.full((4,), -math.inf)) == 0
    assert log_probability(torch.full((4,), -math.inf))[0] == -math.inf


def test_samples_that_are_not_exact_are_many_standard_errors_away() -> None:
    start, group = normal(torch.arange(COUNT), (3,)), torch.zeros(COUNT, dtype=torch.long)
    proposals = normal(torch.arange(COUNT, 4 * COUNT), (3,))
    lot = torch.rand(len(proposals), generator=torch.Generator().manual_seed(1)).log()
    exact = proposals[lot < logistic(proposals)][:COUNT]
    apart = []
    for samples in (exact, exact + torch.tensor([0.2, 0.0, 0.0]), start):
        diagnosis = SamplerDiagnosis(3)
        diagnosis.update(samples, logistic(samples), group)
        diagnosis.update_start(start, logistic(start), logistic(start), group)
        apart.append(diagnosis.disagreement())
    assert apart[0] < 3
    assert apart[1] > 8
    assert apart[2] > 50
    assert SamplerDiagnosis(3).disagreement() is None
