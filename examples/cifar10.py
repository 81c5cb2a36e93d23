"""Draw from the shipped CIFAR-10 generator: logic, samplers and figures.

python examples/cifar10.py
"""

from __future__ import annotations

import argparse

import lace_lightning as lace


def main() -> None:
    """Draw and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--output", default="cifar10")
    options = parser.parse_args()
    generator, classifier = lace.load_generator("cifar10"), lace.load_classifier("cifar10")
    judge = lace.Labeler("cifar10_judge")

    # The target is what was asked for; calibrated draws as clearly as the classifier's probabilities say.
    for target, sampler in (("controlled", lace.samplers.Heun()), ("calibrated", lace.samplers.Rejection())):
        options_of_draw = {"sampler": sampler, "target": target, "judge": judge}
        drawn = lace.draw(generator, classifier, "label == ship", range(options.count), **options_of_draw)
        drawn.save(f"{options.output}/ships_{target}")
        share = sum(row["holds"] for row in drawn.table) / len(drawn.table)
        print(f"{target}: the judge sees a ship in {share:.0%}, {drawn.table[0]['evaluations']:.0f} gradients a sample")

    # Sample i depends on its seed alone: this is one of the ships above, and one that comes later.
    lace.draw(generator, classifier, "label == ship", seeds=[3, 10_000]).save(f"{options.output}/two_ships")
    lace.draw(generator, classifier, "label == cat or label == dog", range(20)).save(f"{options.output}/pets")

    figures = lace.evaluate(generator, classifier, "label == *", judge, num_samples=options.count)
    print(f"all ten classes: ACC {figures['acc']:.3f} at {figures['evaluations']:.0f} gradients a sample")


if __name__ == "__main__":
    main()
