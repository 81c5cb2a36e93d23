"""Control a VAE of your own by a classifier of your own: digits, trained here in a minute, then sampled and edited.

python examples/own_vae.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import lace_lightning as lace


class VAE(nn.Module):
    """A VAE of flat pictures (B, 784) in [0, 1], as in many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 2 * 12))
        self.decoder = nn.Sequential(nn.Linear(12, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid())

    def decode(self, z: Tensor) -> Tensor:
        """Return pictures (B, 784) of latents z (B, 12)."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstruction, mean and logarithm of the variance."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return self.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp()), mean, log_variance


def network() -> nn.Module:
    """Return a classifier of pictures (B, 1, 28, 28) in [0, 1] with logits (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def digits(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return drawn digits (count, 1, 28, 28) in [0, 1], moved, turned and of several sizes, and their classes."""
    random, pictures, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        label, image = int(random.integers(10)), Image.new("L", (28, 28))
        font = ImageFont.load_default(size=float(random.uniform(18, 26)))
        ImageDraw.Draw(image).text(tuple(14 + random.normal(0, 1, 2)), str(label), fill=255, font=font, anchor="mm")
        pictures.append(np.asarray(image.rotate(random.normal(0, 8), Image.Resampling.BILINEAR)) / 255)
        labels.append(label)
    return torch.tensor(np.stack(pictures), dtype=torch.float32)[:, None], torch.tensor(labels)


def train(epochs: int, pictures: int, seed: int = 0) -> tuple[VAE, nn.Module]:
    """Return a trained VAE and a trained classifier."""
    torch.manual_seed(seed)
    vae, classifier = VAE(), network()
    x, y = digits(pictures, seed)
    optimizer = torch.optim.Adam([*vae.parameters(), *classifier.parameters()], lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            flat = x[rows].flatten(1)
            seen, mean, log_variance = vae(flat)
            distance = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
            loss = F.binary_cross_entropy(seen, flat, reduction="sum") + distance
            loss = loss / len(rows) + F.cross_entropy(classifier(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return vae, classifier


def main() -> None:
    """Train, draw and edit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--output", default="own_vae")
    options = parser.parse_args()
    vae, lenet = train(options.epochs, options.pictures)
    _, judge = train(options.epochs, options.pictures, seed=1)
    # From here on: what you write for a VAE and a classifier that you have.
    generator = lace.as_generator(vae)
    classifier = lace.fit(generator, lambda images: lenet((images + 1) / 2), "digit", num_pairs=options.pairs)
    drawn = lace.draw(generator, classifier, "digit == *", seeds=range(100), judge=lambda x: judge((x + 1) / 2))
    drawn.save(f"{options.output}/digits")
    edited = lace.edit(generator, classifier, ["digit == 3", "digit == 8"], seeds=range(8))
    edited[-1].save(f"{options.output}/eights")
    print(f"the judge sees the digit that was asked for in {sum(row['holds'] for row in drawn.table)} of 100 pictures")


if __name__ == "__main__":
    main()
