"""Training of the latent classifier beside a plain DataLoader loop: the same network, data, batch and optimiser.

Run: python benchmarks/bench_training.py [--pairs 50000] [--epochs 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from common import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lace_lightning.data.batches import TensorBatches
from lace_lightning.data.cifar10 import SCHEMA
from lace_lightning.modules.latent_classifier import LatentClassifier


def plain(x: Tensor, y: Tensor, epochs: int, batch_size: int) -> None:
    """The obvious loop: DataLoader over a TensorDataset, Adam, one cross-entropy."""
    network = nn.Sequential(nn.Linear(x.shape[1], 384), nn.LeakyReLU(0.2), nn.Linear(384, 256), nn.LeakyReLU(0.2), nn.Linear(256, 128),
                            nn.LeakyReLU(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)
    for _ in range(epochs):
        for u, target in loader:
            loss = F.cross_entropy(network(u), target.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # what loops that print a loss do


def ours(x: Tensor, y: Tensor, epochs: int, batch_size: int) -> None:
    """LatentClassifier in a Trainer, batches straight from memory."""
    module = LatentClassifier(SCHEMA, "w", "mlp", {"input_dim": x.shape[1]})
    trainer = pl.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(module, TensorBatches((x, y[:, None].float()), batch_size, seed=0))


def main() -> None:
    """Print seconds of both for one epoch and what the epochs asked for take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    x, y = torch.randn(options.pairs, 128), torch.randint(0, 10, (options.pairs,))
    print(machine())
    seconds: dict[str, list[float]] = {"plain DataLoader loop": [], "LatentClassifier": []}
    for _ in range(options.rounds):
        for name, function in zip(seconds, (plain, ours), strict=True):
            start = time.perf_counter()
            function(x, y, options.epochs, 512)
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["plain DataLoader loop"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"{name:<24} {middle:8.2f} s for {options.epochs} epochs of {options.pairs} pairs   {base / middle:.2f}x")


if __name__ == "__main__":
    main()
