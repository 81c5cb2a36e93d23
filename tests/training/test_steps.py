"""What training steps share: averages, random numbers, the guard, warm-up, against their formulas written out."""

from __future__ import annotations

import copy
import doctest
import importlib

import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.training.average import averaged_copy, early_decay, move_average
from lace_lightning.training.learning_rates import warmed_up
from lace_lightning.training.steps import require_bounded, step_generator, step_seed

MODULES = (
    "training.average",
    "training.steps",
    "training.learning_rates",
    "report.paper",
    "systems.lace",
)


@pytest.mark.parametrize("buffers", ["copy", "average", None])
def test_an_average_moves_by_its_weight(buffers: str | None) -> None:
    network = torch.nn.BatchNorm1d(3).double()
    average = averaged_copy(network)
    before = copy.deepcopy(average.state_dict())
    with torch.no_grad():
        network.weight.copy_(torch.tensor([1.0, 2.0, 4.0]))
        network.running_mean.copy_(torch.tensor([3.0, 5.0, 7.0]))
        network.num_batches_tracked.fill_(9)
    move_average(average, network, 0.25, buffers)
    torch.testing.assert_close(average.weight, before["weight"] + 0.25 * (network.weight - before["weight"]))
    share = {"copy": 1.0, "average": 0.25, None: 0.0}[buffers]
    torch.testing.assert_close(average.running_mean, share * network.running_mean)
    assert int(average.num_batches_tracked) == (0 if buffers is None else 9)


def test_an_average_follows_at_first() -> None:
    assert [early_decay(0.5, n) for n in (0, 1, 8, 100)] == [0.1, 2 / 11, 0.5, 0.5]


@pytest.mark.parametrize(("seed", "step", "rank"), [(0, 0, 0), (3, 17, 2), (2**30, 10**6, 1)])
def test_random_numbers_of_a_step_are_those_of_the_formulas(seed: int, step: int, rank: int) -> None:
    latent_jem = (seed * 1_000_003 + step) * 1009 + rank
    pixels = (seed * 1_000_003 + step) * 100_003 + rank
    styleflow = (seed * 100_003 + rank) * 1_000_003 + step
    score = seed
    for number in (step, 0, rank):
        score = (score * 1_000_003 + number) % 2**63
    assert step_seed(seed, (1_000_003, step), (1009, rank)) == latent_jem % 2**63
    assert step_seed(seed, (1_000_003, step), (100_003, rank)) == pixels % 2**63
    assert step_seed(seed, (100_003, rank), (1_000_003, step)) == styleflow % 2**63
    assert step_seed(seed, *((1_000_003, number) for number in (step, 0, rank))) == score
    drawn = torch.randn(3, generator=step_generator("cpu", seed, (1_000_003, step), (1009, rank)))
    assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(latent_jem % 2**63)))


def test_divergence_is_one_sentence() -> None:
    require_bounded(1, "advice", 10.0, loss=torch.tensor(-10.0))
    for value in (torch.nan, torch.inf, 10.5):
        with pytest.raises(
            LaceError, match=r"diverged at step 7: the loss must stay within ±10 and is .*; slow down\."
        ):
            require_bounded(7, "slow down", 10.0, the_loss=torch.tensor(value))
    with pytest.raises(LaceError, match="must stay finite"):
        require_bounded(7, "slow down", float("inf"), the_loss=torch.tensor(torch.inf))


def test_warm_up_is_linear() -> None:
    assert [warmed_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [warmed_up(step - 1, 4) for step in range(3)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"lace_lightning.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
