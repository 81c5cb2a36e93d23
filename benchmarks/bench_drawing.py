"""Pictures drawn into a folder beside sampling alone: share of the speed by three clocks.

Run: python benchmarks/bench_drawing.py [--samples 10000] [--batch 500] [--rounds 3] [--judged] [--folder /dev/shm]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import begin

import lace_lightning as lace
from lace_lightning.callbacks import Drawing
from lace_lightning.labelers import Labeler
from lace_lightning.samplers import Heun
from lace_lightning.systems.lace import LACE

# Clocks: of the wall, of the processor for all threads, and of the thread that draws, which other load leaves alone.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time, "drawing thread": time.thread_time}


def seconds_of(work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of a function by each clock."""
    start = {name: clock() for name, clock in CLOCKS.items()}
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {name: clock() - start[name] for name, clock in CLOCKS.items()}


def main() -> None:
    """Measure both in turn, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--judged", action="store_true", help="label the pictures in both")
    parser.add_argument("--folder", help="where the folders are made; by default that of temporary files")
    arguments = begin(parser)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    system = LACE.load("cifar10_classifier", Heun()).bind(lace.load_generator("cifar10").to(device)).eval().to(device)
    judge = Labeler("cifar10_judge", views=4).to(device)
    query = system.parsed("label == *")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:

        def drawing(name: str, count: int) -> Drawing:
            options = {"batch_size": arguments.batch, "progress": False, "judged": arguments.judged}
            return Drawing(judge, query, Path(folder, name), [range(count)], {}, **options)

        def alone(drawing: Drawing) -> None:
            for block in range(0, arguments.samples, arguments.batch):
                images = drawing.draw(system, query, block, device)[0].images
                if arguments.judged:
                    drawing.seen(images)

        drawing("warm", arguments.batch).evaluate(system)
        for number in range(arguments.rounds):
            drawn = drawing(str(number), arguments.samples)
            before = seconds_of(lambda drawn=drawn: alone(drawn))
            after = seconds_of(lambda drawn=drawn: drawn.evaluate(system))
            parts = [
                f"{name} {before[name]:.2f} s and {after[name]:.2f} s, {before[name] / after[name]:.3f}"
                for name in CLOCKS
            ]
            print(f"{arguments.samples} pictures, alone and into a folder: {'; '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
