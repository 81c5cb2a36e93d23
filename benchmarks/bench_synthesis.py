"""Pictures from w and from z, in every precision and several batch sizes, beside grouped convolutions in float32.

Run: python benchmarks/bench_synthesis.py [--generators cifar10_generator portraits_generator] [--count 64] [--rounds 5]
"""

from __future__ import annotations

import argparse

import torch
from common import begin, side_by_side, table
from plain import PlainGenerator

import lace_lightning as lace


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generators", nargs="+", default=["cifar10_generator", "portraits_generator"])
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = begin(parser)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in options.generators:
        plain = PlainGenerator(name).to(device)
        ours = {
            precision: lace.load_generator(name, precision=precision).to(device)
            for precision in ("float32", "bfloat16", "auto")
        }
        z = ours["float32"].prior(options.count, seed=0).to(device)
        with torch.inference_mode():
            w = plain.mapping(z)
            variants = {
                "plain synthesis": lambda p=plain, w=w: p.synthesis(w),
                **{f"synthesis, {key}": lambda g=g, w=w: g.synthesis(w) for key, g in ours.items()},
            }
            table(
                f"{name}: synthesis of {options.count} pictures",
                side_by_side(variants, options.rounds),
                "plain synthesis",
            )
            variants = {
                "plain z -> picture": lambda p=plain, z=z: p(z),
                **{f"z -> picture, {key}": lambda g=g, z=z: g(z) for key, g in ours.items()},
            }
            table(
                f"{name}: {options.count} pictures from z", side_by_side(variants, options.rounds), "plain z -> picture"
            )
            many = ours["float32"].prior(512, seed=1).to(device)
            variants = {}
            for size in (16, 32, 64, 128, 256, "auto"):
                for key in ("float32", "auto"):
                    generator = lace.load_generator(name, precision=key, max_batch=size).to(device)
                    variants[f"max_batch {size!s:>4}, {key}"] = lambda g=generator, z=many: g(z)
            table(
                f"{name}: 512 pictures from z",
                side_by_side(variants, min(3, options.rounds)),
                "max_batch   64, float32",
            )
            truth = plain(z)
            print(f"\n{name}: largest and mean difference from the plain pictures, in pixels of 0 .. 255")
            for key, generator in ours.items():
                difference = (generator(z) - truth).abs() * 127.5
                print(f"  {key:<9}  {float(difference.max()):8.4f}  {float(difference.mean()):8.5f}")


if __name__ == "__main__":
    main()
