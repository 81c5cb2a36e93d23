"""Control a module of your own by a labelling function: from a module to controlled pictures in five lines.

python examples/own_module.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import lace_lightning as lace


class Blobs(nn.Module):
    """A generator of your own: z (B, 5) -> a coloured blob (B, 3, 32, 32) in [-1, 1]; the last three are its colour."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        nn.init.eye_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return pictures of latents."""
        h = self.first(z)
        grid = torch.linspace(-2, 2, 32, device=z.device, dtype=z.dtype)
        x, y = grid[None, None, :] - h[:, 0, None, None], grid[None, :, None] - h[:, 1, None, None]
        return 2 * (-(x.square() + y.square()))[:, None].exp() * h[:, 2:, None, None].sigmoid() - 1


def red(images: Tensor) -> Tensor:
    """Return whether pictures (B, 3, H, W) in [-1, 1] have more red than green and blue."""
    colours = images.mean((2, 3))
    return colours[:, 0] > colours[:, 1:].amax(1)


def main() -> None:
    """Fit and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--output", default="own_module")
    options = parser.parse_args()
    generator = Blobs()
    classifier = lace.fit(generator, red, "red", num_pairs=options.pairs)
    drawn = lace.draw(generator, classifier, "red == 1", seeds=range(100), judge=red)
    drawn.save(options.output)
    print(f"{sum(row['holds'] for row in drawn.table)} of {len(drawn.table)} pictures are red")


if __name__ == "__main__":
    main()
