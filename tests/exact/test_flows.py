"""Flows and chains against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lace_lightning.energies import Continuous, Discrete, Energy
from lace_lightning.errors import LaceError
from lace_lightning.samplers import ODE, Euler, Heun, Langevin, PredictorCorrector, Sampler
from lace_lightning.schedules import VP
from lace_lightning.seeds import normal

LENGTH = 5.025


class Linear(nn.Module):
    """f(z) = a·z as a single continuous attribute, in float64."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = a

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.a)[:, None]


class Logit(nn.Module):
    """Two logits whose difference is k(z_1 - τ)."""

    def __init__(self, k: float, tau: float) -> None:
        super().__init__()
        self.k, self.tau = k, tau

    def forward(self, z: Tensor) -> Tensor:
        difference = self.k * (z[:, 0] - self.tau)
        return torch.stack([torch.zeros_like(difference), difference], dim=1)


class Nothing(Energy):
    def forward(self, u: Tensor) -> Tensor:
        return u.sum(1) * 0


def continuous(a: list[float], c: float, sigma: float) -> Energy:
    return Continuous(slice(0, 1), c, sigma).pullback(Linear(torch.tensor(a, dtype=torch.float64)))


def test_schedule() -> None:
    assert VP().length() == pytest.approx(LENGTH)
    assert VP().length(0.5) == pytest.approx(1.26875)
    assert VP().time(VP().length(0.3)) == pytest.approx(0.3)
    assert VP(2.0, 2.0).time(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "sampler",
    [ODE(atol=1e-9, rtol=1e-9), ODE(time="s", atol=1e-9, rtol=1e-9), Heun(1e-5, 1e-5), ODE("rk4", step_size=0.002)],
    ids=repr,
)
def test_linear_attribute(sampler: Sampler) -> None:
    """f(Λ) = c + (f_0 - c)·exp(-|a|²Λ/σ²), and z moves along a only."""
    a, sigma, c = [0.6, 0.8, 0.0], 1.3, 0.7
    z = normal(torch.arange(16), (3,), dtype=torch.float64)
    out = sampler(continuous(a, c, sigma), z).z
    direction = torch.tensor(a, dtype=torch.float64)
    f0, f = z @ direction, out @ direction
    tolerance = 2e-6 if isinstance(sampler, ODE) else 1e-4
    torch.testing.assert_close(f, c + (f0 - c) * math.exp(-LENGTH / sigma**2), atol=tolerance, rtol=0)
    torch.testing.assert_close(out - z, (f - f0)[:, None] * direction, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("k", "tau", "start", "end"),
    [
        (8, 1.2816, -1.0, 1.993590),
        (8, 1.2816, 0.0, 1.996895),
        (8, 1.2816, 1.0, 2.000156),
        (8, 1.2816, 2.0, 2.088147),
        (1, 0.0, 0.0, 1.507876),
        (2, 0.0, -1.0, 1.370253),
    ],
)
def test_linear_logit(k: float, tau: float, start: float, end: float) -> None:
    energy = Discrete(slice(0, 2), 1).pullback(Logit(k, tau))
    z = torch.tensor([[start, 0.3]], dtype=torch.float64)
    tight = {"atol": 1e-9, "rtol": 1e-9}
    for sampler, tolerance in ((ODE(time="s", **tight), 3e-6), (Heun(1e-5, 1e-5), 1e-3), (ODE(**tight), 3e-6)):
        out = sampler(energy, z).z
        assert float(out[0, 0]) == pytest.approx(end, abs=tolerance)
        assert float(out[0, 1]) == pytest.approx(0.3, abs=1e-12)


def _error(sampler: Sampler) -> float:
    energy = Discrete(slice(0, 2), 1).pullback(Logit(1.0, 0.0))
    z = torch.tensor([[0.0], [-1.0], [1.5]], dtype=torch.float64)
    exact = ODE("dopri8", time="s", atol=1e-13, rtol=1e-13)(energy, z).z
    return float((sampler(energy, z).z - exact).abs().max())


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_measured_order_is_the_declared_one(method: str) -> None:
    coarse, fine = (ODE(method, step_size=LENGTH / n, time="s") for n in ((8, 16) if method == "rk4" else (32, 64)))
    assert math.log2(_error(coarse) / _error(fine)) == pytest.approx(coarse.order, abs=0.25)


def test_order_of_euler_on_both_grids() -> None:
    for options in ({"grid": "cubic"}, {}):
        errors = [_error(Euler(step_size=1 / n, num_steps=n, **options)) for n in (64, 128)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)


