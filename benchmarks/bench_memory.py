"""Peak memory of sampling 50,000 latents at once, one process a sampler.

Run: python benchmarks/bench_memory.py [--count 50000] [--dim 128 512]
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import resource
import time

import torch
from common import begin
from torch import nn

from lace_lightning import samplers
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.generators import StyleGAN2Generator, StyleGAN2Network
from lace_lightning.schema import Attribute, Labels, Schema

SAMPLERS = {
    "nothing": None,
    "heun": samplers.Heun(0.1, 0.1),
    "heun, bfloat16": samplers.Heun(0.1, 0.1, precision="bfloat16"),
    "heun, one part": samplers.Heun(0.1, 0.1, chunk=10**9),
    "euler cubic": samplers.Euler(grid="cubic", num_steps=10),
    "ode rk4": samplers.ODE("rk4", time="s", step_size=2.5),
    "ld, 10 steps": samplers.Langevin(10),
}


def measure(name: str, count: int, dim: int, threads: int, results: mp.Queue) -> None:
    """Put (peak MiB before, peak MiB after, seconds) of one sampler on random weights of this size."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = StyleGAN2Network(
        dim,
        dim,
        img_resolution=8,
        mapping_kwargs={"num_layers": 4, "lr_multiplier": 1.0},
        synthesis_kwargs={"channel_base": 64, "channel_max": 8},
    )
    generator = StyleGAN2Generator(network)
    schema = Schema("ten", (Attribute("label", "discrete", 10),))
    classifier: nn.Module = AttributeClassifier(schema, "w", "mlp", {"input_dim": dim}).eval().requires_grad_(False)
    energy = classifier.energy(
        "label == *", free=Labels.constant(schema, count, label=(torch.arange(count) % 10).float())
    )
    energy = 30 * energy.pullback(generator.mapping)  # so that flows take several steps
    z, seeds = torch.randn(count, dim), torch.arange(count)
    for sampler in SAMPLERS.values():
        if sampler is not None:
            sampler(energy.rows(slice(0, 64)), z[:64], seeds=seeds[:64])  # what is allocated once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, chosen = time.perf_counter(), SAMPLERS[name]
    if chosen is not None:
        chosen(energy, z, seeds=seeds)
    results.put((before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - start))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--dim", type=int, nargs="+", default=[128, 512])
    options = begin(parser)
    context = mp.get_context("spawn")
    for dim in options.dim:
        print(
            f"\n{options.count} latents of {dim}: {options.count * dim * 4 / 2**20:.0f} MiB; peak before, what "
            f"sampling adds, seconds"
        )
        for name in SAMPLERS:
            queue = context.Queue()
            process = context.Process(target=measure, args=(name, options.count, dim, options.threads, queue))
            process.start()
            before, after, seconds = queue.get()
            process.join()
            print(f"  {name:<16}  {before:8.0f} MiB  {after - before:+8.0f} MiB  {seconds:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
