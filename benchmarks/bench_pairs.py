"""Pairs for the latent classifier (z -> w -> picture -> label) beside a plain loop, labels compared.

Run: python benchmarks/bench_pairs.py [--count 400] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from common import begin, side_by_side, table
from plain import PlainGenerator, plain_pairs

import lace_lightning as lace
from lace_lightning.data import make_pairs
from lace_lightning.labelers import Labeler


def main() -> None:
    """Print the table and how often both label a picture alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser)
    plain, labeler = PlainGenerator("cifar10_generator"), Labeler("cifar10_labeler")

    def ours(precision: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            generator = lace.load_generator("cifar10", precision=precision)
            make_pairs(
                folder, generator, Labeler("cifar10_labeler", precision=precision), options.count, progress=False
            )

    variants = {
        "plain": lambda: plain_pairs(plain, labeler, options.count),
        "make_pairs, float32": lambda: ours("float32"),
        "make_pairs, auto": lambda: ours("auto"),
    }
    table(f"{options.count} pairs", side_by_side(variants, options.rounds), "plain")
    generator = lace.load_generator("cifar10")
    with torch.inference_mode():
        z = generator.prior(options.count, seed=0)
        same = (labeler(generator(z)).argmax(1) == labeler.classifier(plain(z)).argmax(1)).float().mean()
    print(f"  the same label for {float(same):.4f} of the pictures")


if __name__ == "__main__":
    main()
