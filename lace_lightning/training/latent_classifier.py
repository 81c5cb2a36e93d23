"""Training of attribute classifiers on latent/label pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import MulticlassCalibrationError

from ..classifiers import AttributeClassifier
from ..errors import LaceError
from ..generators import Generator
from ..pictures.convert import from_bytes
from ..schema import Schema
from .calibration import fit_calibration
from .learning_rates import with_staircase
from .losses import attribute_losses, attribute_scores, batch_parts

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


def classifier_arguments(node: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
    """Return the arguments of `LatentClassifier` for the settings of a classifier and a generator.

    Args:
        node: settings of the classifier in plain containers.
        generator: the generator whose latents it classifies.

    Returns:
        Arguments by name, without the schema.
    """
    arguments = {key: value for key, value in node["arguments"].items() if value is not None}
    if node["network"] == "mlp":
        arguments["input_dim"] = 0 if node["space"] == "x" else generator.size_of(node["space"])
    names = (
        "space",
        "network",
        "learning_rate",
        "warmup_steps",
        "decay",
        "decay_epochs",
        "weight_decay",
        "continuous_weight",
    )
    return {
        **{name: node[name] for name in names},
        "arguments": arguments,
        "generator_digest": generator.digest_for(node["space"]),
    }


class LatentClassifier(pl.LightningModule):
    """Training of an attribute classifier p(c|u) of latents z or w, or of pictures x.

    The loss is cross-entropy for discrete attributes and `continuous_weight` times the squared error for continuous
    ones. The optimizer is Adam with linear warm-up and a staircase decay. Batches are (u; decided labels (B, K), or
    logits of the labeler (B, L), which are soft labels; and optionally known (B, K) bool). Unknown labels enter neither
    losses nor scores. The test compares with the decided labels: -log p and the expected calibration error (15 bins of
    equal width) of discrete attributes, and the root mean square error of continuous ones.

    Args:
        schema: the attributes, or their plain containers.
        space: space of u: "z", "w", or "x" for pictures.
        network: "mlp" for latents, or the name of an image network for "x".
        arguments: arguments of the network.
        learning_rate: learning rate after the warm-up, above 0.
        warmup_steps: steps of the warm-up, 0 or more.
        decay: factor of the learning rate at each decay, above 0, at most 1.
        decay_epochs: epochs between two decays, at least 1.
        weight_decay: weight decay of Adam, 0 or more.
        continuous_weight: weight of the squared error, 0 or more. 1/(2σ²), which is 50 for σ = 0.1, makes the loss -log
            p(c|u) of Eq. 4 for both kinds of attributes.
        generator_digest: digest of the generator whose latents are classified, None for pictures that no generator
            drew.

    Raises:
        LaceError: for an unknown space or network.

    References:
        Eq. 4 of LACE (arXiv 2110.10873).

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> training = LatentClassifier(schema, "w", arguments={"input_dim": 4, "hidden": [8]}, continuous_weight=50.0)
        >>> training(torch.zeros(2, 4)).shape, training.weights.tolist()
        (torch.Size([2, 3]), [1.0, 50.0])
    """

    weights: Tensor
    # Whether temperatures are fitted on the validation pairs after the last training step.
    calibrates = False

    def __init__(
        self,
        schema: Mapping[str, Any] | Schema,
        space: str = "w",
        network: str = "mlp",
        arguments: Mapping[str, Any] | None = None,
        learning_rate: float = 1e-4,
        warmup_steps: int = 1000,
        decay: float = 0.5,
        decay_epochs: int = 10,
        weight_decay: float = 0.0,
        continuous_weight: float = 1.0,
        generator_digest: str | None = None,
    ) -> None:
        super().__init__()
        self.schema = Schema.of(schema)
        self.save_hyperparameters(
            {
                "schema": self.schema.to_config(),
                "space": space,
                "network": network,
                "arguments": dict(arguments or {}),
                "learning_rate": learning_rate,
                "warmup_steps": warmup_steps,
                "decay": decay,
                "decay_epochs": decay_epochs,
                "weight_decay": weight_decay,
                "continuous_weight": continuous_weight,
                "generator_digest": generator_digest,
            }
        )
        self.classifier = AttributeClassifier(self.schema, space, network, arguments, generator_digest)
        weights = [continuous_weight if attribute.kind == "continuous" else 1.0 for attribute in self.schema]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.measures = nn.ModuleList(
            MulticlassCalibrationError(attribute.num_classes, n_bins=15)
            if attribute.kind == "discrete"
            else MeanSquaredError(squared=False)
            for attribute in self.schema
        )

    def forward(self, u: Tensor) -> Tensor:
        """Return the logits (B, L) of u."""
        result: Tensor = self.classifier(from_bytes(u))
        return result

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the weighted loss of a batch."""
        u, target, known = batch_parts(batch)
        loss = (self.weights * attribute_losses(self.schema, self(u), target, known=known)).sum()
        if batch_index % 50 == 0:
            self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _decided(self, target: Tensor) -> Tensor:
        return self.schema.decode(target).values if target.shape[1] != len(self.schema) else target

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Tensor, ...]]) -> None:
        """Fit the temperature of every discrete attribute on batches and divide the classifier's logits by it.

        The temperatures, and the errors of continuous attributes, are written into the metadata of the classifier.

        Args:
            batches: pairs, in the form of training batches.

        Raises:
            LaceError: for a network whose last layer is not linear, and without batches.
        """
        self.eval()
        parts = []
        for u, target, known in map(batch_parts, batches):
            decided = torch.ones(len(u), len(self.schema), dtype=torch.bool) if known is None else known
            parts.append((self(u.to(self.device)), self._decided(target.to(self.device)), decided.to(self.device)))
        if not parts:
            raise LaceError(
                "Calibration needs validation pairs and received none: set pairs.holdout=[0.02,0.02], or "
                "classifier.calibrate=false."
            )
        logits, labels, decided = (torch.cat(column) for column in zip(*parts, strict=True))
        fitted = fit_calibration(self.schema, logits, labels, decided)
        self.classifier.scale_logits({name: 1 / temperature for name, temperature in fitted["temperature"].items()})
        self.classifier.metadata["calibration"] = fitted

    def after_training(self, data: pl.LightningDataModule) -> None:
        """Calibrate on the validation pairs if `calibrates` is true."""
        if self.calibrates:
            self.calibrate(data.val_dataloader())

    def save_trained(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Write the trained classifier."""
        self.classifier.save(path, **metadata)

    def load_trained(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read the trained classifier, frozen; return the metadata of its file."""
        self.classifier = AttributeClassifier.load(path)
        return self.classifier.metadata

    def _log_mean(self, name: str, value: Tensor, count: int) -> None:
        # The mean of a batch counts by its number of known labels; without any there is no mean.
        if count:
            self.log(name, value, batch_size=count, sync_dist=True)

    def _evaluate(self, batch: Batch, stage: str) -> Tensor:
        u, target, known = batch_parts(batch)
        logits = self(u)
        for index, (name, score) in enumerate(attribute_scores(self.schema, logits, target, known).items()):
            self._log_mean(f"{stage}/accuracy/{name}", score, len(u) if known is None else int(known[:, index].sum()))
        self.log(
            f"{stage}/loss",
            attribute_losses(self.schema, logits, target, known=known).sum(),
            batch_size=len(u),
            sync_dist=True,
        )
        result: Tensor = logits
        return result

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log loss and accuracy of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Log loss, accuracy and calibration of a batch."""
        logits, labels, known = self._evaluate(batch, "classifier"), self._decided(batch[1]), batch_parts(batch)[2]
        losses = attribute_losses(self.schema, logits, labels, known=known)
        for index, attribute in enumerate(self.schema):
            measure = cast(Metric, self.measures[index])
            columns, wanted = logits[:, self.schema.slices[attribute.name]], labels[:, index]
            if known is not None:
                columns, wanted = columns[known[:, index]], wanted[known[:, index]]
            if not len(wanted):
                continue
            if attribute.kind == "discrete":
                measure.update(columns.softmax(1), wanted.long())
                self._log_mean(f"classifier/nll/{attribute.name}", losses[index], len(wanted))
            else:
                measure.update(columns[:, 0], wanted)
            self.log(f"classifier/{'ece' if attribute.kind == 'discrete' else 'sigma'}/{attribute.name}", measure)

    def on_test_epoch_end(self) -> None:
        """Log the fitted temperatures and errors."""
        for figure, values in self.classifier.metadata.get("calibration", {}).items():
            for name, value in values.items():
                self.log(f"calibration/{figure}/{name}", value)

    def configure_optimizers(self) -> Any:
        """Return Adam with warm-up and staircase."""
        h = self.hparams
        optimizer = torch.optim.Adam(
            self.parameters(), lr=h["learning_rate"], weight_decay=h["weight_decay"], fused=True
        )
        return with_staircase(optimizer, self.trainer, h["warmup_steps"], h["decay"], h["decay_epochs"])
