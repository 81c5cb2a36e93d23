"""Exact samplers against posteriors that can be solved by hand, or by quadrature."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from torch import Tensor, nn

from lace_lightning.energies import Continuous, Discrete, Energy, HalfLine, PaperOr, Prior, Region
from lace_lightning.errors import LaceError
from lace_lightning.query import parse
from lace_lightning.samplers import (
    ODE,
    Annealed,
    Auto,
    CrankNicolson,
    EllipticalSlice,
    Filtered,
    GaussNewton,
    HamiltonianMC,
    Heun,
    Rejection,
    Sampler,
    log_probability,
)
from lace_lightning.schema import Attribute, Schema
from lace_lightning.seeds import normal

COUNT = 4000
SEEDS = torch.arange(COUNT)
EXACT = [EllipticalSlice(60), CrankNicolson(150), HamiltonianMC(20), Annealed(20), Rejection()]


def repr_of(sampler: Sampler) -> str:
    return type(sampler).__name__


class Affine(nn.Module):
    """z (B, D) -> z·A + b (B, L)."""

    def __init__(self, matrix: list[list[float]], offset: list[float]) -> None:
        super().__init__()
        self.matrix, self.offset = torch.tensor(matrix), torch.tensor(offset)

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.matrix.to(z) + self.offset.to(z)


class Nothing(Energy):
    def forward(self, u: Tensor) -> Tensor:
        return u.sum(1) * 0


def start(dim: int, count: int = COUNT) -> Tensor:
    return normal(torch.arange(count), (dim,))


def logit(k: float, tau: float, dim: int = 3) -> Energy:
    """p = σ(k(z_1 - τ))."""
    matrix = [[0.0, k]] + [[0.0, 0.0]] * (dim - 1)
    return Discrete(slice(0, 2), 1).pullback(Affine(matrix, [0.0, -k * tau]))


def half_space(tau: float, k: float = 8.0, dim: int = 3) -> Energy:
    """The hard region z_1 > τ, led by six times the logit of slope k."""
    schema = Schema("half", (Attribute("side", "discrete", 2, ("no", "yes")),))
    guide = 6.0 * Discrete(slice(0, 2), 1)
    matrix = [[0.0, k]] + [[0.0, 0.0]] * (dim - 1)
    return Region(guide, parse("side == yes", schema)).pullback(Affine(matrix, [0.0, -k * tau]))


def within(values: Tensor, mean: float, variance: float, errors: float = 3.0) -> None:
    """Assert mean and variance of independent draws to within so many standard errors."""
    x = values.double()
    assert abs(float(x.mean()) - mean) < errors * math.sqrt(variance / len(x))
    spread = (x - mean).square()
    assert abs(float(spread.mean()) - variance) < errors * float(spread.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("sampler", EXACT, ids=repr_of)
def test_logistic_posterior(sampler: Sampler) -> None:
    z = sampler(logit(2, 0), start(3), SEEDS).z
    within(z[:, 0], 0.605706, 0.633121)
    within(z[:, 1], 0, 1)
    within(sampler(logit(8, 1.2816), start(3), SEEDS).z[:, 0], 1.685790, 0.214376)


@pytest.mark.parametrize("sampler", EXACT, ids=repr_of)
def test_half_space(sampler: Sampler) -> None:
    z = sampler(half_space(1.2816), start(3), SEEDS).z
    assert bool((z[:, 0] > 1.2816).all())
    within(z[:, 0], 1.75502, 0.16913)
    within(z[:, 2], 0, 1)


@pytest.mark.parametrize(
    ("tau", "p", "mean", "variance"),
    [
        (1.2816, 0.1, 1.75502, 0.16913),
        (2.3263, 0.01, 2.66517, 0.09685),
        (3.0902, 1e-3, 3.36706, 0.06780),
        (3.7190, 1e-4, 3.95846, 0.05209),
        (4.7534, 1e-6, 4.94831, 0.03553),
    ],
)
def test_rare_half_space(tau: float, p: float, mean: float, variance: float) -> None:
    """Annealed chains arrive, are right, and know how rare it is."""
    sample = Annealed(40, num_slice_moves=10)(half_space(tau), start(3), SEEDS)
    assert sample.evaluations == 161
    within(sample.z[:, 0], mean, variance)
    log_p, error = log_probability(sample.diagnostics["log_weights"])
    assert error < 0.2
    assert abs(log_p - math.log(p)) < 3 * error


@pytest.mark.parametrize(
    ("k", "tau", "p", "mean", "variance"),
    [
        (8, 1.2816, 0.105633, 1.685790, 0.214376),
        (8, 3.0902, 0.00129974, 3.202528, 0.128910),
        (2, 0, 0.5, 0.605706, 0.633121),
        (1, 0, 0.5, 0.413242, 0.829231),
    ],
)
def test_annealing_estimates_the_probability(k: float, tau: float, p: float, mean: float, variance: float) -> None:
    for weight in (1.0, 6.0):
        sample = Annealed(40)(weight * logit(k, tau), start(3), SEEDS)
        log_p, error = log_probability(sample.diagnostics["event_log_weights"])
        assert abs(log_p - math.log(p)) < 3 * error < 0.5
        if weight == 1:
            within(sample.z[:, 0], mean, variance)


def test_rejection_counts() -> None:
    sample = Rejection()(logit(8, 1.2816), start(3), SEEDS)
    log_p, error = log_probability(sample.diagnostics["event_log_weights"], sample.diagnostics["counts"])
    assert abs(log_p - math.log(0.105633)) < 3 * error
    assert sample.diagnostics["attempts"] == pytest.approx(1 / 0.105633, rel=0.06)
    assert sample.evaluations == 0
    assert sample.forward >= sample.diagnostics["attempts"]


@pytest.mark.parametrize("sampler", EXACT, ids=repr_of)
def test_linear_gaussian(sampler: Sampler) -> None:
    """f = z_1, σ = 0.1: mean and variance of the posterior, and nothing happens across it."""
    energy = Continuous(slice(0, 1), 1.0, 0.1).pullback(Affine([[1.0], [0.0]], [0.0]))
    z = sampler(energy, start(2), SEEDS).z
    within(z[:, 0], 0.990099, 0.0995037**2)
    within(z[:, 1], 0, 1)


@pytest.mark.parametrize(("c", "p"), [(0, 0.0995037), (1, 0.0606517), (2, 0.0137357), (3, 0.00115575)])
def test_evidence_of_a_linear_attribute(c: float, p: float) -> None:
    energy = Continuous(slice(0, 1), c, 0.1).pullback(Affine([[1.0], [0.0]], [0.0]))
    sample = Annealed(40)(energy, start(2), SEEDS)
    log_p, error = log_probability(sample.diagnostics["log_weights"])
    assert abs(log_p - math.log(p)) < 3 * error < 0.3
    within(sample.z[:, 0], c / 1.01, 0.01 / 1.01)


@pytest.mark.parametrize(
    "sampler", [HamiltonianMC(60), Annealed(60, num_slice_moves=20), EllipticalSlice(200)], ids=repr_of
)
def test_correlated_attributes(sampler: Sampler) -> None:
    map = Affine([[1.0, 0.9], [0.0, 0.43589]], [0.0, 0.0])
    energy = (Continuous(slice(0, 1), 1.0, 0.1) & Continuous(slice(1, 2), 1.0, 0.1)).pullback(map)
    z = sampler(energy, start(2), SEEDS).z
    within(z[:, 0], 0.9948, 0.00952)
    within(z[:, 1], 0.2282, 0.08663)
    product = ((z[:, 0] - 0.9948) * (z[:, 1] - 0.2282)).double()
    assert abs(float(product.mean()) + 0.01867) < 3 * float(product.std()) / math.sqrt(COUNT)


def test_or_and_not_share_out_as_the_prior_does() -> None:
    """z_1 > 1 or z_2 > 0.5 with nearly hard logits: shares of the branches, means, and the complement."""
    matrix, offset = [[0.0, 200.0, 0.0, 0.0], [0.0, 0.0, 0.0, 200.0]], [0.0, -200.0, 0.0, -100.0]
    one, two = Discrete(slice(0, 2), 1), Discrete(slice(2, 4), 1)
    map = Affine(matrix, offset)
    sampler = Rejection()
    z = sampler((one | two).pullback(map), start(2), SEEDS).z
    first, second = z[:, 0] > 1, z[:, 1] > 0.5
    for share, want in ((first & ~second, 0.262298), (second & ~first, 0.620661), (first & second, 0.117040)):
        assert abs(float(share.double().mean()) - want) < 3 * math.sqrt(want * (1 - want) / COUNT)
    for column, mean in ((0, 0.400041), (1, 0.708223)):
        assert abs(float(z[:, column].mean()) - mean) < 3 * float(z[:, column].std()) / math.sqrt(COUNT)
    diagnostics = sampler((one & two).pullback(map), start(2), SEEDS).diagnostics
    log_p, error = log_probability(diagnostics["event_log_weights"], diagnostics["counts"])
    assert abs(log_p - math.log(0.0489511)) < 3 * error
    z = EllipticalSlice(60)((~one).pullback(map), start(2), SEEDS).z
    assert abs(float(z[:, 0].mean()) + 0.287600) < 3 * float(z[:, 0].std()) / math.sqrt(COUNT)


@pytest.mark.parametrize(
    "sampler",
    [
        EllipticalSlice(5),
        CrankNicolson(5),
        HamiltonianMC(5),
        Annealed(5),
        Rejection(),
        Heun(corrector=HamiltonianMC(5)),
    ],
    ids=repr_of,
)
def test_without_attributes_the_prior_stays(sampler: Sampler) -> None:
    """The prior is invariant and everything is accepted; if it were counted twice the variance would be one half."""
    sample = sampler(Nothing(), start(40), SEEDS)
    accepted = [value for name, value in sample.diagnostics.items() if name.endswith("acceptance")]
    assert accepted == pytest.approx([1.0] * len(accepted), abs=1e-4)
    for column in range(0, 40, 7):
        within(sample.z[:, column], 0, 1, errors=3.5)
    doubled = sampler(Prior(), start(40), SEEDS).z if not isinstance(sampler, (Heun, Rejection)) else None
    if doubled is not None:
        # What it would be: the test can tell the two apart.
        assert abs(float(doubled.var()) - 1) > 0.15


class Banana(Energy):
    """A curved ridge with two humps, nothing that a Gaussian resembles."""

    def forward(self, u: Tensor) -> Tensor:
        return (u[:, 1] - u[:, 0].square() + 0.5).square() * 3 + 1.5 * torch.cos(3 * u[:, 0]) + 1.5


@pytest.mark.parametrize(
    "sampler", [EllipticalSlice(80), CrankNicolson(400), HamiltonianMC(150), Annealed(30), Rejection()], ids=repr_of
)
def test_two_dimensions_by_quadrature(sampler: Sampler) -> None:
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    density = (-Banana()(points) - points.square().sum(1) / 2).exp()
    density /= density.sum()
    z = sampler(Banana(), start(2), SEEDS).z.double()
    for function in (
        lambda u: u[:, 0],
        lambda u: u[:, 1],
        lambda u: u[:, 0].square(),
        lambda u: u[:, 0] * u[:, 1],
        lambda u: (u[:, 0].abs() < 0.5).double(),
        lambda u: torch.cos(2 * u[:, 1]),
    ):
        want = float((density * function(points)).sum())
        values = function(z)
        assert abs(float(values.mean()) - want) < 3.3 * float(values.std()) / math.sqrt(COUNT)


@pytest.mark.parametrize(
    "sampler",
    [
        EllipticalSlice(20),
        CrankNicolson(20, 0.3),
        HamiltonianMC(8, step_size=0.2),
        Annealed(8, step_sizes=[0.3] * 8),
        Rejection(),
        GaussNewton(),
        Heun(corrector=HamiltonianMC(3, step_size=0.2)),
    ],
    ids=repr_of,
)
def test_a_sample_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    energy = logit(4, 0.5)
    z = start(3, 12)
    frozen = sampler.calibrated(energy, z)
    assert frozen.is_ready
    whole = frozen(energy, z, SEEDS[:12]).z
    torch.testing.assert_close(frozen(energy, z[5:9], SEEDS[5:9]).z, whole[5:9], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(frozen(energy, z[3:4], SEEDS[3:4]).z, whole[3:4], atol=1e-5, rtol=1e-5)


def test_targets_of_its_own_for_every_sample() -> None:
    targets = torch.arange(COUNT) % 2
    energy = Discrete(slice(0, 2), targets).pullback(Affine([[0.0, 2.0], [0.0, 0.0]], [0.0, 0.0]))
    for sampler in (Rejection(), EllipticalSlice(40), HamiltonianMC(20), Annealed(10)):
        z = sampler(energy, start(2), SEEDS).z
        within(z[targets == 1, 0], 0.605706, 0.633121)
        within(z[targets == 0, 0], -0.605706, 0.633121)


def test_the_pilot_is_the_same_in_every_batch() -> None:
    energy = logit(8, 2.0)
    sizes = [HamiltonianMC().calibrated(energy, start(3, count)).step_size for count in (1, 7, 200)]
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_corrector_takes_the_bias_of_the_flow_away() -> None:
    flow = Heun()(logit(2, 0), start(3)).z
    assert abs(float(flow[:, 0].mean()) - 0.605706) > 0.2
    for corrector in (EllipticalSlice(40), HamiltonianMC(20), CrankNicolson(100)):
        sample = Heun(corrector=corrector)(logit(2, 0), start(3), SEEDS)
        within(sample.z[:, 0], 0.605706, 0.633121)
        assert "corrector_acceptance" in sample.diagnostics


def test_rejection_refuses_what_is_too_rare() -> None:
    with pytest.raises(LaceError, match=r"P is below.*sampler=annealed"):
        Rejection()(half_space(4.7534), start(3, 10), SEEDS[:10])
    with pytest.raises(LaceError, match=r"1 in 20 prior samples, and P is 0\.0"):
        Rejection(20)(half_space(2.3263), start(3, 10), SEEDS[:10])
    with pytest.raises(LaceError, match="at least 0"):
        Rejection()(PaperOr(Discrete(slice(0, 2), 1), Discrete(slice(0, 2), 0)), start(2, 10), SEEDS[:10])


def test_filtered_samples_are_those_of_the_joint_event() -> None:
    """A sieve on z_1 and a check of z_2: the joint event, drawn exactly, at the price that probabilities tell."""
    places = []

    def check(z: Tensor, rows: Tensor) -> Tensor:
        places.append(rows)
        return z[:, 1] > 0

    sample = Filtered(Rejection(), check=check)(half_space(1.2816), start(3), SEEDS)
    assert bool((sample.z[:, 0] > 1.2816).all())
    within(sample.z[:, 0], 1.75502, 0.16913)
    within(sample.z[:, 1], math.sqrt(2 / math.pi), 1 - 2 / math.pi)
    within(sample.z[:, 2], 0, 1)
    assert sample.diagnostics["checks"] == pytest.approx(2, rel=0.06)
    assert sum(map(len, places)) == COUNT * sample.diagnostics["checks"]
    with pytest.raises(LaceError, match="share that passes is 0"):
        Filtered(Rejection(), max_rounds=3, check=lambda z, rows: z[:, 1] > 9)(half_space(0.0), start(3, 5), SEEDS[:5])


def test_auto_says_why() -> None:
    common = Auto().calibrated(logit(8, 1.2816), start(3))
    assert isinstance(common, Rejection)
    assert "P is 0.1" in common.reason
    rare = Auto().calibrated(half_space(4.7534), start(3))
    assert isinstance(rare, Annealed)
    assert re.search(r"P is about \de-0[67], too rare", rare.reason)
    within(Auto()(half_space(4.7534), start(3), SEEDS).z[:, 0], 4.94831, 0.03553)
    paper = Auto().calibrated(PaperOr(Discrete(slice(0, 2), 1), Discrete(slice(0, 2), 0)), start(2))
    assert isinstance(paper, GaussNewton)
    assert isinstance(paper.corrector, EllipticalSlice)


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_gauss_newton_is_exact_for_linear_attributes(num_steps: int) -> None:
    """Two correlated attributes at σ = 0.01: the closed form f(Λ) = c + exp(-Λ·AAᵀ/σ²)(f_0 - c), for any number of
    steps.
    """
    map = Affine([[1.0, 0.9], [0.0, 0.43589]], [0.0, 0.1])
    for sigma in (0.01, 2.0):
        energy = (Continuous(slice(0, 1), 0.3, sigma) & Continuous(slice(1, 2), 0.9, sigma)).pullback(map)
        z = start(2, 50).double()
        sample = GaussNewton(num_steps)(energy, z)
        a = map.matrix.double()
        target = torch.tensor([0.3, 0.9], dtype=torch.float32).double()
        want = target + (map(z) - target) @ torch.linalg.matrix_exp(-5.025 * a.T @ a / sigma**2)
        torch.testing.assert_close(map(sample.z), want, atol=1e-8, rtol=0)
        assert sample.evaluations == 3 * num_steps


def test_gauss_newton_is_of_first_order_and_takes_discrete_and_half_lines() -> None:
    map = Affine([[1.0, -1.0, 0.0, 1.0], [0.3, 0.0, 0.5, 1.0]], [0.0, 0.2, 0.1, 0.0])
    energy = (
        (Discrete(slice(0, 2), 1) & HalfLine(slice(2, 3), 0.9, True, 0.5) & 2.0 * Discrete(slice(1, 4), 2))
        .pullback(map)
        .pullback(nn.Tanh())
    )
    z = start(2, 20).double()
    truth = ODE(time="s", atol=1e-10, rtol=1e-10)(energy, z).z
    errors = [float((GaussNewton(n)(energy, z).z - truth).norm()) for n in (40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.4


def test_curvature_is_the_second_derivative_of_convex_terms() -> None:
    u = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for energy in (
        Discrete(slice(0, 3), 1, temperature=1.5),
        Discrete(slice(1, 3), 0),
        Continuous(slice(0, 1), 0.5, 0.3),
        HalfLine(slice(2, 3), 0.1, True, 0.4),
        HalfLine(slice(2, 3), 0.1, False, 0.4),
        3.0 * Discrete(slice(0, 3), 2),
    ):
        value, gradient, rows = energy.curvature(u)
        hessian = torch.autograd.functional.hessian(lambda x, e=energy: e(x).sum(), u)[0, :, 0]
        torch.testing.assert_close(rows[0].T @ rows[0], hessian, atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(value, energy(u))
        torch.testing.assert_close(gradient, energy.value_and_grad(u)[1])
