"""Training of attribute classifiers on latent/label pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..classifiers import AttributeClassifier
from ..pictures import from_bytes
from ..schema import Schema
from .losses import attribute_losses, attribute_scores


class LatentClassifier(pl.LightningModule):
    """Train p(c|u), u in z, w or x: cross-entropy for discrete attributes, squared error for continuous ones.

    The squared error counts `continuous_weight` times; 1/(2σ²), 50 for σ = 0.1, makes the loss -log p(c|u) of Eq. 4 for both kinds.
    Adam with `warmup_steps` of linear warm-up, then the learning rate times `decay` every `decay_epochs` epochs (staircase).
    Batches are (u, decided labels (B, K)) or (u, logits of the labeler (B, L)), which are soft labels.
    """

    weights: Tensor

    def __init__(self, schema: Mapping[str, Any] | Schema, space: str = "w", network: str = "mlp",
                 arguments: Mapping[str, Any] | None = None, learning_rate: float = 1e-4, warmup_steps: int = 1000,
                 decay: float = 0.5, decay_epochs: int = 10, weight_decay: float = 0.0,
                 continuous_weight: float = 1.0, generator_digest: str | None = None) -> None:
        super().__init__()
        config = schema.to_config() if isinstance(schema, Schema) else dict(schema)
        self.save_hyperparameters({
            "schema": config, "space": space, "network": network, "arguments": dict(arguments or {}),
            "learning_rate": learning_rate, "warmup_steps": warmup_steps, "decay": decay, "decay_epochs": decay_epochs,
            "weight_decay": weight_decay, "continuous_weight": continuous_weight, "generator_digest": generator_digest})
        self.schema = Schema.from_config(config)
        self.classifier = AttributeClassifier(self.schema, space, network, arguments, generator_digest)
        weights = [continuous_weight if attribute.kind == "continuous" else 1.0 for attribute in self.schema]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        return self.classifier(from_bytes(u))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        loss = (self.weights * attribute_losses(self.schema, self(batch[0]), batch[1])).sum()
        if batch_index % 50 == 0:
            self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        u, target = batch
        logits = self(u)
        scores = {f"{stage}/accuracy/{name}": score for name, score in attribute_scores(self.schema, logits, target).items()}
        scores[f"{stage}/loss"] = attribute_losses(self.schema, logits, target).sum()
        self.log_dict(scores, batch_size=len(u), sync_dist=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._evaluate(batch, "classifier")

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = torch.optim.Adam(self.parameters(), lr=h["learning_rate"], weight_decay=h["weight_decay"], fused=True)
        per_epoch = max(1, int(self.trainer.estimated_stepping_batches) // max(1, self.trainer.max_epochs or 1))

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / max(1, h["warmup_steps"])) * h["decay"] ** (step // per_epoch // h["decay_epochs"])

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
