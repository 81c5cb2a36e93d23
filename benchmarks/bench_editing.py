"""Seconds for one edit of 16 portraits, with their pictures, in every form of editing.

Run: python benchmarks/bench_editing.py [--classifier file.safetensors] [--count 16] [--rounds 5]
"""

from __future__ import annotations

import argparse

import torch
from common import begin, side_by_side

import lace_lightning as lace
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.portraits import PORTRAITS_SCHEMA


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--classifier", help="a trained latent classifier (task.export); without it one with random weights"
    )
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = begin(parser)
    generator = lace.load_generator("portraits_generator", truncation=0.5)
    if options.classifier:
        classifier = lace.load_classifier(options.classifier)
    else:
        classifier = AttributeClassifier(PORTRAITS_SCHEMA, "w", "mlp", {"input_dim": generator.w_dim}).eval()
    z = generator.prior(options.count, seed=3)

    def edit(method: str) -> None:
        editor = lace.Editor(generator, classifier, lace.samplers.Heun(), lace.EditOptions(method=method))
        state = editor.begin(z)
        for query in ("glasses == 1", "age == 0.7"):
            state = editor.apply(state, query)
            generator.synthesis(state.ws)

    with torch.inference_mode():
        seconds = side_by_side(
            {method: lambda method=method: edit(method) for method in ("sequential", "from_start", "posterior")},
            options.rounds,
        )
    print(f"\nSeconds for one edit of {options.count} portraits, the mean of a discrete and a continuous one")
    for name, value in seconds.items():
        print(f"  {name:<12} {value / 2:8.3f}")


if __name__ == "__main__":
    main()
