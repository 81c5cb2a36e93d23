"""The two diffusions and their reversal against what is known by hand: Gaussian data, of which the score is exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lace_lightning.errors import LaceError
from lace_lightning.seeds import Noise, normal
from lace_lightning.systems.score.model import guided
from lace_lightning.systems.score.samplers import ProbabilityFlow, ReverseDiffusion, build_score_sampler
from lace_lightning.systems.score.sde import SDE, VarianceExploding, VariancePreserving, build_sde

VP, VE = VariancePreserving(), VarianceExploding()
MEAN, STD = 0.5, 0.3


def gaussian_score(sde: SDE, mean: float = MEAN, std: float = STD) -> Callable[..., Tensor]:
    """Return the exact score of data N(mean, std²), coordinate by coordinate."""

    def score(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 1))
        a, s = sde.mean(t).reshape(shape), sde.std(t).reshape(shape)
        return -(x - a * mean) / ((a * std).square() + s.square())

    return score


@pytest.mark.parametrize(
    ("t", "mean", "std"),
    [
        (0.1, 0.946722, 0.322053),
        (0.25, 0.723657, 0.690160),
        (0.5, 0.281183, 0.959654),
        (0.75, 0.058664, 0.998278),
        (1.0, 0.006572, 0.999978),
        (1e-3, 0.999945, 0.010485),
    ],
)
def test_kernel_of_the_variance_preserving_diffusion(t: float, mean: float, std: float) -> None:
    time = torch.tensor([t], dtype=torch.float64)
    assert float(VP.mean(time)) == pytest.approx(mean, abs=1e-6)
    assert float(VP.std(time)) == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize(
    ("t", "std", "diffusion"),
    [
        (0.0, 0.01, None),
        (0.1, 0.023437, 0.096730),
        (0.25, 0.084090, 0.347061),
        (0.5, 0.707107, 2.918423),
        (0.75, 5.946036, 24.540915),
        (1.0, 50.0, 206.363674),
    ],
)
def test_kernel_of_the_variance_exploding_diffusion(t: float, std: float, diffusion: float | None) -> None:
    time = torch.tensor([t], dtype=torch.float64)
    assert float(VE.std(time)) == pytest.approx(std, abs=1e-6)
    if diffusion is not None:
        assert float(VE.diffusion(time)) == pytest.approx(diffusion, abs=1e-6)


@pytest.mark.parametrize("sde", [VP, VE])
def test_kernels_obey_their_equation(sde: SDE) -> None:
    """a' = -ρa and (s²)' = -2ρs² + g²."""
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64).requires_grad_(True)
    mean, variance = sde.mean(t), sde.std(t).square()
    slope = (
        torch.autograd.grad(mean.sum(), t, allow_unused=True, retain_graph=True)[0]
        if sde is VP
        else torch.zeros_like(t)
    )
    torch.testing.assert_close(slope, -sde.rate(t) * mean)
    (growth,) = torch.autograd.grad(variance.sum(), t)
    torch.testing.assert_close(growth, -2 * sde.rate(t) * variance + sde.diffusion(t).square())


def test_the_discrete_chain_keeps_what_it_should() -> None:
    kept = torch.tensor([VP.alpha(index, 1000) for index in range(1000)], dtype=torch.float64).cumprod(0)
    assert float(kept[0]) == pytest.approx(0.9999)
    assert float(kept[499]) == pytest.approx(0.0785872, abs=1e-7)
    assert float(kept[999]) == pytest.approx(4.03583e-5, abs=1e-10)
    assert float(VP.mean(torch.ones([], dtype=torch.float64))) ** 2 == pytest.approx(4.3186e-5, abs=1e-9)


def recursion(sde: SDE, predictor: str, steps: int) -> tuple[float, float, float]:
    """Return mean, deviation after the last noise and before it, of the exact affine recursion for Gaussian data."""
    mean, variance, denoised = 0.0, sde.prior_std**2, 0.0
    for k in range(steps):
        time = 1 + k / (steps - 1) * (sde.end - 1)
        move, t = sde.move(predictor, steps - 1 - k, time, steps), torch.tensor(time, dtype=torch.float64)
        a, s = float(sde.mean(t)), float(sde.std(t))
        spread = (a * STD) ** 2 + s * s
        factor = move.keep - move.climb / spread
        mean, denoised = factor * mean + move.climb * a * MEAN / spread, factor**2 * variance
        variance = denoised + move.noise**2
    return mean, math.sqrt(variance), math.sqrt(denoised)


@pytest.mark.parametrize(
    ("sde", "predictor", "steps", "expected"),
    [
        (VP, "euler_maruyama", 50, (0.50391, 0.30513, 0.30117)),
        (VP, "euler_maruyama", 100, (0.50199, 0.30215, 0.30016)),
        (VP, "euler_maruyama", 200, (0.50101, 0.30100, 0.30000)),
        (VP, "euler_maruyama", 1000, (0.50023, 0.30023, 0.30003)),
        (VE, "reverse_diffusion", 50, (0.49998, 0.32808, 0.32793)),
        (VE, "reverse_diffusion", 100, (0.49998, 0.31339, 0.31323)),
        (VE, "reverse_diffusion", 200, (0.49998, 0.30655, 0.30639)),
        (VE, "reverse_diffusion", 1000, (0.49998, 0.30130, 0.30113)),
    ],
)
def test_predictors_on_gaussian_data(sde: SDE, predictor: str, steps: int, expected: tuple[float, ...]) -> None:
    assert recursion(sde, predictor, steps) == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize("sde", [VP, VE])
@pytest.mark.parametrize("predictor", ["reverse_diffusion", "euler_maruyama", "ancestral"])
def test_every_predictor_goes_to_the_data(sde: SDE, predictor: str) -> None:
    mean, std, _ = recursion(sde, predictor, 4000)
    assert mean == pytest.approx(MEAN, abs=3e-3)
    assert std == pytest.approx(STD, abs=3e-3)


@pytest.mark.parametrize("predictor", ["reverse_diffusion", "euler_maruyama", "ancestral"])
@pytest.mark.parametrize("sde", [VP, VE])
def test_the_sampler_is_the_recursion(sde: SDE, predictor: str) -> None:
    """With one start and the opposite noise the mean of two samples is the recursion's mean, to rounding."""
    random, sampler = torch.Generator().manual_seed(0), ReverseDiffusion(predictor, 50, 0)
    draws = [torch.randn(1, 4, 4, 4, generator=random, dtype=torch.float64) for _ in range(50)]
    start = sde.prior_std * draws[0]
    ends = [
        sampler(sde, gaussian_score(sde), sign * start, lambda k, like, sign=sign: sign * draws[k])[0]
        for sign in (1, -1)
    ]
    mean, _, denoised = recursion(sde, predictor, 50)
    torch.testing.assert_close((ends[0] + ends[1]) / 2, torch.full_like(start, mean), rtol=0, atol=1e-12)
    # And from noise that is drawn, the deviation before the last noise.
    seeds = torch.arange(4)
    x, evaluations = sampler(sde, gaussian_score(sde), sde.prior_std * normal(seeds, (2000,)), Noise(seeds))
    assert evaluations == 50
    assert float(x.std()) == pytest.approx(denoised, rel=0.03)


