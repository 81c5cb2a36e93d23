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
from ..pictures.convert import from_bytes
from ..schema import Schema
from ..weights import weight_path
from .average import averaged_copy, early_decay, move_average
from .learning_rates import with_one_cycle
from .losses import attribute_losses, attribute_scores, labelled_batch


class ImageClassifierTraining(pl.LightningModule):
    """Train an image network on (uint8 or [-1, 1] pictures (B, 3, R, R), labels (B, K) of `schema`, and known (B, K)
    bool or nothing).

    Nesterov SGD, one-cycle learning rate over the whole run, label smoothing for discrete attributes, squared error
    times `continuous_weight` for continuous ones (50 is the likelihood of Eq. 4, σ² = 0.01); what is not known enters
    neither losses nor scores. `average` is an exponential moving average that is evaluated and exported. With `bf16`
    convolutions run in bfloat16, channels last. Biases and scales of normalisations learn `bias_rate` times as fast as
    the rest and do not decay. With `mirror`, what is seen in a picture and its mirror image together is reported as
    well. `start` names weights of the same network (shipped, or a file of this program's) to begin from; outputs for
    attributes that they do not have begin anew.
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
                f"The weights '{start}' are of the network {begin.network_name} {begin.arguments}, and this one is "
                f"{self.hparams['network']} {self.hparams['arguments']}: give the same network, or start=null."
            )
        self.network.load_state_dict({name: value for name, value in theirs.items() if name not in head}, strict=False)
        for attribute in self.schema:
            if attribute in begin.schema.attributes:
                for name in head:
                    ours[name][self.schema.slices[attribute.name]] = theirs[name][begin.schema.slices[attribute.name]]

    def on_fit_start(self) -> None:
        pictures = from_bytes(self.trainer.datamodule.some_pictures(5000).to(self.device))  # type: ignore[attr-defined]
        self.network.prepare(pictures)
        self.average.prepare(pictures)

    def _logits(self, network: Any, images: Tensor) -> Tensor:
        images = from_bytes(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.feature_dtype == torch.bfloat16):
            return network(images).float()

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        images, labels, known = labelled_batch(batch)
        logits = self._logits(self.network, images)
        losses = attribute_losses(self.schema, logits, labels, self.hparams["label_smoothing"], known)
        loss = (losses * self.loss_weights).sum()
        if batch_index % 20 == 0:
            accuracy = _mean(attribute_scores(self.schema, logits, labels, known), known)
            self.log_dict({"loss": loss.detach(), "train_accuracy": accuracy}, prog_bar=True)
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        # Here, so that a checkpoint of this step has its average; the step is counted afterwards.
        updates = self.global_step + 1
        move_average(self.average, self.network, 1 - early_decay(self.hparams["ema_decay"], updates), "average")

    def _evaluate(self, batch: tuple[Tensor, ...], stage: str) -> None:
        images, labels, known = labelled_batch(batch)
        logits = self._logits(self.average, images)
        scores = attribute_scores(self.schema, logits, labels, known)
        figures = {f"{stage}_accuracy": _mean(scores, known)}
        if len(scores) > 1:
            # Weighted by what is known, the means over batches are the means over pictures.
            for (name, score), rows in zip(scores.items(), known.sum(0).tolist(), strict=True):
                if rows:
                    self.log(f"{stage}_accuracy/{name}", score, batch_size=rows)
        if self.hparams["mirror"]:
            logits = logits + self._logits(self.average, images.flip(-1))
            figures[f"{stage}_accuracy_flip"] = _mean(attribute_scores(self.schema, logits, labels, known), known)
        self.log_dict(figures, prog_bar=len(scores) == 1, batch_size=len(labels))

    def validation_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        self._evaluate(batch, "test")

    def classifier(self) -> AttributeClassifier:
        """Return the moving average as a classifier of pictures, ready for use."""
        result = AttributeClassifier(self.schema, "x", self.hparams["network"], self.hparams["arguments"])
        result.network.load_state_dict(self.average.state_dict())
        return result.eval().requires_grad_(False)

    def configure_optimizers(self) -> Any:
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
    """Return the mean over the attributes that somebody knows."""
    some = known.any(0)
    return (torch.stack(list(scores.values())) * some).sum() / some.sum().clamp(min=1)
