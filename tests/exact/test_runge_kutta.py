"""Embedded pairs against closed forms; their order; tolerances of one's own for every sample."""

from __future__ import annotations

import math

import pytest
import torch

import lace_lightning as lace
from lace_lightning.energies import Discrete
from lace_lightning.errors import LaceError
from lace_lightning.numerics.precision import fields_in
from lace_lightning.samplers import Heun, RungeKutta, sample_settings
from lace_lightning.samplers.runge_kutta import METHODS
from lace_lightning.seeds import normal

from .test_flows import LENGTH, Broken, Linear, Logit, Nothing, continuous


def logistic(k: float = 1.0, tau: float = 0.0):
    return Discrete(slice(0, 2), 1).pullback(Logit(k, tau))


@pytest.mark.parametrize("method", ["bosh3", "dopri5"])
def test_linear_attribute(method: str) -> None:
    """f(Λ) = c + (f_0 - c)·exp(-|a|²Λ/σ²), and z moves along a only."""
    a, sigma, c = [0.6, 0.8, 0.0], 1.3, 0.7
    z = normal(torch.arange(16), (3,), dtype=torch.float64)
    out = RungeKutta(method, 1e-8, 1e-8)(continuous(a, c, sigma), z).z
    f0, f = (Linear(torch.tensor(a, dtype=torch.float64))(x)[:, 0] for x in (z, out))
    torch.testing.assert_close(f, c + (f0 - c) * math.exp(-LENGTH / sigma**2), atol=1e-6, rtol=0)
    torch.testing.assert_close(out - z, (f - f0)[:, None] * torch.tensor(a, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("k", "tau", "start", "end"),
    [(8, 1.2816, -1.0, 1.993590), (8, 1.2816, 2.0, 2.088147), (1, 0.0, 0.0, 1.507876), (2, 0.0, -1.0, 1.370253)],
)
@pytest.mark.parametrize("method", ["bosh3", "dopri5"])
def test_linear_logit(method: str, k: float, tau: float, start: float, end: float) -> None:
    out = RungeKutta(method, 1e-8, 1e-8)(logistic(k, tau), torch.tensor([[start, 0.3]], dtype=torch.float64)).z
    assert float(out[0, 0]) == pytest.approx(end, abs=3e-6)
    assert float(out[0, 1]) == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_measured_order_is_the_declared_one(method: str) -> None:
    energy, z = logistic(), torch.tensor([[-1.0]], dtype=torch.float64)
    exact = RungeKutta("dopri5", 1e-12, 1e-12)(energy, z).z
    speed, errors = float(energy.value_and_grad(z)[1].abs()), []
    for count in (16, 32) if method == "dopri5" else (32, 64):
        # A tolerance that accepts everything and no growth: steps of one length, Λ/count.
        sampler = RungeKutta(method, 1e6, 1e-9, first_step=LENGTH / count * speed / (1e6 + 1), max_growth=1 + 1e-12)
        sample = sampler(energy, z)
        assert sample.diagnostics["steps"] == count
        errors.append(float((sample.z - exact).abs()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(sampler.order, abs=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_are_consistent(method: str) -> None:
    """Σb_i·c_i^(q-1) = 1/q up to the order, and the error estimate takes the difference of two such rules."""
    tableau = METHODS[method]
    nodes = [0.0, *(sum(row) for row in tableau.stages)]
    for q in range(1, tableau.order + 1):
        assert sum(b * c ** (q - 1) for b, c in zip(tableau.solution, nodes, strict=False)) == pytest.approx(1 / q)
    for q in range(1, tableau.lower + 1):
        assert sum(e * c ** (q - 1) for e, c in zip(tableau.error, nodes, strict=True)) == pytest.approx(0, abs=1e-12)
    assert len(tableau.error) == len(tableau.stages) + 1
    assert tableau.first_same_as_last == (tableau.stages[-1] == tableau.solution)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_has_its_own_tolerance_and_does_not_see_its_batch(method: str) -> None:
    energy = Discrete(slice(0, 2), torch.tensor([1, 0, 1, 1])).pullback(Logit(3.0, 0.2))
    z, tolerance = normal(torch.arange(4), (5,), dtype=torch.float64), torch.tensor([1e-1, 1e-2, 1e-4, 1e-1])
    whole = RungeKutta(method, tolerance, tolerance)(energy, z)
    for index in range(4):
        row = torch.tensor([index])
        alone = RungeKutta(method, float(tolerance[index]), float(tolerance[index]))(energy.rows(row), z[row])
        torch.testing.assert_close(alone.z[0], whole.z[index], atol=1e-6, rtol=0)
        assert alone.evaluations == float(whole.diagnostics["per_sample"][index])
    assert whole.evaluations == pytest.approx(float(whole.diagnostics["per_sample"].mean()))
    parts = RungeKutta(method, tolerance, tolerance, chunk=3)(energy, z)
    torch.testing.assert_close(parts.z, whole.z, atol=1e-9, rtol=0)
    assert parts.evaluations == pytest.approx(whole.evaluations)


def test_settings_in_one_pass_are_those_one_by_one() -> None:
    energy = Discrete(slice(0, 2), torch.tensor([1, 0, 1])).pullback(Logit(3.0, 0.2))
    z = normal(torch.arange(3), (5,), dtype=torch.float64)
    settings = [RungeKutta("dopri5", atol, rtol) for atol in (1e-1, 1e-3) for rtol in (1e-2, 1e-4)]
    for together, setting in zip(sample_settings(settings, energy, z), settings, strict=True):
        alone = setting(energy, z)
        torch.testing.assert_close(together.z, alone.z, atol=1e-9, rtol=0)
        assert together.evaluations == pytest.approx(alone.evaluations)


def test_gradients_in_bfloat16_are_near_those_in_float32() -> None:
    generator, classifier = lace.load_generator("cifar10"), lace.load_classifier("cifar10")
    energy, z = classifier.energy("label == ship").pullback(generator.mapping), generator.prior(150)
    exact = energy.value_and_grad(z)[1]
    with fields_in(torch.bfloat16):
        rough, few = energy.value_and_grad(z)[1], energy.value_and_grad(z[:20])[1]
    # 6 %: rounding puts some hidden units on the other side of their kink.
    assert 0 < float((exact - rough).norm()) < 0.1 * float(exact.norm())
    # Few samples gain nothing and are computed in float32, and nothing is left behind.
    assert torch.equal(few, energy.value_and_grad(z[:20])[1])
    assert torch.equal(exact, energy.value_and_grad(z)[1])
    samples = [Heun(precision=precision)(energy, z) for precision in ("float32", "bfloat16")]
    assert not torch.equal(samples[0].z, samples[1].z)
    energies = [float(energy(sample.z).mean()) for sample in samples]
    assert energies[0] == pytest.approx(energies[1], abs=0.01)


def test_what_is_refused() -> None:
    with pytest.raises(LaceError, match="Did you mean 'bosh3'"):
        RungeKutta("bosh2")
    with pytest.raises(LaceError, match="one for each of the 2 samples"):
        RungeKutta(atol=torch.ones(3))(Nothing(), torch.zeros(2, 3))
    with pytest.raises(LaceError, match="atol and rtol alone"):
        sample_settings([RungeKutta(), Heun()], Nothing(), torch.zeros(2, 3))
    for method in METHODS:
        with pytest.raises(LaceError, match=r"(?s)samples .*1.*RungeKutta\("):
            RungeKutta(method)(Broken(), torch.tensor([[0.0], [1.0]]))


def test_settings_tell_what_decides_a_result() -> None:
    assert repr(Heun()) == (
        "Heun(atol=0.05, rtol=0.05, first_step=0.1, max_growth=8.0, max_steps=10000, beta_min=0.1, beta_max=20.0)"
    )
    assert "precision='bfloat16'" in repr(Heun(precision="bfloat16"))
