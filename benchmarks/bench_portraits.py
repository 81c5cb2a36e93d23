"""Portraits drawn per second, at several sizes.

Run: python benchmarks/bench_portraits.py [--count 2048] [--rounds 5]
"""

from __future__ import annotations

import argparse

import torch
from common import begin, side_by_side

from lace_lightning.portraits import render, sample_attributes, sample_identity


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = begin(parser)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    people = torch.arange(options.count)
    labels, identity = sample_attributes(people).to(device), sample_identity(people).to(device)
    seconds = side_by_side(
        {f"{size}x{size}": lambda size=size: render(labels, identity, size) for size in (32, 64, 128)}, options.rounds
    )
    print("\nPortraits per second")
    for name, value in seconds.items():
        print(f"  {name:<8}  {options.count / value:8.0f}")


if __name__ == "__main__":
    main()