def test_error_of_heun_follows_its_tolerance() -> None:
    """A step's error estimate is that of order one,
    so halving the tolerance four times halves a second-order result.
    """
    errors = [_error(Heun(tolerance, tolerance)) for tolerance in (1e-3, 1e-5)]
    assert errors[0] < 2e-2
    assert errors[1] < errors[0] / 20


def test_flows_compose() -> None:
    energy = Discrete(slice(0, 2), 1).pullback(Logit(2.0, 0.0))
    z = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    half = ODE(atol=1e-9, rtol=1e-9, end=0.4)(energy, z).z
    # s from 0.4 to 0 is the flow of a schedule with that length.
    rest = VP().length(0.4)
    whole = ODE(atol=1e-9, rtol=1e-9)(energy, z).z
    composed = ODE(atol=1e-9, rtol=1e-9, time="s", beta_min=2 * rest, beta_max=2 * rest)(energy, half).z
    torch.testing.assert_close(composed, whole, atol=1e-6, rtol=0)


def test_a_sample_does_not_see_its_batch() -> None:
    energy = Discrete(slice(0, 2), torch.tensor([1, 0, 1, 1])).pullback(Logit(3.0, 0.2))
    z, seeds = normal(torch.arange(4), (5,)), torch.arange(4)
    for sampler in (Heun(), Euler(), Langevin(30), PredictorCorrector(25, 1, per_sample=True)):
        whole = sampler(energy, z, seeds=seeds).z
        for index in range(4):
            row = torch.tensor([index])
            alone = sampler(energy.rows(row), z[row], seeds=seeds[row]).z
            torch.testing.assert_close(alone[0], whole[index], atol=1e-6, rtol=0)


def test_langevin_with_zero_energy() -> None:
    z = normal(torch.arange(4000), (20,))
    out = Langevin()(Nothing(), z, seeds=torch.arange(4000)).z
    assert float(out.std()) == pytest.approx(0.371929, abs=0.003)


@pytest.mark.parametrize(("corrections", "variance"), [(0, 1.0292), (1, 1.0305)])
def test_predictor_corrector_with_zero_energy(corrections: int, variance: float) -> None:
    z = normal(torch.arange(1000), (256,))
    out = PredictorCorrector(100, corrections)(Nothing(), z, seeds=torch.arange(1000)).z
    assert float(out.var()) == pytest.approx(variance, abs=0.01)


def test_langevin_at_the_right_noise_samples_the_posterior() -> None:
    """Linear attribute, |a| = 1, σ = 0.1, c = 1: mean 0.990099, sd 0.0995037."""
    h = 1e-3
    z = normal(torch.arange(4000), (2,), dtype=torch.float64)
    out = Langevin(600, h, math.sqrt(2 * h))(continuous([1.0, 0.0], 1.0, 0.1), z, seeds=torch.arange(4000)).z
    assert float(out[:, 0].mean()) == pytest.approx(0.990099, abs=0.01)
    assert float(out[:, 0].std()) == pytest.approx(0.0995037, rel=0.06)


def test_single_sample_and_trajectory() -> None:
    energy = Discrete(slice(0, 2), 1).pullback(Logit(2.0, 0.0))
    z = torch.zeros(1, 3)
    for sampler in (ODE(), Heun(), Euler(), Langevin(7), PredictorCorrector(25)):
        sample = sampler(energy, z, seeds=torch.arange(1), trajectory=True)
        assert sample.trajectory is not None
        torch.testing.assert_close(sample.trajectory[-1], sample.z)
    assert torch.equal(z, torch.zeros(1, 3))


class Broken(Energy):
    def forward(self, u: Tensor) -> Tensor:
        return torch.where(u[:, 0] > 0.5, torch.nan, 1.0) * u.sum(1)


@pytest.mark.parametrize("sampler", [ODE(), ODE("euler"), Heun(), Euler(), Langevin(), PredictorCorrector()], ids=repr)
def test_nan_becomes_a_sentence(sampler: Sampler) -> None:
    z = torch.tensor([[0.0], [1.0]])
    with pytest.raises(LaceError, match=rf"(?s)samples .*1.*{type(sampler).__name__}\("):
        sampler(Broken(), z, seeds=torch.arange(2))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ODE("dopri6"), "Did you mean 'dopri"),
        (lambda: Euler(-1.0), "step_size must be above 0"),
        (lambda: Langevin()(Nothing(), torch.zeros(2, 3)), "give seeds"),
        (lambda: Heun()(Nothing(), torch.zeros(3)), r"\(B, D\)"),
        (lambda: PredictorCorrector(10), "more than beta_max"),
        (lambda: ODE(end=1.0), "end time"),
        (lambda: ODE(max_evaluations=3)(Nothing(), torch.zeros(2, 3)), "within 3 evaluations"),
    ],
)
def test_bad_settings(build, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        build()
