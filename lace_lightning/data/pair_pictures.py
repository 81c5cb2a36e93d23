"""Pictures of pairs that have none: synthesised once, for training image networks on a generator's faces."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..artifacts import Cache, digest
from ..errors import LaceError
from ..generators import Generator
from ..schema import Labels, Schema
from .cifar10 import strided_rows
from .faces import MIRRORED, Faces, FacesDataModule
from .pairs import split_rows
from .resumable_arrays import IMAGES, fill


class LabelledLatents(Protocol):
    """What a `PairSet` gives of pairs: latents w (N, Dw) and labels with what is known of them.

    `meta` has their `key`.
    """

    schema: Schema
    meta: dict[str, Any]

    def array(self, name: str) -> Tensor: ...

    def labels(self) -> Labels: ...

    def __len__(self) -> int: ...


class PairPicturesDataModule(FacesDataModule):
    """The pictures that `generator` makes of the w of `pairs`, at `resolution` (never above the generator's) with the
    labels of the pairs.

    `pairs` may be a function of the generator that gives them. Pictures are synthesised once, `synthesis_batch_size` at
    a time, averaged over the area of a pixel and kept in the cache. `fractions` are the shares of validation and test;
    as in `LatentPairsDataModule` the split of a pair follows from its seed. `limit` takes about so many pairs. See
    `FacesDataModule` for the rest. Raises LaceError for pairs with latents of another size than the generator's, and
    for a split without pairs.
    """

    def __init__(
        self,
        pairs: LabelledLatents | Callable[[Generator], LabelledLatents],
        generator: Generator,
        resolution: int = 128,
        cache: str | os.PathLike[str] = "~/.cache/lace_lightning",
        fractions: Sequence[float] = (0.05, 0.1),
        mirrored: Sequence[str] = MIRRORED,
        limit: int | None = None,
        synthesis_batch_size: int = 32,
        progress: bool = True,
        **options: Any,
    ) -> None:
        self.pairs = pairs(generator) if callable(pairs) else pairs
        super().__init__(self.pairs.schema, mirrored=mirrored, **options)
        width = self.pairs.array("w").shape[1:]
        if tuple(width) != (generator.w_dim,):
            raise LaceError(
                f"The pairs must have latents w of the generator's {generator.w_dim} numbers, received {tuple(width)}: "
                f"give "
                "the generator that they belong to."
            )
        self.generator, self.cache, self.limit, self.progress = generator, cache, limit, progress
        self.resolution = min(resolution, *generator.image_shape[1:])
        self.fractions, self.synthesis_batch_size = tuple(map(float, fractions)), synthesis_batch_size

    @cached_property
    def rows(self) -> Tensor:
        """Which pairs are used (M,)."""
        return strided_rows(len(self.pairs), self.limit) if self.limit else torch.arange(len(self.pairs))

    def load(self) -> dict[str, Faces]:
        chosen = split_rows(len(self.pairs), int(self.pairs.meta.get("seed", 0)), *self.fractions)
        parts = {split: chosen[split][self.rows] for split in ("train", "val", "test")}
        for split, part in parts.items():
            if not part.any():
                raise LaceError(
                    f"The {split} split must have pairs, and of {len(part)} none is in it: set "
                    f"dataset.module.fractions or "
                    "dataset.module.limit higher."
                )
        pictures, (labels, known) = self._pictures(), self.chosen(self.pairs.labels()[self.rows])
        return {split: (pictures[part], labels[part], known[part]) for split, part in parts.items()}

    @property
    def source(self) -> dict[str, Any]:
        """What the train pictures depend on, and their shape."""
        return {
            "split": "train",
            "pairs": self.pairs.meta["key"],
            "generator": self.generator.digest,
            "count": len(self.pairs),
            "limit": self.limit,
            "fractions": list(self.fractions),
            "resize": f"area to {self.resolution}x{self.resolution}",
            "shape": [self.generator.image_shape[0], self.resolution, self.resolution],
        }

    def _pictures(self) -> Tensor:
        """Return the pictures (M, C, R, R) uint8, memory-mapped, after making what is not in the cache."""
        key = digest({name: value for name, value in self.source.items() if name not in ("split", "fractions")})
        w = self.pairs.array("w")[self.rows]
        generator = self.generator.to(self.trainer.strategy.root_device if self.trainer else self.generator.device)

        def make(count: int, first: int) -> dict[str, Tensor]:
            return {
                IMAGES: torch.cat(
                    [
                        F.interpolate(part.float(), (self.resolution, self.resolution), mode="area")
                        .round()
                        .byte()
                        .cpu()
                        for part in generator.parts(w[first : first + count].to(generator.device))
                    ]
                )
            }

        shapes = {IMAGES: tuple(self.source["shape"])}
        folder = fill(
            Cache(self.cache).folder("pair_pictures", key),
            {"key": key, "count": len(w)},
            shapes,
            make,
            self.synthesis_batch_size,
            "pictures of pairs",
            self.progress,
        )
        return torch.from_numpy(np.load(folder / f"{IMAGES}.npy", mmap_mode="c"))
