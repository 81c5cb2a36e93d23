"""The 81 settings of cifar10_ode_grid (atol x rtol): in one pass, one by one, and plain; sampling and pictures apart.

Run: python benchmarks/bench_grid.py [--count 64]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from common import begin
from plain import PlainField, PlainGenerator, networks_of, plain_ode
from torch import Tensor

import lace_lightning as lace
from lace_lightning.labelers import Labeler
from lace_lightning.samplers import ODE, RungeKutta, sample_settings

TOLERANCES = (1e-1, 5e-2, 1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 5e-5, 1e-5)
GRID = list(itertools.product(TOLERANCES, TOLERANCES))


def main() -> None:
    """Print the table; every way runs once (it is long) on the same starting points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=64)
    options = begin(parser)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator, plain_generator = (
        lace.load_generator("cifar10").to(device),
        PlainGenerator("cifar10_generator").to(device),
    )
    classifier, judge = lace.load_classifier("cifar10").to(device), Labeler("cifar10_judge").to(device)
    z = generator.prior(options.count, seed=0, device=device)
    target = (torch.arange(options.count) % 10).to(device)
    energy = classifier.energy(
        "label == *", free=lace.Labels.constant(classifier.schema, options.count, label=target.float())
    )
    energy = energy.pullback(generator.mapping)
    field = PlainField(plain_generator, [(networks_of(classifier)[0], 0, 10, target)])
    ways: dict[str, tuple[Callable[[], list[Tensor]], Callable[[Tensor], Tensor]]] = {
        "plain": (lambda: [plain_ode(field, z, atol, rtol) for atol, rtol in GRID], plain_generator),
        "one by one, ode": (lambda: [ODE(atol=atol, rtol=rtol)(energy, z).z for atol, rtol in GRID], generator),
    }
    for method in ("dopri5", "bosh3"):
        settings = [RungeKutta(method, atol, rtol) for atol, rtol in GRID]
        ways[f"one by one, {method} a sample"] = (lambda s=settings: [one(energy, z).z for one in s], generator)
        ways[f"one pass, {method} a sample"] = (
            lambda s=settings: [one.z for one in sample_settings(s, energy, z)],
            generator,
        )
    print(
        f"\n{len(GRID)} settings, {options.count} samples each: seconds of sampling and of pictures, how many times "
        f"faster, mean ACC"
    )
    base = None
    for name, (sample, draw) in ways.items():
        start = time.perf_counter()
        latents = sample()
        sampling = time.perf_counter() - start
        with torch.inference_mode():
            images = [draw(latent) for latent in latents]
            pictures = time.perf_counter() - start - sampling
            acc = torch.stack([(judge(image).argmax(1) == target).float().mean() for image in images]).mean()
        base = base or (sampling, pictures)
        print(
            f"  {name:<28}  {sampling:8.2f}  {pictures:8.2f}   sampling {base[0] / sampling:6.2f}x  all "
            f"{sum(base) / (sampling + pictures):6.2f}x   {float(acc):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