def test_the_corrector_is_stationary_where_it_should_be() -> None:
    """On N(0, I) steps of ε = 0.0512 keep the variance 1/(1 - ε/2) = 1.02627, and a sample's own ε = 0.0512/v keeps v =
    1.0256.
    """
    step = 2 * 0.16**2
    assert 1 / (1 - step / 2) == pytest.approx(1.02627, abs=1e-5)
    sampler, size, shape = ReverseDiffusion(snr=0.16), 3 * 64 * 64, (2, 3, 64, 64)
    x, n = (
        F.normalize(torch.randn(shape, dtype=torch.float64).flatten(1)).reshape(shape) * size**0.5 for _ in range(2)
    )
    for coupled in (False, True):
        sampler.coupled = coupled
        for variance, kept in ((1 + step / 2, True), (1.0, False)):
            y = x * variance**0.5
            # The mean over a noise and its opposite is that over all of its length.
            after = [sampler.corrected(y, -y, sign * n, 1.0).square().flatten(1).sum(1) / size for sign in (1, -1)]
            epsilon = step / variance
            expected = variance if kept else (1 - epsilon) ** 2 + 2 * epsilon
            torch.testing.assert_close((after[0] + after[1]) / 2, torch.full_like(after[0], expected))
    # α takes its part of ε.
    full, part = sampler.corrected(x, -x, n, 1.0), sampler.corrected(x, -x, n, 0.25)
    torch.testing.assert_close(full, (1 - step) * x + (2 * step) ** 0.5 * n)
    torch.testing.assert_close(part, (1 - step / 4) * x + (step / 2) ** 0.5 * n)


