"""Random numbers of seeds and streams, and the register of both."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
from pathlib import Path

import pytest
import torch

from lace_lightning import generators, seeds
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


@pytest.mark.parametrize("part", [1, 7, 40, 10**9])
def test_numbers_do_not_depend_on_how_many_are_drawn_at_a_time(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, streams = torch.arange(13) * 2**33 - 5, torch.arange(13) % 3

    def drawn() -> list[torch.Tensor]:
        kinds = itertools.product(
            (seeds.normal, seeds.uniform), ((), (3, 2), (0,)), (4, streams), (torch.float32, torch.float64)
        )
        return [draw(numbers, shape, stream, dtype=dtype) for draw, shape, stream, dtype in kinds]

    whole = drawn()
    monkeypatch.setattr(seeds, "PART", part)
    again = drawn()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(whole, again, strict=True))


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


# The values that seeds and streams had when each file held its own: samples, pairs and caches follow from them.
VALUES = {
    seeds.Streams: {
        "PRIOR": 0,
        "NOISE": 1,
        "CONDITION_ROW": 1,
        "TRACE_PROBE": 2,
        "DENSITY_PROBE": 1,
        "SPLIT": 1048576,
        "CONDITION": 1048577,
        "PERSON_ATTRIBUTES": 1048677,
        "PERSON_IDENTITY": 1048678,
        "PERSON_LIGHT": 1048687,
        "DEGRADE": 1048777,
        "WISH": 1048877,
        "BUFFER": 2097152,
        "ROUND": 16777216,
        "PILOT_AGAIN": 1073741824,
        "START": 4294967296,
        "CHANGE": 8589934592,
        "UNIFORM": 1099511627776,
    },
    seeds.RunSeeds: {"OWN": 0, "OTHER": 1048576, "POSTERIOR": 1049600, "FRESH": 2097152, "REFERENCE": 4194304},
    seeds.SampleSeeds: {"RUNS": 0, "PILOT": -1099511627776, "TEST_PEOPLE": 4611686018427387904},
}


@pytest.mark.parametrize("register", VALUES)
def test_registered_numbers_keep_their_values_and_do_not_collide(register: type[seeds.Register]) -> None:
    entries = register.entries()
    assert {name: int(entry) for name, entry in entries.items()} == VALUES[register]
    assert all(entry.count > 0 and entry.purpose for entry in entries.values())
    for (name, entry), (other_name, other) in itertools.combinations(entries.items(), 2):
        assert not entry.overlaps(other), f"{name} and {other_name} draw the same numbers"


def test_no_file_but_the_register_holds_a_stream_or_an_offset_of_seeds() -> None:
    """A constant that is called a stream or a seed, with a number of its own, belongs into the register."""
    package = Path(seeds.__file__).parent
    pattern = re.compile(r"^[A-Z_]*(STREAM|SEED)S?\b.*=.*(\d|\*\*)", re.MULTILINE)
    found = [
        f"{file.relative_to(package)}: {match[0]}"
        for file in sorted(package.rglob("*.py"))
        if file.name != "seeds.py"
        for match in pattern.finditer(file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_registered_number_is_a_number() -> None:
    entry = seeds.Streams.CONDITION
    assert type(entry + 1) is int
    assert pickle.loads(pickle.dumps(entry)).purpose == entry.purpose
    assert copy.deepcopy(entry) == entry
    rows = torch.arange(3)
    assert torch.equal(seeds.uniform(rows, (2,), entry), seeds.uniform(rows, (2,), int(entry)))
    assert seeds.sample_seeds(2, 3, 4).tolist() == [3 * 2**32 + 4, 3 * 2**32 + 5]
    assert generators.sample_seeds is seeds.sample_seeds
