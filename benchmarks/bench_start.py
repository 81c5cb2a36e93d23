"""Processor seconds (user and system, of the child) until the first commands have ended: medians of five."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from statistics import median

CASES = {
    "list": [],
    "--cfg job": ["+experiment=cifar10_ode", "--cfg", "job"],
    "TAB": ["--shell-completion", "query=bash"],
    "debug=fast, cached": ["+experiment=cifar10_ode", "debug=fast", "logger=csv"],
}


def seconds(arguments: list[str]) -> float:
    """Return the processor seconds of one start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = "lace-lightning +experiment=cifar10_o"
    subprocess.run(
        [sys.executable, "-m", "lace_lightning", *arguments],
        check=True,
        capture_output=True,
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    for name, arguments in CASES.items():
        seconds(arguments)  # fills the caches
        print(f"{name:<20} {median(seconds(arguments) for _ in range(5)):.2f} s")
