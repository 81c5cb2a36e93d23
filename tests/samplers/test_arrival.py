"""Chains that have not arrived say so, and the number of moves follows from the target."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from lace_lightning.energies import Discrete, Energy, HalfLine, Prior, Region
from lace_lightning.query import parse
from lace_lightning.samplers import Annealed, Auto, CrankNicolson, EllipticalSlice, Filtered, HamiltonianMC, Heun
from lace_lightning.samplers.arrival import Arrival, split_rhat
from lace_lightning.schema import Attribute, Schema
from lace_lightning.seeds import normal

SEEDS = torch.arange(200)
LINEAR = HalfLine(slice(0, 1), 0.5)


def test_split_rhat_by_hand() -> None:
    """One move of two groups: means 0.5 and 5.5, variances 0.5; B = 12.5 - 0.5/2, W = 0.5."""
    draws = torch.tensor([0.0, 1.0, 5.0, 6.0]).view(1, 2, 2, 1)
    assert split_rhat(draws).item() == pytest.approx(math.sqrt(1 + 12.25 / 0.5))
    # Groups that agree, in which the two halves of the moves do not.
    drift = torch.randn(8, 2, 500, 1, generator=torch.Generator().manual_seed(0))
    assert split_rhat(drift).item() < 1.002
    drift[4:] += 2
    assert split_rhat(drift).item() == pytest.approx(math.sqrt(1 + 4 / 3), rel=0.03)
    assert split_rhat(torch.ones(2, 3, 4, 1)).item() == 1


@pytest.mark.parametrize("kernel", [EllipticalSlice, CrankNicolson, HamiltonianMC, Annealed])
def test_a_pilot_finds_how_many_moves_are_enough(kernel: type) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain = kernel().calibrated(LINEAR, torch.zeros(5, 3))
    assert chain.is_ready
    assert chain.diagnosis.has_arrived
    assert chain.diagnosis.moves == (chain.num_slice_moves if kernel is Annealed else chain.num_steps)
    # Whatever the batch.
    again = kernel().calibrated(LINEAR, torch.zeros(70, 3))
    assert repr(again) == repr(chain)
    assert chain.diagnosis.sentences()[0].startswith("Chains from ")


class Slow(Energy):
    """A narrow valley along a circle, which many short moves walk round."""

    def forward(self, u: Tensor) -> Tensor:
        return (u[:, :2].norm(dim=1) - 3).square() * 2000 + 3 * (1 - u[:, 0] / 3)


def test_chains_that_have_not_arrived_say_so() -> None:
    with pytest.warns(UserWarning, match=r"disagree after 1 moves: the split R-hat of .* is \d.*above 1.01"):
        chain = EllipticalSlice(1).calibrated(Slow(), torch.zeros(5, 2))
    assert not chain.diagnosis.has_arrived
    with pytest.warns(UserWarning, match="Heun: Chains from the prior and .* disagree after 1 moves"):
        Heun(corrector=CrankNicolson(1, 0.01)).calibrated(Slow(), torch.zeros(5, 2))
    # A fixed number of moves stays what it is, and a chain without a pilot has no diagnosis.
    assert chain.num_steps == 1
    assert EllipticalSlice(1).diagnosis is None


def test_a_region_without_probability_is_named() -> None:
    schema = Schema("hats", (Attribute("hat"),))
    region = Region(Discrete(slice(0, 2), 1), parse("hat == 1", schema)).pullback(
        lambda z: torch.stack([z[:, 0].abs() + 1, z[:, 0] * 0], 1)
    )
    with pytest.warns(UserWarning, match="No pilot chain reached the hard region: the query may have probability zero"):
        EllipticalSlice(5).calibrated(region, torch.zeros(5, 1))


def test_stuck_chains_are_named() -> None:
    stuck = Arrival(1.0, "log p", 10, ("the prior", "the flow"), 0.004)
    assert not stuck.has_arrived
    assert stuck.sentences()[1] == "The chains are stuck: 0.40% of the moves are accepted."


def test_samplers_around_chains_have_their_diagnosis() -> None:
    filtered = Filtered(HamiltonianMC(), check=lambda z, places: z[:, 1] > 0).calibrated(LINEAR, torch.zeros(5, 3))
    assert filtered.diagnosis is not None
    assert Auto().calibrated(Prior(), torch.zeros(5, 3)).diagnosis is None
    flow = Heun(corrector=HamiltonianMC()).calibrated(LINEAR, torch.zeros(5, 3))
    assert flow.diagnosis is flow.corrector.diagnosis
    z = normal(SEEDS, (3,))
    torch.testing.assert_close(flow(LINEAR, z, SEEDS).z[:9], flow(LINEAR, z[:9], SEEDS[:9]).z, atol=1e-4, rtol=1e-4)
