"""Training of identity embeddings: softmax over people with an angular margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from ..classifiers.embedding import IdentityEmbedding
from ..pictures.convert import from_bytes
from .learning_rates import with_one_cycle


class IdentityTraining(pl.LightningModule):
    """Training of an identity embedding by softmax over people with an additive angular margin (ArcFace).

    Logits are s·cos(θ_j), and s·cos(θ_y + m) for the person y of the picture, with scale s and margin m. The optimizer
    is SGD with Nesterov momentum 0.9 and one cycle of the learning rate. Batches are (pictures (B, 3, R, R), uint8 or
    in [-1, 1]; numbers of people (B,), from 0 to `num_people` - 1). `val_auc` and `test_auc` are the area under the ROC
    curve of the question whether two pictures show the same person, by the cosine of their embeddings, over all pairs
    of a batch; batches of these stages must hold pairs of both kinds.

    Args:
        network: name of an image network.
        arguments: arguments of the network.
        size: length of the embedding, at least 1.
        num_people: number of people of the training set, at least 1.
        scale: s, above 0.
        margin: m in radians, from 0 to π.
        learning_rate: peak of the cycle, above 0.
        weight_decay: of all parameters, 0 or more.
        warmup_fraction: share of the training, from 0 to 1, over which the learning rate rises.
        bf16: compute the network in bfloat16.

    References:
        ArcFace (arXiv 1801.07698), Eq. 3.

    Example:
        >>> training = IdentityTraining("resnet9", {"width": 4}, size=8, num_people=3, margin=0.0, scale=2.0)
        >>> vectors = F.normalize(training.people.detach(), dim=1)
        >>> training.margin_logits(vectors, torch.arange(3)).diagonal().detach().round(decimals=3)
        tensor([2., 2., 2.])
    """

    def __init__(
        self,
        network: str = "resnet9",
        arguments: Mapping[str, Any] | None = None,
        size: int = 64,
        num_people: int = 1000,
        scale: float = 16.0,
        margin: float = 0.2,
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
        warmup_fraction: float = 0.2,
        bf16: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {
                "network": network,
                "arguments": dict(arguments or {}),
                "size": size,
                "num_people": num_people,
                "scale": scale,
                "margin": margin,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "warmup_fraction": warmup_fraction,
                "bf16": bf16,
            }
        )
        self.embedding = IdentityEmbedding(network, arguments, size).to(memory_format=torch.channels_last)
        self.people = nn.Parameter(F.normalize(torch.randn(num_people, size), dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, size) of pictures (B, 3, R, R), uint8 or in [-1, 1]."""
        images = from_bytes(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.hparams["bf16"]):
            result: Tensor = self.embedding(images)
            return result

    def margin_logits(self, vectors: Tensor, people: Tensor) -> Tensor:
        """Return s·cos(θ_j + m·[j is the right person]) (B, num_people) for unit vectors (B, size)."""
        cosine = (vectors @ F.normalize(self.people, dim=1).T).clamp(-1 + 1e-6, 1 - 1e-6)
        right = F.one_hot(people, cosine.shape[1]).bool()
        # Beyond π - m the cosine would rise again.
        angle = (cosine.acos() + self.hparams["margin"]).clamp(max=torch.pi)
        result: Tensor = self.hparams["scale"] * torch.where(right, angle.cos(), cosine)
        return result

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the cross-entropy of a batch's margin logits."""
        logits = self.margin_logits(self(batch[0]), batch[1])
        loss = F.cross_entropy(logits, batch[1])
        if batch_index % 20 == 0:
            self.log_dict(
                {"loss": loss.detach(), "train_accuracy": (logits.argmax(1) == batch[1]).float().mean()}, prog_bar=True
            )
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        vectors = self(batch[0])
        closeness = vectors @ vectors.T
        same = batch[1][:, None] == batch[1]
        pairs = torch.ones_like(same).triu(1)
        distance = (2 - 2 * closeness).clamp_min(0).sqrt()
        figures = {
            "auc": binary_auroc(closeness[pairs], same[pairs].long()),
            "distance_same": distance[pairs & same].mean(),
            "distance_other": distance[pairs & ~same].mean(),
        }
        self.log_dict({f"{stage}_{name}": value for name, value in figures.items()}, batch_size=len(vectors))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Log the area under the curve and the mean distances of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Log the area under the curve and the mean distances of a batch."""
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        """Return SGD with one cycle of the learning rate."""
        rate = self.hparams["learning_rate"]
        optimizer = torch.optim.SGD(
            self.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=self.hparams["weight_decay"]
        )
        return with_one_cycle(optimizer, [rate], self.hparams["warmup_fraction"], self.trainer)
