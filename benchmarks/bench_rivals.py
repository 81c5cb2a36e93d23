"""LACE beside the trained models of pictures of experiments/table1_digits: seconds per 64 digits of ten classes.

A diffusion is timed by two steps of its probability flow (4 evaluations of the guided score). Its 1000 steps with a
corrector are 2000 evaluations.

Run from the root of the repository: python benchmarks/bench_rivals.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from common import begin, fair_clock
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import lace_lightning as lace
from lace_lightning import samplers
from lace_lightning.artifacts import load_tensors
from lace_lightning.configuration import config_folder
from lace_lightning.labelers import digit_labeler
from lace_lightning.report.sweeps import register_resolvers

FILES = Path("experiments/table1_digits")
COUNT = 64
LATENT = {
    "LACE-PC, 100 steps": samplers.PredictorCorrector(num_steps=100),
    "LACE-LD": samplers.Langevin(),
    "LACE-ODE": samplers.ODE(),
    "heun": samplers.Heun(),
}
FLOW = ["score_sampler@model.sampler=probability_flow", "model.sampler.num_steps=2"]
PICTURES = {"jem": [], "cond_ebm": [], "ve_sde": FLOW, "vp_sde": FLOW}


def main() -> None:
    """Print the median of the seconds and the evaluations of each system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = begin(parser).repeats
    labels, seeds = (torch.arange(COUNT) % 10).float(), torch.arange(COUNT)
    generator, classifier = lace.load_generator("digits"), lace.load_classifier("digits")
    free = lace.Labels.constant(classifier.schema, COUNT, label=labels)
    energy = classifier.energy("label == *", free=free).pullback(generator.mapping)
    z = generator.prior(COUNT, seed=0)

    def latent(sampler: samplers.Sampler) -> float:
        sample = sampler(energy, z, seeds=seeds)
        generator.synthesis(generator.mapping(sample.z))
        return sample.evaluations

    for name, sampler in LATENT.items():
        report(name, lambda s=sampler: latent(s), repeats)
    schema = digit_labeler(classifier="digits_judge", attributes=["label"]).schema
    codes = lace.Labels.constant(schema, COUNT, label=labels)
    register_resolvers()
    for name, words in PICTURES.items():
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = compose("config", [f"+experiment=digits_{name}", *words])
        model = instantiate(cfg.model, schema=schema.to_config(), _convert_="all")
        model.load_saved_state(load_tensors(FILES / f"{name}.safetensors")[0])
        report(name, lambda m=model: m.sample(codes, seeds).evaluations, repeats)


def report(name: str, draw: Callable[[], float], repeats: int) -> None:
    """Print a line of the table: `draw` draws 64 samples and returns the evaluations of each."""
    clock, seconds, evaluations = fair_clock(), [], 0.0
    for _ in range(repeats):
        start = clock()
        evaluations = draw()
        seconds.append(clock() - start)
    median = statistics.median(seconds)
    print(
        f"  {name:<20} {median:8.2f} s  {evaluations:7.1f} evaluations  {median / evaluations:.4f} s each", flush=True
    )


if __name__ == "__main__":
    main()