def test_a_sample_is_its_own_unless_the_batch_is_coupled() -> None:
    def draw(seeds: Tensor, coupled: bool) -> Tensor:
        return ReverseDiffusion(num_steps=30, coupled=coupled)(
            VP, gaussian_score(VP), normal(seeds, (3, 4, 4)), Noise(seeds)
        )[0]

    seeds = torch.tensor([5, 3, 9])
    torch.testing.assert_close(draw(seeds, False)[1:2], draw(seeds[1:2], False), rtol=0, atol=1e-5)
    assert not torch.allclose(draw(seeds, True)[1:2], draw(seeds[1:2], True), atol=1e-3)
    # Where a batch is one sample, its mean is its own.
    torch.testing.assert_close(draw(seeds[:1], True), draw(seeds[:1], False))


@pytest.mark.parametrize(
    "flow", [ProbabilityFlow(atol=1e-8, rtol=1e-8), ProbabilityFlow("heun", 1000), ProbabilityFlow("bosh3", 300)]
)
def test_the_flow_is_the_affine_map_of_gaussian_data(flow: ProbabilityFlow) -> None:
    x = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
    y, _ = flow(VP, gaussian_score(VP), x)
    slope = float((y[2] - y[0]) / 3)
    assert slope == pytest.approx(0.300173, abs=1e-5)
    end, start = (torch.tensor(t, dtype=torch.float64) for t in (VP.end, 1.0))
    spread = [float(((VP.mean(t) * STD).square() + VP.std(t).square()).sqrt()) for t in (end, start)]
    assert slope == pytest.approx(spread[0] / spread[1], abs=2e-5)
    assert float(y[1]) == pytest.approx(float(VP.mean(end)) * MEAN - slope * float(VP.mean(start)) * MEAN, abs=2e-5)


@pytest.mark.parametrize("method", ["heun", "bosh3", "dopri5"])
@pytest.mark.parametrize("sde", [VP, VE])
def test_the_order_of_the_flow_is_what_it_declares(sde: SDE, method: str) -> None:
    x = torch.tensor([[sde.prior_std * 0.7]], dtype=torch.float64)
    exact = ProbabilityFlow("dopri5", 600)(sde, gaussian_score(sde), x)[0]
    counts = (40, 80) if method == "dopri5" else (80, 160)
    errors = [float((ProbabilityFlow(method, count)(sde, gaussian_score(sde), x)[0] - exact).abs()) for count in counts]
    order = ProbabilityFlow(method).order
    # Dormand and Prince's fifth order is nearly a sixth on such a flow.
    assert order - 0.5 < math.log2(errors[0] / errors[1]) < order + (1.5 if method == "dopri5" else 0.5)


def test_the_flow_of_a_sample_does_not_see_its_batch() -> None:
    x = normal(torch.arange(5), (2, 3)) * torch.tensor([0.1, 3.0, 1.0, 0.5, 2.0])[:, None, None]
    together, mean = ProbabilityFlow()(VP, gaussian_score(VP), x)
    alone = [ProbabilityFlow()(VP, gaussian_score(VP), row[None]) for row in x]
    torch.testing.assert_close(together, torch.cat([row for row, _ in alone]), rtol=0, atol=1e-6)
    assert mean == pytest.approx(sum(count for _, count in alone) / 5)


def test_noise_is_a_fixed_point_of_the_preserving_flow() -> None:
    x = normal(torch.arange(6), (3, 4))
    score = gaussian_score(VP, 0.0, 1.0)
    torch.testing.assert_close(ProbabilityFlow("heun", 10)(VP, score, x)[0], x, rtol=0, atol=1e-5)
    density, _ = ProbabilityFlow().log_density(VP, score, x)
    torch.testing.assert_close(density, torch.distributions.Normal(0, 1).log_prob(x).sum((1, 2)), rtol=0, atol=1e-4)
    entropy = math.log2(math.sqrt(2 * math.pi * math.e))
    assert entropy == pytest.approx(2.047096, abs=1e-6)
    many = normal(torch.arange(4000), (12,))
    bits = -ProbabilityFlow("heun", 2).log_density(VP, score, many, torch.ones_like(many))[0].mean() / 12 / math.log(2)
    assert float(bits) == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize("sde", [VP, VE])
