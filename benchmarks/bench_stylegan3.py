"""StyleGAN3, configurations T and R, beside zeros between pixels, plain filters and one grouped convolution a layer.

Run: python benchmarks/bench_stylegan3.py [--resolution 256] [--batch 2] [--base 16384] [--rounds 1]
"""

from __future__ import annotations

import argparse

import torch
from common import begin, peak, side_by_side, table
from plain import plain_stylegan3

from lace_lightning.generators import StyleGAN3Network


def main() -> None:
    """Print time, memory and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--base", type=int, default=16384, help="channels of T times the cutoff; the published networks have 32768"
    )
    parser.add_argument("--rounds", type=int, default=1)
    options = begin(parser)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = {"channel_base": options.base, "channel_max": options.base // 64}
    twice = {key: 2 * value for key, value in width.items()}
    for name, synthesis in (("T", width), ("R", {**twice, "conv_kernel": 1, "use_radial_filters": True})):
        torch.manual_seed(0)
        network = (
            StyleGAN3Network(img_resolution=options.resolution, synthesis_kwargs=synthesis)
            .eval()
            .requires_grad_(False)
            .to(device)
        )
        with torch.inference_mode():
            ws = network.broadcast(network.mapping(torch.randn(options.batch, 512, device=device)))
            variants = {
                "plain": lambda n=network, ws=ws: plain_stylegan3(n, ws),
                "ours": lambda n=network, ws=ws: n.synthesis(ws),
            }
            table(
                f"StyleGAN3-{name}, {options.batch} of {options.resolution}x{options.resolution}, at most "
                f"{synthesis['channel_max']} channels",
                side_by_side(variants, options.rounds),
                "plain",
            )
            truth = variants["plain"]()
            print(
                f"  largest difference {float((variants['ours']() - truth).abs().max()):.2g} at standard deviation "
                f"{float(truth.std()):.2g}; peak memory a picture: plain {peak(variants['plain']) / options.batch:.0f} "
                f"MiB, ours "
                f"{peak(variants['ours']) / options.batch:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
