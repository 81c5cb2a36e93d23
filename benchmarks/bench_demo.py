"""The page with sliders: seconds from the start to the first pictures, of changes and edits, and memory over visitors.

Run: python benchmarks/bench_demo.py [--generator faces] [--visitors 20] [--starts 3]

Seconds are those of a request, as a browser makes it; the browser itself is not in them. The processor time of the
start is of the program alone, whatever else runs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common import machine

COMMON = {"strength": 6, "method": "lace_heun"}
SEEDS = "0-15"


class Program:
    """The page in a process of its own."""

    def __init__(self, generator: str) -> None:
        command = [sys.executable, "-m", "lace_lightning", "demo", f"generator={generator}", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)", line)[1])  # type: ignore[index]

    def ask(self, path: str, content: Any = None) -> Any:
        """Return the answer to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = None if content is None else json.dumps(content)
        connection.request("GET" if content is None else "POST", path, body, {"X-Lace-Lightning": "page"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert "error" not in answer, answer
        return answer

    def memory(self) -> float:
        """Return the memory of the process in MiB (Linux)."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024  # type: ignore[index]

    def processor(self) -> float:
        """Return the processor seconds of the process (Linux)."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            return sum(map(float, stat.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(generator: str) -> Iterator[Program]:
    """Run the page until the block ends."""
    program = Program(generator)
    try:
        yield program
    finally:
        program.process.terminate()
        program.process.wait()


def timed(program: Program, path: str, content: Any) -> float:
    """Return the seconds of a request."""
    start = time.perf_counter()
    program.ask(path, content)
    return time.perf_counter() - start


def visit(program: Program, number: int) -> tuple[list[float], list[float]]:
    """Do what a visitor does, with pictures and edits that no other has; return the seconds of changes and edits."""
    page = program.ask("/api/page")
    discrete = [one for one in page["attributes"] if one["kind"] == "discrete"]
    changes, edits = [], []
    for step in range(6):
        attribute = page["attributes"][(number + step) % len(page["attributes"])]
        value = attribute["classes"][step % len(attribute["classes"])] if attribute["classes"] else 0.3 + 0.07 * step
        first = 16 * (6 * number + step)
        content = {"controls": {attribute["name"]: {"mode": "is", "value": value}}, "seeds": f"{first}-{first + 15}"}
        changes.append(timed(program, "/api/pictures", {**COMMON, **content}))
    steps: list[str] = []
    for step in range(4):
        attribute = discrete[step % len(discrete)]
        add = {attribute["name"]: {"mode": "is", "value": attribute["classes"][(number + step) % 2]}}
        content = {"start": {"seed": number}, "edits": steps, "add": add, "keeps_identity": True}
        start = time.perf_counter()
        steps = program.ask("/api/edits", {**COMMON, **content})["steps"]
        edits.append(time.perf_counter() - start)
    return changes, edits


def main() -> None:
    """Measure starts, then visitors in turn, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", default="faces")
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--starts", type=int, default=3)
    options = parser.parse_args()
    print(machine(), f"load {os.getloadavg()[0]:.1f}")
    for _ in range(options.starts):
        start = time.perf_counter()
        with running(options.generator) as program:
            query = program.ask("/api/page")["pictures"]
            program.ask("/api/pictures", {**COMMON, **query})
            seconds, processor = time.perf_counter() - start, program.processor()
        print(f"first pictures after {seconds:.2f} s, {processor:.2f} s of the processor")
    with running(options.generator) as program:
        time.sleep(3)
        began = program.processor()
        memory = []
        changes: list[float] = []
        edits: list[float] = []
        for number in range(options.visitors):
            parts = visit(program, number)
            changes += parts[0]
            edits += parts[1]
            memory.append(program.memory())
        processor = (program.processor() - began) / len(changes + edits)
    print(f"{processor:.3f} s of the processor for a change or an edit, on average")
    for name, values in (("change", changes), ("edit", edits)):
        print(f"{name}: median {statistics.median(values):.3f} s, largest {max(values):.3f} s of {len(values)}")
    shown = ", ".join(f"{value:.0f}" for number, value in enumerate(memory) if number % 5 in (0, 4))
    print(f"memory after visitors 1, 5, 6, 10 ...: {shown} MiB")


if __name__ == "__main__":
    main()
