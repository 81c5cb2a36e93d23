"""How much memory there is, and work in chunks that fit it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LaceError

GIB = 2**30
# What is used where nobody says how much: the rest is for weights that are still to come, and for others.
SHARE = 0.5
# What is assumed where the system does not tell.
UNKNOWN = 2 * GIB


def check_memory(memory: float | None) -> float | None:
    """Return `memory` in GiB, or None for half of what is free. Raises LaceError unless it is above 0."""
    if memory is not None and not memory > 0:
        raise LaceError(f"memory must be a number of GiB above 0, or null for half of what is free, received {memory}.")
    return memory


def free_memory(device: torch.device) -> int:
    """Return how many bytes can be had on a device: of a GPU what is free or only cached, of a processor what the
    system has available and the control groups of this process leave.
    """
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    return int(min(_system_memory(), control_group_room()))


def _system_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    for name, share in (("SC_AVPHYS_PAGES", 1.0), ("SC_PHYS_PAGES", 0.5)):
        try:
            return int(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") * share)
        except (AttributeError, ValueError, OSError):
            continue
    return UNKNOWN


def control_group_room(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many bytes the control groups of this process leave it, of version 1 or 2; infinite where none limits
    it.

    Cache that can be dropped at once is not counted as used.
    """
    room = math.inf
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, limit, used = mounted, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # Inside a container the path may be the host's, of which only the root is mounted; a limit further up holds as
        # well.
        parts = Path(path.strip("/")).parts
        for folder in (base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)):
            most, now = _text(folder / limit).strip(), _text(folder / used).strip()
            if most.isdigit() and now.isdigit():
                counters = dict(
                    pair.split() for pair in _text(folder / "memory.stat").splitlines() if len(pair.split()) == 2
                )
                room = min(room, max(int(most) - int(now) + int(counters.get("inactive_file", 0)), 0))
    return room


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


class Chunks:
    """function(rows) for rows (B, ...), so many at a time as `memory` allows; halved where a GPU runs out of it.

    `size` is that number, or "auto": as many as fit into `memory` GiB (None: half of what is free), at `each` bytes a
    row. What was found to be too much is not tried again. Raises LaceError for a size that is neither "auto" nor at
    least 1.
    """

    # A processor is no faster with more at a time, and slower with much more: measured.
    enough = 2**26

    def __init__(self, size: int | str | None = "auto", memory: float | None = None) -> None:
        if size != "auto" and not (isinstance(size, int) and size >= 1):
            raise LaceError(f'max_batch must be "auto" or a number of pictures from 1, received {size}.')
        self.size, self.memory, self._most = size, check_memory(memory), math.inf

    def fitting(self, each: int, device: torch.device) -> int:
        """Return how many rows of `each` bytes are computed at a time."""
        if self.size != "auto":
            return int(min(self.size, self._most))
        limit = SHARE * free_memory(device) if self.memory is None else self.memory * GIB
        return int(
            max(1, min(limit // each, self._most, math.inf if device.type == "cuda" else max(1, self.enough // each)))
        )

    def __call__(self, function: Callable[[Tensor], Tensor], rows: Tensor, each: int) -> Iterator[Tensor]:
        """Yield function(part) of consecutive parts of the rows; the function of no rows where there are none."""
        size, first = self.fitting(each, rows.device), 0
        while first < len(rows) or not first:
            part, failed = rows[first : first + size], False
            try:
                done = function(part)
            except torch.OutOfMemoryError:
                if len(part) <= 1:
                    raise
                failed = True
            # Outside of the handler, which holds on to what was computed when memory ran out.
            if failed:
                size = self._most = len(part) // 2
                warnings.warn(
                    f"{len(part)} pictures at a time are too many for the memory of the device: going on with {size}.",
                    stacklevel=2,
                )
                torch.cuda.empty_cache()
                continue
            yield done
            first += max(len(part), 1)
