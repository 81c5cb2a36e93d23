"""Side-by-side timing: every variant in turn, several rounds, medians of the rounds."""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, with --threads; use so many threads, and say on what machine."""
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    return options


def fair_clock() -> Callable[[], float]:
    """Return the clock for one process: the time that the processor gave to one thread, whatever else runs; else the
    one on the wall.
    """
    return time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter


def side_by_side(
    variants: dict[str, Callable[[], object]], rounds: int = 5, clock: Callable[[], float] | None = None
) -> dict[str, float]:
    """Return the median seconds of each variant; the rounds interleave so that a drifting machine hits all alike.

    What starts processes of its own must be timed by the clock on the wall (see `fair_clock`).
    """
    clock = clock or fair_clock()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for variant in variants.values():
        variant()
    for _ in range(rounds):
        for name, variant in variants.items():
            _synchronize()
            start = clock()
            variant()
            _synchronize()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak(function: Callable[[], object]) -> float:
    """Return by how many MiB the memory in use grows while a warm function runs: the GPU's, or all that the process has
    (Linux).
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest mark falls to what is in use now
    before_kib = _status("VmRSS")
    function()
    return (_status("VmHWM") - before_kib) / 1024


def _status(name: str) -> int:
    return next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith(name + ":")
    )


def table(title: str, seconds: dict[str, float], baseline: str) -> None:
    """Print one row a variant: median seconds and how many times faster than `baseline` it is."""
    print(f"\n{title}")
    width = max(map(len, seconds))
    for name, value in seconds.items():
        print(f"  {name:<{width}}  {value * 1e3:10.2f} ms   {seconds[baseline] / value:6.2f}x")


def machine() -> str:
    """Return one line that says what the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
