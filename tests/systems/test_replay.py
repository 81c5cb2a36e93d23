"""Chains and the buffer that they go on from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lace_lightning.errors import LaceError
from lace_lightning.seeds import Noise
from lace_lightning.systems.pixel_ebm.langevin import FreshNoise, LangevinChain, frozen
from lace_lightning.systems.pixel_ebm.replay import ReplayBuffer


def _noise(seed: int = 0) -> FreshNoise:
    return FreshNoise(torch.Generator().manual_seed(seed))


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _quadratic(k: float):
    return lambda x: k * x.square().sum(1) / 2


@pytest.mark.parametrize(
    ("step", "noise", "k", "variance"),
    [(1.0, 0.01, 1.0, 1e-4), (1.0, 0.01, 0.5, 1.3333e-4), (0.1, 0.01, 1.0, 5.2632e-4), (0.01, 0.02**0.5, 1.0, 1.00503)],
)
@pytest.mark.parametrize("first", [False, True])
def test_variance_at_rest(step: float, noise: float, k: float, variance: float, first: bool) -> None:
    # From the variance at rest, one step changes nothing but the sample.
    x = torch.randn(1000, 400, generator=_random(1)) * variance**0.5 * ((1 - step * k) if first else 1.0)
    x = LangevinChain(4, step, noise, noise_first=first)(_quadratic(k), x, _noise())
    expected = variance * (1 - step * k) ** 2 if first else variance
    assert float(x.var()) == pytest.approx(expected, rel=0.01, abs=1e-12)


def test_steps_beyond_twice_the_inverse_curvature_diverge() -> None:
    assert float(LangevinChain(50, 2.1, 0.01)(_quadratic(1.0), torch.ones(4, 2), _noise()).abs().min()) > 50
    with pytest.raises(LaceError, match="must stay finite"):
        LangevinChain(50, 1e6, 0.01)(_quadratic(1.0), torch.ones(4, 2), _noise())


def test_noise_comes_before_or_after_the_gradient() -> None:
    x, n = torch.tensor([[2.0]]), torch.tensor([[3.0]])
    quartic = lambda x: x.pow(4).sum(1) / 4  # noqa: E731
    assert float(LangevinChain(1, 0.01, 0.5).step(quartic, x, n)) == pytest.approx(2 - 0.01 * 8 + 1.5)
    assert float(LangevinChain(1, 0.01, 0.5, noise_first=True).step(quartic, x, n)) == pytest.approx(
        3.5 - 0.01 * 3.5**3
    )


def test_bounds_of_gradient_and_place() -> None:
    x = torch.tensor([[0.5, 0.9, 0.001]])
    steep = lambda x: (x * torch.tensor([3.0, -200.0, 0.004])).sum(1)  # noqa: E731
    clipped = LangevinChain(1, 10.0, 0.0, gradient_clip=0.01)(steep, x, _noise())
    torch.testing.assert_close(clipped, torch.tensor([[0.4, 1.0, -0.039]]))
    clamped = LangevinChain(1, 10.0, 0.0, gradient_clip=0.01, clamp=[0.0, 0.95])(steep, x, _noise())
    torch.testing.assert_close(clamped, torch.tensor([[0.4, 0.95, 0.0]]))
    for wrong in ({"step_size": 0.0}, {"gradient_clip": 0.0}, {"noise_std": -1.0}, {"clamp": [1.0, 0.0]}):
        with pytest.raises(LaceError):
            LangevinChain(**wrong)


def test_the_last_step_is_a_function_of_the_parameters_alone() -> None:
    """E = θx²/2 gives x' = x(1 - ηθ), and with φ = θ held constant d/dθ φx'²/2 = -φηx²(1 - ηθ)."""

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.tensor(1.7, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.theta * x.square().sum(1) / 2

    energy, x = Energy(), torch.tensor([[0.8]], dtype=torch.float64)
    end = LangevinChain(1, 0.3, 0.0).step(energy, x, torch.zeros_like(x), create_graph=True)
    assert float(end.detach()) == pytest.approx(0.8 * (1 - 0.3 * 1.7))
    with frozen(energy):
        value = energy(end).sum()
    value.backward()
    assert float(energy.theta.grad) == pytest.approx(-0.159936, abs=5e-7)
    assert energy.theta.requires_grad


def test_a_chain_in_parts_is_the_chain() -> None:
    x, noise = torch.randn(3, 5), Noise(torch.arange(3))
    chain = LangevinChain(10, 0.1, 0.3)
    part = chain(_quadratic(1.0), chain(_quadratic(1.0), x, noise, 0, 6), noise, 6, 4)
    torch.testing.assert_close(part, chain(_quadratic(1.0), x, noise))


def test_uniform_replacement_writes_back_where_chains_began() -> None:
    buffer = ReplayBuffer(50, (3,), restart=0.0)
    assert len(buffer) == 50
    assert float(buffer.points.abs().max()) <= 1
    before = buffer.points.clone()
    x, indices = buffer.draw(8, _random())
    torch.testing.assert_close(x, before[indices])
    buffer.put(torch.full((8, 3), 7.0), indices, _random())
    changed = (buffer.points == 7).all(1)
    assert set(changed.nonzero()[:, 0].tolist()) == set(indices.tolist())
    assert torch.equal(buffer.points[~changed], before[~changed])


def test_of_several_points_for_one_place_the_last_stays() -> None:
    buffer = ReplayBuffer(4, (1,))
    buffer.put(torch.tensor([[5.0], [6.0], [7.0]]), torch.tensor([2, 0, 2]), _random())
    assert buffer.points[[2, 0], 0].tolist() == [7, 6]


def test_restarts_are_as_frequent_as_asked_and_ages_geometric() -> None:
    buffer, ages = ReplayBuffer(4000, (1,), restart=0.05), torch.zeros(4)
    for visit in range(160):
        x, indices = buffer.draw(4000, _random(visit))
        # Every visit adds 10 to what began between -1 and 1.
        if visit >= 80:
            ages += torch.stack([((x[:, 0] / 10).round() == age).float().mean() for age in range(4)]) / 80
        buffer.put(x + 10, indices, _random())
    torch.testing.assert_close(ages, 0.05 * 0.95 ** torch.arange(4.0), atol=0.003, rtol=0)


def test_blocks_belong_to_labels() -> None:
    buffer = ReplayBuffer(103, (1,), blocks=10, restart=0.0)
    labels = torch.arange(10).repeat(100)
    x, indices = buffer.draw(1000, _random(), labels)
    assert torch.equal(indices // 10, labels)
    torch.testing.assert_close(x, buffer.points[indices])
    assert set(indices.tolist()) == set(range(100))


def test_a_ring_forgets_the_oldest() -> None:
    buffer = ReplayBuffer(5, (1,), "ring", restart=0.0)
    none = torch.zeros(3, dtype=torch.long)
    x, _ = buffer.draw(3, _random())
    assert float(x.abs().max()) <= 1
    for first in (0.0, 3.0, 6.0):
        buffer.put(first + torch.arange(3.0)[:, None], none, _random())
    assert sorted(buffer.points[:, 0].tolist()) == [4, 5, 6, 7, 8]
    assert len(buffer) == 5


def test_a_reservoir_keeps_everyone_with_the_same_probability() -> None:
    kept = torch.zeros(30)
    for seed in range(400):
        buffer, random = ReplayBuffer(10, (1,), "reservoir"), _random(seed)
        for first in range(0, 30, 5):
            buffer.put(first + torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.long), random)
        kept[buffer.points[:, 0].long()] += 1
    # Standard error 0.024.
    torch.testing.assert_close(kept / 400, torch.full((30,), 1 / 3), atol=0.09, rtol=0)


def test_bytes_lose_less_than_a_level() -> None:
    buffer = ReplayBuffer(1000, (1,), "ring", as_bytes=True, low=0.0, high=1.0, restart=0.0)
    x = torch.rand(1000, 1, generator=_random())
    buffer.put(x, torch.zeros(1000, dtype=torch.long), _random())
    assert buffer.points.dtype == torch.uint8
    assert float((buffer.at(torch.arange(1000)) - x).abs().max()) <= 1 / 512 + 1e-6
    drawn = buffer.at(torch.arange(1000), _random(1))
    assert float((drawn - x).abs().max()) < 1 / 256
    # Drawing anywhere within a level is a round trip: it stays in its level.
    kept = buffer.points.clone()
    buffer.put(drawn, torch.zeros(1000, dtype=torch.long), _random())
    assert torch.equal(buffer.points, kept)


def test_changes_come_before_restarts_and_leave_the_buffer() -> None:
    buffer = ReplayBuffer(500, (1,), "ring", restart=0.3, low=0.0, high=1.0, change=lambda x, random: x + 10)
    buffer.put(torch.rand(500, 1, generator=_random()), torch.zeros(500, dtype=torch.long), _random())
    x, indices = buffer.draw(500, _random())
    changed = x[:, 0] > 5
    assert float(changed.float().mean()) == pytest.approx(0.7, abs=0.07)
    torch.testing.assert_close(x[changed], buffer.points[indices[changed]] + 10)
    assert float(buffer.points.max()) <= 1


def test_randomness_is_the_generator_and_state_is_registered() -> None:
    first, second = ReplayBuffer(20, (2,), seed=3), ReplayBuffer(20, (2,), seed=4)
    assert not torch.equal(first.points, second.points)
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.draw(6, _random(1)), second.draw(6, _random(1)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "wrong",
    [{"replacement": "rings"}, {"restart": 1.5}, {"low": 1.0}, {"blocks": 21}, {"blocks": 2, "replacement": "ring"}],
)
def test_buffers_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(LaceError):
        ReplayBuffer(20, (2,), **wrong)
    with pytest.raises(LaceError, match="put some"):
        ReplayBuffer(20, (2,), "ring").some(3, _random())
