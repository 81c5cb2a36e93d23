"""Add a reward of your own, an energy of pictures or latents, to what is asked.

python examples/reward.py
"""

from __future__ import annotations

import argparse

from torch import Tensor

import lace_lightning as lace


class Dark(lace.Energy):
    """E(z) = weight · mean brightness of the picture g(z), from -1 to 1; its gradient is automatic."""

    # exp(-E) may be above 1.
    is_probability = False

    def __init__(self, generator: lace.generators.Generator, weight: float) -> None:
        super().__init__()
        self.generator, self.weight = generator, weight

    def forward(self, z: Tensor) -> Tensor:
        """Return the energy (B,) of latents (B, Dz)."""
        return self.weight * self.generator(z).mean((1, 2, 3))


def main() -> None:
    """Draw with and without the reward."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--output", default="reward")
    options = parser.parse_args()
    generator, classifier = lace.load_generator("cifar10"), lace.load_classifier("cifar10")
    for name, energy in (("plain", None), ("dark", Dark(generator, weight=10.0))):
        # Ten steps: every gradient goes through the whole generator.
        options_of_draw = {"energy": energy, "sampler": lace.samplers.Euler(grid="cubic", num_steps=10)}
        drawn = lace.draw(
            generator, classifier, "label == ship", range(options.count), judge="cifar10_judge", **options_of_draw
        )
        drawn.save(f"{options.output}/{name}")
        share = sum(row["holds"] for row in drawn.table) / options.count
        print(f"{name}: mean brightness {float(drawn.images.mean()):.2f}, the judge sees a ship in {share:.0%}")


if __name__ == "__main__":
    main()
