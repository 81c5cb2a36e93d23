"""Faces with the paper's twelve attributes, of which a data set may know a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import LaceError
from ..portraits import PORTRAITS_SCHEMA
from ..schema import Labels, Schema
from .augmentation import AugmentedBatches
from .picture_data import PictureData

# Real faces have the attributes of the rendered ones. Colours of hair are numbers: StyleFlow's pairs do not say which
# is which (CelebA's are numbered as those of portraits).
FACES_SCHEMA = Schema(
    "faces", tuple(replace(a, class_names=()) if a.name == "haircolor" else a for a in PORTRAITS_SCHEMA)
)
# A mirror turns the head and the light from the side; light0 is how bright it is from everywhere (of spherical
# harmonics the first is constant and the fourth goes from left to right).
MIRRORED = ("yaw", "light3")

# Pictures (N, 3, R, R) uint8, labels (N, K), known (N, K) bool.
Faces = tuple[Tensor, Tensor, Tensor]


class FaceBatches(AugmentedBatches):
    """Batches (pictures uint8 (B, C, R, R), labels (B, K), known (B, K)) of faces, whose mirror images change labels.

    Where a picture is mirrored, the label v of an attribute of `mirrored` becomes 2c - v, clamped to [0, 1]; c is the
    value of a face that looks straight ahead.

    Args:
        pictures: pictures (N, C, R, R) uint8.
        labels: their labels.
        batch_size: rows of a batch, at least 1.
        seed: seed of the order and of the changes, at least 0; None keeps the order of the rows.
        rank: number of this process, from 0 to `world_size` - 1.
        world_size: number of processes, at least 1.
        pad: largest shift in pixels, from 0 to R - 1.
        flip: whether every picture is mirrored with probability 1/2.
        mirrored: c in [0, 1] by name of the attribute.

    Example:
        >>> schema = FACES_SCHEMA.part(["yaw"])
        >>> labels = Labels(schema, torch.full((40, 1), 0.9))
        >>> pictures = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
        >>> _, values, _ = next(iter(FaceBatches(pictures, labels, 40, flip=True, mirrored={"yaw": 0.5})))
        >>> sorted({round(value, 2) for value in values.flatten().tolist()})
        [0.1, 0.9]
    """

    def __init__(
        self,
        pictures: Tensor,
        labels: Labels,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        pad: int = 0,
        flip: bool = False,
        mirrored: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            pictures, labels.values, batch_size, seed, rank, world_size, pad=pad, flip=flip, known=labels.known
        )
        mirrored = mirrored or {}
        self.turned = torch.tensor([name in mirrored for name in labels.schema.names])
        self.twice = torch.tensor([2 * mirrored.get(name, 0.0) for name in labels.schema.names])

    def labels_of(self, labels: Tensor, flipped: Tensor) -> Tensor:
        """Return the labels of pictures of which some are mirrored.

        Args:
            labels: labels (B, K) of the pictures as they were.
            flipped: which pictures are mirrored (B,) bool.

        Returns:
            Labels (B, K).
        """
        return torch.where(flipped[:, None] & self.turned, (self.twice - labels).clamp(0, 1), labels)


class FacesDataModule(PictureData):
    """Base class of labelled faces: the splits train, val and test that a subclass loads; mirror images change labels.

    Args:
        schema: attributes that the pictures are labelled with.
        attributes: names of those that are used; null for all.
        batch_size: pictures of a train batch, at least 1.
        test_batch_size: pictures of a validation or test batch, at least 1.
        seed: seed of the order and the augmentation of train pictures, at least 0.
        flip: whether train pictures are mirrored with probability 1/2.
        pad: largest shift of train pictures in pixels, at least 0.
        mirrored: continuous attributes that a mirror turns round, to as far on the other side of their mean in the
            train split (faces look to both sides alike).

    Raises:
        LaceError: when an attribute is unknown, a mirrored one is discrete, or a size is out of range.

    Example:
        >>> class Grey(FacesDataModule):
        ...     def load(self):
        ...         pictures = torch.full((8, 3, 8, 8), 127, dtype=torch.uint8)
        ...         labels = Labels.constant(FACES_SCHEMA, 8, smile=1.0, yaw=0.3)
        ...         return dict.fromkeys(("train", "val", "test"), (pictures, *self.chosen(labels)))
        >>> data = Grey(FACES_SCHEMA, ["smile", "yaw"], batch_size=4)
        >>> [tuple(part.shape) for part in next(iter(data.train_dataloader()))]
        [(4, 3, 8, 8), (4, 2), (4, 2)]
    """

    schema: Schema

    def __init__(
        self,
        schema: Schema,
        attributes: Sequence[str] | None = None,
        batch_size: int = 256,
        test_batch_size: int = 500,
        seed: int = 0,
        flip: bool = True,
        pad: int = 0,
        mirrored: Sequence[str] = MIRRORED,
    ) -> None:
        super().__init__(batch_size, test_batch_size, seed, flip, pad)
        self.schema = schema if attributes is None else schema.part(attributes)
        self.mirrored = tuple(mirrored)
        for name in self.mirrored:
            if name in self.schema.names and self.schema[name].kind == "discrete":
                raise LaceError(
                    f"A mirrored attribute must be continuous (it changes sides), and '{name}' is discrete: leave it "
                    "out of dataset.module.mirrored."
                )

    def chosen(self, labels: Labels) -> tuple[Tensor, Tensor]:
        """Return the columns of the attributes of this data set.

        Args:
            labels: labels of N pictures with at least these attributes.

        Returns:
            Values (N, K) and known (N, K) bool.
        """
        columns = [labels.schema.index(name) for name in self.schema.names]
        return labels.values[:, columns], labels.known[:, columns]

    def batches(self, name: str, batch_size: int, seed: int | None = None, augment: bool = False) -> FaceBatches:
        """Return the batches of a split; see `PictureData.batches`.

        Args:
            name: `train`, `val` or `test`.
            batch_size: pictures of a batch, at least 1.
            seed: seed of the order; None keeps the order of the rows.
            augment: whether pictures are mirrored and shifted.

        Returns:
            Batches (pictures, labels, known).
        """
        pictures, values, known = self.labelled(name)
        pad, flip = (self.pad, self.flip) if augment else (0, False)
        labels = Labels(self.schema, values, known)
        return FaceBatches(pictures, labels, batch_size, seed, pad=pad, flip=flip, mirrored=self._middles)

    @property
    def _middles(self) -> dict[str, float]:
        """The mean of each mirrored attribute that the train split knows."""
        _, values, known = self.labelled("train")
        columns = {name: self.schema.index(name) for name in self.mirrored if name in self.schema.names}
        return {name: float(values[known[:, k], k].mean()) for name, k in columns.items() if known[:, k].any()}
