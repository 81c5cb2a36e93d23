"""Labels of pictures from an image network; a judge is a labeler with other weights."""

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
from ..generators.arguments import is_number, is_whole
from ..numerics.precision import check_precision, compute_dtype
from ..pictures.convert import at_a_time, from_bytes, with_channels
from ..schema import Labels, Schema
from ..source import user_line
from ..weights import weight_path


class Labeler(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] -> logits (B, schema.num_logits), labels, and penultimate features (B, F).

    The weights are frozen, and no gradient is kept. The answer for a picture does not depend on the other pictures of
    its batch.

    Args:
        classifier: image classifier (space x), or the name or file of its weights; it is put into evaluation mode and
            frozen.
        views: views of a picture whose logits are averaged: 1 (the picture), 2 (also its mirror image) or 4 (also the
            picture moved by one pixel down and right, and its mirror image moved by one pixel the other way).
        precision: number format of the convolutions: float32, bfloat16, float16, or auto for bfloat16 where the device
            has it natively and float32 elsewhere. Features and logits are float32.
        max_batch: pictures that the network is given together, at least 1; of pictures larger than 64x64 it is given
            as many pixels.
        name: name in records and messages; None for the name of the weights.
        confidence: smallest probability, in [0, 1], of the likeliest class of a discrete attribute at which its label
            is known; 0 decides every label.

    Raises:
        LaceError: when the weights are missing, damaged or no image classifier, an argument is out of
            range, or the number format is unknown.

    Example:
        >>> from lace_lightning import Attribute
        >>> schema = Schema("cats", (Attribute("hat"), Attribute("warmth", "continuous")))
        >>> labeler = Labeler(AttributeClassifier(schema, "x", "resnet9", {"width": 2}), precision="float32")
        >>> images = torch.zeros(4, 3, 16, 16)
        >>> tuple(labeler(images).shape), labeler.labels(images)
        ((4, 3), Labels(cats: hat, warmth; 4 rows, 8 known))
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
                f"A labeler needs a classifier of pictures (space x), and '{self.name}' classifies space "
                f"{classifier.space}: give an image classifier."
            )
        if not is_whole(views) or views not in (1, 2, 4):
            raise LaceError(f"A labeler needs 1, 2 or 4 views of a picture, received {views!r}: set views=1.")
        if not is_number(confidence) or not 0 <= confidence <= 1:
            raise LaceError(
                f"The confidence of a labeler must lie in [0, 1], received {confidence!r}: 0 decides every label."
            )
        if not is_whole(max_batch) or max_batch < 1:
            raise LaceError(
                f"A labeler needs at least 1 picture at a time, received max_batch={max_batch!r}: set max_batch=100."
            )
        self.classifier = classifier.eval().requires_grad_(False)
        self.views, self.precision, self.max_batch = views, check_precision(precision), max_batch
        self.confidence = float(confidence)

    @property
    def schema(self) -> Schema:
        """The attributes of the labels."""
        return self.classifier.schema

    @cached_property
    def digest(self) -> str:
        """Digest of weights, views and confidence, which decide the answers; the number format does not count."""
        return f"{self.classifier.digest}-{self.views}" + (f"-{self.confidence:g}" if self.confidence else "")

    @property
    def channels(self) -> int | None:
        """Channels of the pictures that it looks at, None for any; grey pictures are repeated."""
        return getattr(self.classifier.network, "channels", None)

    @property
    def num_features(self) -> int:
        """The number F of penultimate features."""
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
        except Exception as error:
            if isinstance(error, LaceError):
                raise
            raise LaceError(
                f"The network '{self.name}' takes no pictures of the shape {tuple(images.shape[1:])} "
                f"({in_one_line(error, 120)}{user_line(error)}): choose a labeler and a judge for the pictures of the "
                "generator, or set labeler.resolution where there is one."
            ) from error
        features = features.float()
        return features, network.head(features)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits, the logits averaged over the views.

        Args:
            images: pictures (B, C, H, W) in [-1, 1], or uint8.

        Returns:
            Features (B, F) of the pictures themselves, and logits (B, L), both float32.
        """
        results = []
        images = with_channels(from_bytes(images), self.channels, self.name)
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
        """Return the penultimate features of pictures.

        Args:
            images: pictures (B, C, H, W) in [-1, 1], or uint8.

        Returns:
            Features (B, F) float32 of the pictures themselves, without their other views.
        """
        images = with_channels(from_bytes(images), self.channels, self.name)
        return torch.cat([self._run(part)[0] for part in images.split(at_a_time(images, self.max_batch))])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, L) float32 of pictures (B, C, H, W) in [-1, 1] or uint8."""
        return self.features_and_logits(images)[1]

    def decide(self, logits: Tensor) -> Labels:
        """Return the labels of logits, unknown below `confidence` and where a logit is NaN.

        Args:
            logits: logits (B, L) in the columns of the schema.

        Returns:
            Labels (B, K): class numbers, and values clamped to [0, 1].
        """
        labels = self.schema.decode(logits)
        known = [~logits[:, columns].isnan().any(1) for columns in self.schema.slices.values()]
        if self.confidence:
            known = [
                finite
                if attribute.kind == "continuous"
                else finite
                & (logits[:, self.schema.slices[attribute.name]].float().softmax(1).amax(1) >= self.confidence)
                for finite, attribute in zip(known, self.schema, strict=True)
            ]
        return Labels(self.schema, labels.values.nan_to_num(0.0), torch.stack(known, dim=1))

    def labels(self, images: Tensor) -> Labels:
        """Return the labels of pictures, as `decide` makes them of their logits.

        Args:
            images: pictures (B, C, H, W) in [-1, 1], or uint8.

        Returns:
            Labels (B, K).
        """
        return self.decide(self(images))
