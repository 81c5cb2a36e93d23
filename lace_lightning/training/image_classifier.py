"""Training of image classifiers: SGD with one cycle, label smoothing, moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..classifiers import AttributeClassifier
from ..classifiers.networks import build_network
from ..errors import LaceError
from ..pictures.convert import from_bytes, with_channels
from ..schema import Schema
from ..weights import weight_path
from .average import averaged_copy, early_decay, move_average
from .learning_rates import with_one_cycle
from .losses import attribute_losses, attribute_scores, labelled_batch


class ImageClassifierTraining(pl.LightningModule):
    """Training of an image network on labelled pictures; its attribute `average`, a moving average, is exported.

    The loss is cross-entropy for discrete attributes and `continuous_weight` times the squared error for continuous
    ones. The optimizer is SGD with Nesterov momentum and one cycle of the learning rate. Batches are (pictures (B, 3,
    R, R), uint8 or in [-1, 1]; labels (B, K); and optionally known (B, K) bool). Unknown labels enter neither losses
    nor scores.

    Args:
        schema: the attributes, or their plain containers.
        network: name of an image network.
        arguments: arguments of the network.
        learning_rate: peak of the cycle, above 0.
        weight_decay: of weights with two or more dimensions, 0 or more; biases and scales of normalisations have none.
        momentum: momentum of SGD, in (0, 1).
        warmup_fraction: share of the training, from 0 to 1, over which the learning rate rises.
        label_smoothing: label smoothing of discrete attributes, from 0 to 1.
        ema_decay: decay of the moving average a step, in [0, 1).
        bf16: compute the network in bfloat16.
        bias_rate: factor of the learning rate of biases and scales of normalisations, above 0.
        continuous_weight: weight of the squared error, 0 or more; 50 is -log p of Eq. 4 with σ² = 0.01.
        mirror: also report the accuracy of the summed logits of a picture and its mirror image.
        start: weights of the same network to begin from (shipped name or file), None for random ones. Output columns of
            attributes that these weights lack are random.

    Raises:
        LaceError: for weights of another network, and for weights that do not exist or are damaged.

    References:
        Eq. 4 of LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> training = ImageClassifierTraining(schema, "resnet9", {"width": 4}, bf16=False)
        >>> training.loss_weights.tolist(), training.classifier()(torch.zeros(2, 3, 32, 32)).shape
        ([1.0, 50.0], torch.Size([2, 3]))
    """

    loss_weights: Tensor

    def __init__(
        self,
        schema: Mapping[str, Any] | Schema,
        network: str,
        arguments: Mapping[str, Any] | None = None,
        learning_rate: float = 0.4,
        weight_decay: float = 5e-4,
        momentum: float = 0.9,
        warmup_fraction: float = 0.25,
        label_smoothing: float = 0.1,
        ema_decay: float = 0.995,
        bf16: bool = True,
        bias_rate: float = 1.0,
        continuous_weight: float = 50.0,
        mirror: bool = True,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.schema = Schema.of(schema)
        self.save_hyperparameters(
            {
                "schema": self.schema.to_config(),
                "network": network,
                "arguments": dict(arguments or {}),
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "warmup_fraction": warmup_fraction,
                "label_smoothing": label_smoothing,
                "ema_decay": ema_decay,
                "bf16": bf16,
                "bias_rate": bias_rate,
                "continuous_weight": continuous_weight,
                "mirror": mirror,
                "start": start,
            }
        )
        weights = [1.0 if attribute.kind == "discrete" else continuous_weight for attribute in self.schema]
        self.register_buffer("loss_weights", torch.tensor(weights), persistent=False)
        self.network = build_network(network, num_logits=self.schema.num_logits, **(arguments or {})).to(
            memory_format=torch.channels_last
        )
        if start is not None:
            self._begin_from(start)
        self.average = averaged_copy(self.network)
        self.feature_dtype = torch.bfloat16 if bf16 else torch.float32

    def _begin_from(self, start: str) -> None:
        begin = AttributeClassifier.load(weight_path(start))
        ours, theirs = self.network.state_dict(), begin.network.state_dict()
        last = {id(parameter) for parameter in self.network.head.parameters()}
        head = [name for name, parameter in self.network.named_parameters() if id(parameter) in last]
        shapes = [{name: value.shape for name, value in state.items() if name not in head} for state in (ours, theirs)]
        if begin.network_name != self.hparams["network"] or shapes[0] != shapes[1]:
            raise LaceError(
                f"The weights '{start}' must be of the network {self.hparams['network']} {self.hparams['arguments']}, "
                f"received {begin.network_name} {begin.arguments}: give the same network, or start=null."
            )
        self.network.load_state_dict({name: value for name, value in theirs.items() if name not in head}, strict=False)
        for attribute in self.schema:
            if attribute in begin.schema.attributes:
                for name in head:
                    ours[name][self.schema.slices[attribute.name]] = theirs[name][begin.schema.slices[attribute.name]]

    def on_fit_start(self) -> None:
        """Prepare network and average from 5000 pictures of the data module."""
        pictures = from_bytes(self.trainer.datamodule.some_pictures(5000).to(self.device))  # type: ignore[attr-defined]
        pictures = with_channels(pictures, self.network.channels, "of this training")
        self.network.prepare(pictures)
        self.average.prepare(pictures)

    def _logits(self, network: Any, images: Tensor) -> Tensor:
        images = with_channels(from_bytes(images), network.channels, "of this training")
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.feature_dtype == torch.bfloat16):
            result: Tensor = network(images).float()
            return result

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Return the weighted loss of a batch."""
        images, labels, known = labelled_batch(batch)
        logits = self._logits(self.network, images)
        losses = attribute_losses(self.schema, logits, labels, self.hparams["label_smoothing"], known)
        loss = (losses * self.loss_weights).sum()
        if batch_index % 20 == 0:
            accuracy = _mean(attribute_scores(self.schema, logits, labels, known), known)
            self.log_dict({"loss": loss.detach(), "train_accuracy": accuracy}, prog_bar=True)
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Make the optimizer's step and move the average."""
        super().optimizer_step(*arguments, **options)
        # Moved here, so that a checkpoint of this step has its average; Lightning counts the step afterwards.
        updates = self.global_step + 1
        move_average(self.average, self.network, 1 - early_decay(self.hparams["ema_decay"], updates), "average")

    def _evaluate(self, batch: tuple[Tensor, ...], stage: str) -> None:
        images, labels, known = labelled_batch(batch)
        logits = self._logits(self.average, images)
        scores = attribute_scores(self.schema, logits, labels, known)
        figures = {f"{stage}_accuracy": _mean(scores, known)}
        if len(scores) > 1:
            # Weighted by the number of known labels, the means over batches are the means over pictures.
            for (name, score), rows in zip(scores.items(), known.sum(0).tolist(), strict=True):
                if rows:
                    self.log(f"{stage}_accuracy/{name}", score, batch_size=rows)
        if self.hparams["mirror"]:
            logits = logits + self._logits(self.average, images.flip(-1))
            figures[f"{stage}_accuracy_flip"] = _mean(attribute_scores(self.schema, logits, labels, known), known)
        self.log_dict(figures, prog_bar=len(scores) == 1, batch_size=len(labels))

    def validation_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        """Log the accuracy of the average on a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        """Log the accuracy of the average on a batch."""
        self._evaluate(batch, "test")

    def classifier(self) -> AttributeClassifier:
        """Return the moving average as a frozen classifier of pictures."""
        result = AttributeClassifier(self.schema, "x", self.hparams["network"], self.hparams["arguments"])
        result.network.load_state_dict(self.average.state_dict())
        return result.eval().requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """Return SGD with one cycle of the learning rate and two groups of parameters."""
        rate, trained = self.hparams["learning_rate"], [p for p in self.network.parameters() if p.requires_grad]
        rates = [rate, rate * self.hparams["bias_rate"]]
        optimizer = torch.optim.SGD(
            [
                {
                    "params": [p for p in trained if p.ndim > 1],
                    "lr": rates[0],
                    "weight_decay": self.hparams["weight_decay"],
                },
                {"params": [p for p in trained if p.ndim <= 1], "lr": rates[1]},
            ],
            momentum=self.hparams["momentum"],
            nesterov=True,
        )
        return with_one_cycle(optimizer, rates, self.hparams["warmup_fraction"], self.trainer)


def _mean(scores: Mapping[str, Tensor], known: Tensor) -> Tensor:
    """Return the mean score over the attributes that at least one row of `known` knows."""
    some = known.any(0)
    return (torch.stack(list(scores.values())) * some).sum() / some.sum().clamp(min=1)
