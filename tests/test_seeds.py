from __future__ import annotations

import math

import pytest
import torch

from lace_lightning import seeds
from lace_lightning.errors import LaceError


def _words(*values: int) -> list[torch.Tensor]:
    return [torch.tensor([value]) for value in values]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_equals_the_published_vectors(counter, key, expected) -> None:
    assert tuple(int(word) for word in seeds.philox(_words(*counter), _words(*key))) == expected


def test_a_row_depends_on_its_seed_alone() -> None:
    rows = torch.tensor([7, -1, 2**40 + 3, 0])
    together = seeds.normal(rows, (5, 3), stream=2)
    assert torch.equal(together, torch.cat([seeds.normal(row[None], (5, 3), stream=2) for row in rows]))
    assert not torch.equal(together, seeds.normal(rows, (5, 3), stream=3))
    assert not torch.equal(seeds.normal(torch.tensor([3]), (5,)), seeds.normal(torch.tensor([2**32 + 3]), (5,)))


def test_moments() -> None:
    x = seeds.normal(torch.arange(20000), (10,)).double()
    error = 1 / math.sqrt(x.numel())
    assert abs(x.mean()) < 4 * error
    assert abs(x.var() - 1) < 4 * math.sqrt(2) * error
    assert abs(x.pow(4).mean() - 3) < 4 * math.sqrt(96) * error
    assert (torch.corrcoef(x.T) - torch.eye(10)).abs().max() < 0.04
    u = seeds.uniform(torch.arange(20000), (10,)).double()
    assert 0 <= u.min() <= u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * error
    counts = torch.bincount(seeds.integers(torch.arange(20000), 5), minlength=5)
    assert (counts - 4000).abs().max() < 4 * math.sqrt(3200)


def test_noise_drawn_ahead_equals_noise_drawn_alone() -> None:
    rows, like = torch.arange(3), torch.zeros(3, 4)
    chain = seeds.Noise(rows, ahead=4)
    for k in (0, 1, 2, 3, 4, 9, 2):
        assert torch.equal(chain(k, like), seeds.normal(rows, (4,), stream=1 + k))


def test_wrong_seeds_are_refused() -> None:
    with pytest.raises(LaceError, match="int64"):
        seeds.normal(torch.zeros(3), (2,))
    with pytest.raises(LaceError, match="one seed per sample"):
        seeds.Noise(torch.arange(3))(0, torch.zeros(4, 2))