def test_the_flow_knows_the_density(sde: SDE) -> None:
    """Exactly by the trace, and by probes too, where the score's derivative is a multiple of the identity."""
    x = (MEAN + STD * normal(torch.arange(4), (1, 2, 2))).double()
    end, one = (torch.tensor(t, dtype=torch.float64) for t in (sde.end, 1.0))
    moments = [
        (float(sde.mean(t) * MEAN), float(((sde.mean(t) * STD).square() + sde.std(t).square()).sqrt()))
        for t in (end, one)
    ]
    # VE's published kernel is wider than its equation's, and no data are so wide as the prior: what the flow says is
    # exact for its field.
    flow = ProbabilityFlow(atol=1e-8, rtol=1e-8)
    z = flow.integrate(
        lambda y, t, rows: (
            -sde.rate(t)[:, None] * y - sde.diffusion(t).square()[:, None] / 2 * gaussian_score(sde)(y, t, rows)
        ),
        x.flatten(1),
        sde.end,
        1.0,
    )[0]
    stretch = math.log(moments[1][1] / moments[0][1])
    expected = torch.distributions.Normal(0, sde.prior_std).log_prob(z).sum(1) + 4 * stretch
    for probe in (None, normal(torch.arange(4), (1, 2, 2), 1).sign().double()):
        density, _ = flow.log_density(sde, gaussian_score(sde), x, probe)
        torch.testing.assert_close(density, expected, rtol=0, atol=1e-5)
    if sde is VP:
        exact = torch.distributions.Normal(*moments[0]).log_prob(x).sum((1, 2, 3))
        torch.testing.assert_close(density, exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("sde", [VP, VE])
def test_guidance_is_exact_for_two_gaussians(sde: SDE) -> None:
    """∇ log p_t(x) + ∇ log p_t(y|x) is the score of component y."""
    means, weights = (
        torch.tensor([[-1.0, 0.3], [0.8, 0.1]], dtype=torch.float64),
        torch.tensor([0.3, 0.7], dtype=torch.float64),
    )

    def parts(x: Tensor, t: Tensor) -> Tensor:
        """log w_y + log N(x; a·m_y, a²·STD² + s²) but for what they share."""
        a, s = sde.mean(t)[:, None, None], sde.std(t)[:, None, None]
        return weights.log() - ((x[:, None] - a * means).square() / ((a * STD).square() + s.square())).sum(2) / 2

    def score(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            return torch.autograd.grad(parts(point, t).logsumexp(1).sum(), point)[0]

    x, t, rows = (
        torch.randn(7, 2, dtype=torch.float64),
        torch.linspace(0.01, 1, 7, dtype=torch.float64),
        torch.arange(7),
    )
    for wanted in (0, 1):
        total = guided(score, lambda x, t, rows, y=wanted: parts(x, t).log_softmax(1)[:, y])(x, t, rows)
        a, s = sde.mean(t)[:, None], sde.std(t)[:, None]
        torch.testing.assert_close(total, -(x - a * means[wanted]) / ((a * STD).square() + s.square()))


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(LaceError, match="vp, ve"):
        build_sde("subvp")
    with pytest.raises(LaceError, match="Did you mean 'ancestral'"):
        ReverseDiffusion("ancestrall")
    with pytest.raises(LaceError, match="more than beta_max = 20"):
        ReverseDiffusion(num_steps=20)(VP, gaussian_score(VP), torch.zeros(1, 2), Noise(torch.arange(1)))
    with pytest.raises(LaceError, match="dopri5"):
        ProbabilityFlow("dopri8")
    with pytest.raises(LaceError, match="reverse_diffusion, probability_flow"):
        build_score_sampler({"kind": "ddim"})
    with pytest.raises(LaceError, match="sigma_min < sigma_max"):
        VarianceExploding(1.0, 0.5)
    with pytest.raises(LaceError, match="loosen atol"):
        ProbabilityFlow(max_steps=3)(VP, gaussian_score(VP), torch.zeros(1, 2))
