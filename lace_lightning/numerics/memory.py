"""Free memory of a device, and computation in chunks that fit it."""

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
# Share of the free memory that is used by default: the rest is for weights that are loaded later and other programs.
SHARE = 0.5
# Free bytes that are assumed where the system does not report them.
UNKNOWN = 2 * GIB


def check_memory(memory: float | None) -> float | None:
    """Return a limit of memory after a check of its range.

    Args:
        memory: limit in GiB, above 0, or None for half of the free memory.

    Returns:
        The same value.

    Raises:
        LaceError: when the limit is not above 0.

    Example:
        >>> check_memory(2.5)
        2.5
    """
    if memory is not None and not memory > 0:
        raise LaceError(
            f"memory must be a number of GiB above 0, or null for half of the free memory, received {memory}."
        )
    return memory


def free_memory(device: torch.device) -> int:
    """Return the number of free bytes on a device.

    On a GPU these are free bytes and bytes that the allocator of torch only caches. On a processor it is the smaller of
    the system's available memory and the room that the control groups of this process leave.

    Args:
        device: a GPU or the processor.

    Returns:
        Bytes, at least 0.

    Example:
        >>> free_memory(torch.device("cpu")) > 0
        True
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
    """Return the number of bytes that the control groups of this process (version 1 or 2) leave to it.

    Cache that can be dropped at once is not counted as used.

    Args:
        mounted: folder in which the control groups are mounted.
        own: file that names the control groups of this process.

    Returns:
        Bytes, at least 0; infinity where no control group limits the memory.

    Example:
        >>> control_group_room(Path("absent"), Path("absent"))
        inf
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
    """A function of rows (B, ...) that is computed on as many rows at a time as fit into the memory.

    When a GPU runs out of memory, the number of rows is halved with a warning, and stays at most that large.

    Args:
        size: rows at a time, at least 1, or "auto" for as many as fit into `memory`.
        memory: limit in GiB, above 0; None for half of the free memory of the device.

    Raises:
        LaceError: when the size is neither "auto" nor an integer of at least 1, or the memory is not above 0.

    Example:
        >>> chunks = Chunks(2)
        >>> [part.tolist() for part in chunks(lambda rows: rows * 10, torch.arange(3), each=8)]
        [[0, 10], [20]]
    """

    # Bytes of a chunk on a processor: larger chunks were measured to be no faster, and much larger ones slower.
    enough = 2**26

    def __init__(self, size: int | str | None = "auto", memory: float | None = None) -> None:
        if size != "auto" and not (isinstance(size, int) and size >= 1):
            raise LaceError(f'max_batch must be "auto" or a number of pictures of at least 1, received {size}.')
        self.size, self.memory, self._most = size, check_memory(memory), math.inf

    def fitting(self, each: int, device: torch.device) -> int:
        """Return the number of rows that are computed at a time.

        Args:
            each: bytes that the computation of one row takes, above 0.
            device: where it is computed.

        Returns:
            At least 1.
        """
        if self.size != "auto":
            return int(min(self.size, self._most))
        limit = SHARE * free_memory(device) if self.memory is None else self.memory * GIB
        return int(
            max(1, min(limit // each, self._most, math.inf if device.type == "cuda" else max(1, self.enough // each)))
        )

    def __call__(self, function: Callable[[Tensor], Tensor], rows: Tensor, each: int) -> Iterator[Tensor]:
        """Yield the results of a function on consecutive parts of the rows.

        Args:
            function: takes rows (b, ...) and returns a tensor.
            rows: all rows (B, ...); for B = 0 the function is called once, on no rows.
            each: bytes that the computation of one row takes, above 0.
        """
        size, first = self.fitting(each, rows.device), 0
        while first < len(rows) or not first:
            part, failed = rows[first : first + size], False
            try:
                done = function(part)
            except torch.OutOfMemoryError:
                if len(part) <= 1:
                    raise
                failed = True
            # Outside of the handler, which keeps the tensors of the failed computation alive.
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
