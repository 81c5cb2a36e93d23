"""Chunks that fit a memory, and what is known about how much there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.numerics.memory import GIB, Chunks, control_group_room, free_memory


def taken(chunks: Chunks, count: int, each: int = 1) -> list[int]:
    """Return how many rows were computed at a time, once they came back in order."""
    rows = torch.arange(count)
    parts = list(chunks(lambda part: part * 2, rows, each))
    assert torch.equal(torch.cat(parts), rows * 2)
    return [len(part) for part in parts]


def test_as_many_at_a_time_as_fit() -> None:
    assert taken(Chunks(4), 10) == [4, 4, 2]
    assert taken(Chunks("auto", memory=100 / GIB), 7, each=30) == [3, 3, 1]
    assert taken(Chunks("auto", memory=1 / GIB), 2, each=30) == [1, 1]
    assert taken(Chunks(), 0) == [0]
    assert free_memory(torch.device("cpu")) > 2**20


def test_half_as_many_where_memory_runs_out() -> None:
    chunks, calls = Chunks(8), []

    def function(part: torch.Tensor) -> torch.Tensor:
        calls.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError
        return part * 2

    rows = torch.arange(9)
    with (
        pytest.warns(UserWarning, match="8 pictures at a time"),
        pytest.warns(UserWarning, match="4 pictures at a time"),
    ):
        assert torch.equal(torch.cat(list(chunks(function, rows, 1))), rows * 2)
    assert calls == [8, 4, 2, 2, 2, 2, 1]
    calls.clear()
    list(chunks(function, rows, 1))
    assert calls == [2, 2, 2, 2, 1]  # what was too much is not tried again
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="going on with 1"):
        list(chunks(lambda part: function(rows), rows, 1))


@pytest.mark.parametrize(
    ("size", "memory"), [(0, None), ("all", None), (2.5, None), (None, None), ("auto", 0), ("auto", -1.0)]
)
def test_what_is_no_size_is_refused(size, memory) -> None:
    with pytest.raises(LaceError, match="must be"):
        Chunks(size, memory)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("0::/job/step", ("", "memory.max", "memory.current", "inactive_file")),
        ("4:cpu,memory:/job/step", ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "inactive_file")),
    ],
)
def test_control_groups_limit_what_there_is(tmp_path: Path, line: str, names: tuple[str, ...]) -> None:
    base, limit, used, cache = names
    own = tmp_path / "own"
    own.write_text(f"7:pids:/\n{line}\n")
    assert control_group_room(tmp_path, own) == float("inf")
    for folder, most, now in (("job", "1000", "300"), ("job/step", "max", "20")):
        (tmp_path / base / folder).mkdir(parents=True)
        (tmp_path / base / folder / limit).write_text(most + "\n")
        (tmp_path / base / folder / used).write_text(now + "\n")
    assert control_group_room(tmp_path, own) == 700
    (tmp_path / base / "job" / "memory.stat").write_text(f"anon 200\n{cache} 100\n")
    assert control_group_room(tmp_path, own) == 800
    assert control_group_room(tmp_path, tmp_path / "absent") == float("inf")
