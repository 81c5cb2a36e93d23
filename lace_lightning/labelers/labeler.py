"""Labels from an image network; the same noun judges, with other weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..classifiers import AttributeClassifier
from ..classifiers.resnets import ImageNetwork
from ..errors import LaceError, in_one_line
from ..numerics.precision import check_precision, compute_dtype
from ..pictures.convert import at_a_time, with_channels
from ..schema import Labels, Schema
from ..weights import weight_path


class Labeler(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] -> logits (B, schema.num_logits), labels, and penultimate features (B, F).

    `classifier` is an image classifier (space x) or the name or file of its weights. Logits are averaged over `views`:
    1 is the picture, 2 adds its mirror image, 4 adds it moved by a pixel, and moved back and mirrored. `precision` is
    that of the convolutions, "auto" the fastest that the device has natively. It looks at `max_batch` pictures at a
    time, at fewer where they are larger than 64x64 (`at_a_time`). Below `confidence`, the largest probability of a
    discrete attribute, its label is unknown. Raises LaceError for weights that are no image classifier, for another
    number of views, and for a confidence outside [0, 1].
    """

    def __init__(
        self,
        classifier: AttributeClassifier | str | os.PathLike[str],
        views: int = 1,
        precision: str = "auto",
        max_batch: int = 100,
        name: str | None = None,
        confidence: float = 0.0,
    ) -> None:
        super().__init__()
        self.name = name or (str(classifier) if not isinstance(classifier, AttributeClassifier) else "classifier")
        if not isinstance(classifier, AttributeClassifier):
            classifier = AttributeClassifier.load(weight_path(classifier))
        if classifier.space != "x":
            raise LaceError(
                f"A labeler looks at pictures (space x), and the weights '{self.name}' classify space "
                f"{classifier.space}: give an image classifier."
            )
        if views not in (1, 2, 4):
            raise LaceError(f"A labeler looks at 1, 2 or 4 views of a picture, received {views}.")
        if not 0 <= confidence <= 1:
            raise LaceError(
                f"The confidence of a labeler must lie in [0, 1], received {confidence}: 0 decides every label."
            )
        self.classifier = classifier.eval().requires_grad_(False)
        self.views, self.precision, self.max_batch = views, check_precision(precision), max_batch
        self.confidence = float(confidence)

    @property
    def schema(self) -> Schema:
        return self.classifier.schema

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of what decides its answers (weights, views and confidence; not the number format)."""
        return f"{self.classifier.digest}-{self.views}" + (f"-{self.confidence:g}" if self.confidence else "")

    @property
    def channels(self) -> int | None:
        """Channels of the pictures that it looks at, None for any; grey pictures are repeated."""
        return getattr(self.classifier.network, "channels", None)

    @property
    def num_features(self) -> int:
        return cast(ImageNetwork, self.classifier.network).num_features

    @torch.no_grad()
    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network = cast(ImageNetwork, self.classifier.network).to(memory_format=torch.channels_last)
        dtype = compute_dtype(self.precision, images.device)
        images = images.contiguous(memory_format=torch.channels_last)
        try:
            with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
                features = network.features(images)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise LaceError(
                f"The network '{self.name}' takes no pictures of the shape {tuple(images.shape[1:])} "
                f"({in_one_line(error, 120)}): choose a labeler and a judge for the pictures of the generator, or set "
                "labeler.resolution where there is one."
            ) from error
        features = features.float()
        return features, network.head(features)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, F) of the pictures as they are, and logits (B, L)."""
        results = []
        images = with_channels(images, self.channels, self.name)
        for part in images.split(at_a_time(images, self.max_batch)):
            features, logits = self._run(part)
            others = [self._run(view)[1] for view in self._other_views(part)]
            results.append((features, torch.stack([logits, *others]).mean(0)))
        return torch.cat([f for f, _ in results]), torch.cat([l for _, l in results])

    def _other_views(self, images: Tensor) -> Iterator[Tensor]:
        if self.views >= 2:
            yield images.flip(-1)
        if self.views == 4:
            wide = F.pad(images, (1, 1, 1, 1), mode="reflect")
            yield wide[:, :, :-2, :-2]
            yield wide[:, :, 2:, 2:].flip(-1)

    def features(self, images: Tensor) -> Tensor:
        """Return features (B, F) of the pictures as they are."""
        images = with_channels(images, self.channels, self.name)
        return torch.cat([self._run(part)[0] for part in images.split(at_a_time(images, self.max_batch))])

    def forward(self, images: Tensor) -> Tensor:
        return self.features_and_logits(images)[1]

    def decide(self, logits: Tensor) -> Labels:
        """Return the labels that logits (B, L) stand for,
        unknown where it is not confident and where a logit is NaN.
        """
        labels = self.schema.decode(logits)
        known = [~logits[:, columns].isnan().any(1) for columns in self.schema.slices.values()]
        if self.confidence:
            known = [
                sure
                if attribute.kind == "continuous"
                else sure
                & (logits[:, self.schema.slices[attribute.name]].float().softmax(1).amax(1) >= self.confidence)
                for sure, attribute in zip(known, self.schema, strict=True)
            ]
        return Labels(self.schema, labels.values.nan_to_num(0.0), torch.stack(known, dim=1))

    def labels(self, images: Tensor) -> Labels:
        """Return the decided labels of pictures, with the mask of those that it is confident about."""
        return self.decide(self(images))
