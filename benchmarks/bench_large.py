"""StyleGAN2 at 1024x1024 (configuration f, random weights) beside one grouped convolution a layer in float32: time and
memory.

Run: python benchmarks/bench_large.py [--resolution 1024] [--batches 1 2] [--rounds 3]
"""

from __future__ import annotations

import argparse

import torch
from common import begin, peak, side_by_side, table
from plain import PlainGenerator

from lace_lightning.generators import StyleGAN2Generator, StyleGAN2Network


def random_network(resolution: int) -> StyleGAN2Network:
    """Return a network with noise and biases, whose pictures mostly lie within [-1, 1]."""
    torch.manual_seed(0)
    network = StyleGAN2Network(img_resolution=resolution).eval().requires_grad_(False)
    for name, parameter in network.synthesis.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.1)
        elif name.endswith("bias") and "affine" not in name:
            parameter.normal_(0, 0.1)
        elif name.endswith("torgb.weight"):
            parameter.mul_(0.2)
    return network


def main() -> None:
    """Print time, memory and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = random_network(options.resolution).to(device)
    plain = PlainGenerator(network)
    ours = {key: StyleGAN2Generator(network, precision=key) for key in ("float32", "bfloat16", "auto")}
    for count in options.batches:
        with torch.inference_mode():
            w = plain.mapping(ours["float32"].prior(count, device=device))
            variants = {
                "plain": lambda w=w: plain.synthesis(w),
                **{key: lambda g=g, w=w: g.synthesis(w) for key, g in ours.items()},
            }
            table(
                f"{count} of {options.resolution}x{options.resolution}", side_by_side(variants, options.rounds), "plain"
            )
            truth = variants["plain"]()
            print(
                "  peak memory a picture (said), largest and mean difference from plain, in pixels of 0 .. 255; "
                f"{float((truth.abs() < 1).float().mean()):.2f} of the plain pixels within the range"
            )
            for key, variant in variants.items():
                difference = (variant() - truth).abs() * 127.5
                said = f"{ours[key].bytes_per_picture() / 2**20:5.0f}" if key in ours else "    -"
                print(
                    f"  {key:<9}  {peak(variant) / count:6.0f} MiB ({said})  {float(difference.max()):8.4f}  "
                    f"{float(difference.mean()):8.5f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
