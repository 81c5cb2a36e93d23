"""Training of the latent classifier beside plain DataLoader loops: the same networks, data, batch and optimiser.

Run: python benchmarks/bench_training.py [--pairs 50000] [--epochs 1] [--rounds 3] [--workers 0 2]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import time
import warnings
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from common import begin, side_by_side, table
from plain import plain_training
from torch import Tensor, nn

from lace_lightning.data.batches import TensorBatches
from lace_lightning.data.cifar10 import SCHEMA
from lace_lightning.portraits import PORTRAITS_SCHEMA
from lace_lightning.schema import Schema
from lace_lightning.training.latent_classifier import LatentClassifier

BATCH = 512


def network(size: int, dim: int = 128) -> nn.Sequential:
    """Return one plain network."""
    widths = (dim, 384, 256, 128)
    layers = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers, nn.Linear(128, size))


def ours(schema: Schema, x: Tensor, y: Tensor, epochs: int, mode: str, precision: str = "32-true") -> LatentClassifier:
    """Train a LatentClassifier in a Trainer, batches straight from memory; returns it."""
    module = LatentClassifier(
        schema, "w", "mlp", {"input_dim": x.shape[1], "mode": mode}, learning_rate=1e-3, warmup_steps=1
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=precision,
    )
    trainer.fit(module, TensorBatches((x, y), BATCH, seed=0))
    return module


def bare(schema: Schema, x: Tensor, y: Tensor, epochs: int) -> None:
    """Only the arithmetic: forward, backward, fused Adam on batches that lie ready.

    No program can be faster than this.
    """
    nets = [network(attribute.num_logits) for attribute in schema]
    for column, (net, attribute) in enumerate(zip(nets, schema, strict=True)):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        for _ in range(epochs):
            for u, target in zip(x.split(BATCH), y[:, column].split(BATCH), strict=True):
                discrete = attribute.kind == "discrete"
                loss = (
                    nn.functional.cross_entropy(net(u), target.long())
                    if discrete
                    else nn.functional.mse_loss(net(u)[:, 0], target)
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def main() -> None:
    """Print a table for one attribute and one for twelve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    options = begin(parser)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for schema in (SCHEMA, PORTRAITS_SCHEMA):
        x = torch.randn(options.pairs, 128)
        y = torch.stack(
            [
                torch.randint(a.num_classes, (options.pairs,)).float()
                if a.kind == "discrete"
                else torch.rand(options.pairs)
                for a in schema
            ],
            dim=1,
        )
        sizes = [attribute.num_logits for attribute in schema]
        variants: dict[str, Callable[[], object]] = {
            f"plain, {workers} workers": lambda w=workers, s=sizes, x=x, y=y: plain_training(
                [network(size) for size in s], x, y, s, options.epochs, BATCH, w
            )
            for workers in options.workers
        }
        variants["bare arithmetic, one by one"] = lambda s=schema, x=x, y=y: bare(s, x, y, options.epochs)
        for mode in ("single", "separate") if len(schema) > 1 else ("single",):
            for precision in ("32-true", "bf16-mixed"):
                variants[f"LatentClassifier, {mode}, {precision}"] = lambda s=schema, m=mode, p=precision, x=x, y=y: (
                    ours(s, x, y, options.epochs, m, p)
                )
        seconds = side_by_side(
            variants, options.rounds if len(schema) == 1 else 1, time.perf_counter
        )  # workers are processes
        table(
            f"{len(schema)} attribute(s), {options.pairs} pairs, {options.epochs} epoch(s)",
            seconds,
            next(reversed([name for name in variants if name.startswith("plain")])),
        )


if __name__ == "__main__":
    main()
