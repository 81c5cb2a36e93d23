"""Pictures of pairs that have none: synthesised once, for training image networks on a generator's faces."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache import Cache
from ..errors import LaceError
from ..generators import Generator
from ..schema import Labels, Schema
from .batches import strided_rows
from .faces import MIRRORED, FacesDataModule
from .pairs import split_rows
from .picture_data import Split
from .resumable_arrays import IMAGES, fill, open_rows


class LabelledLatents(Protocol):
    """Interface of labelled latents, as of a `PairSet`: w (N, Dw), labels, and `meta` with the pairs' `key`.

    Example:
        >>> from lace_lightning.schema import Attribute
        >>> class Hats:
        ...     schema, meta = Schema("s", (Attribute("hat"),)), {"key": "a", "seed": 0}
        ...
        ...     def array(self, name):
        ...         return torch.zeros(5, 4)
        ...
        ...     def labels(self):
        ...         return Labels.constant(self.schema, 5, hat=1.0)
        ...
        ...     def __len__(self):
        ...         return 5
        >>> pairs: LabelledLatents = Hats()
        >>> len(pairs.labels()) == len(pairs) == len(pairs.array("w"))
        True
    """

    schema: Schema
    meta: dict[str, Any]

    def array(self, name: str) -> Tensor:
        """Return the array of this name; `w` is (N, Dw)."""
        ...

    def labels(self) -> Labels:
        """Return the labels (N, K)."""
        ...

    def __len__(self) -> int: ...


class PairPicturesDataModule(FacesDataModule):
    """Pictures that a generator makes of labelled latents, synthesised once and kept in the cache.

    Pictures are averaged over the area of a pixel. The split of a pair follows from its seed, as in
    `LatentPairsDataModule`.

    Args:
        pairs: labelled latents w, or a function of the generator that returns them.
        generator: the generator that the latents belong to.
        resolution: side of the pictures in pixels, at least 1; never above the generator's.
        cache: folder of the cache, in which the pictures are kept.
        fractions: shares of validation and test, each from 0 to 1.
        mirrored: continuous attributes that a mirror turns round, to as far on the other side of their mean.
        limit: take about this many pairs, at least 1; null for all.
        synthesis_batch_size: pictures that are synthesised together, at least 1.
        progress: whether a progress bar is shown while pictures are synthesised.
        attributes: names of the attributes that are used; null for all.
        batch_size: pictures of a train batch, at least 1.
        test_batch_size: pictures of a validation or test batch, at least 1.
        seed: seed of the order and the augmentation of train pictures, at least 0.
        flip: whether train pictures are mirrored with probability 1/2.
        pad: largest shift of train pictures in pixels, from 0 to `resolution` - 1.
        options: the further arguments of `FacesDataModule`, from `attributes` to `pad` of this list.

    Raises:
        LaceError: when the latents have another width than the generator's w, a size is out of range or an attribute is
            unknown; when the pictures are asked for and a split has no pairs.

    Example:
        >>> issubclass(PairPicturesDataModule, FacesDataModule)
        True
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
                "give the generator that they belong to."
            )
        self.generator, self.cache, self.limit, self.progress = generator, cache, limit, progress
        self.resolution = min(resolution, *generator.image_shape[1:])
        self.fractions, self.synthesis_batch_size = tuple(map(float, fractions)), synthesis_batch_size

    @cached_property
    def rows(self) -> Tensor:
        """Rows (M,) int64 of the pairs that are used."""
        return strided_rows(len(self.pairs), self.limit) if self.limit else torch.arange(len(self.pairs))

    def load(self) -> dict[str, Split]:
        """Return the splits `train`, `val` and `test`; synthesise the pictures that are not in the cache."""
        chosen = split_rows(len(self.pairs), int(self.pairs.meta.get("seed", 0)), *self.fractions)
        parts = {split: chosen[split][self.rows] for split in ("train", "val", "test")}
        for split, part in parts.items():
            if not part.any():
                raise LaceError(
                    f"The {split} split must have pairs, and of {len(part)} none is in it: set "
                    "dataset.module.fractions or dataset.module.limit higher."
                )
        pictures, (labels, known) = self._pictures(), self.chosen(self.pairs.labels()[self.rows])
        return {split: (pictures[part], labels[part], known[part]) for split, part in parts.items()}

    @property
    def source(self) -> dict[str, Any]:
        """Plain values that the train pictures depend on, and their "shape"."""
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
        identity = {name: value for name, value in self.source.items() if name not in ("split", "fractions")}
        entry = Cache(self.cache).entry("pair_pictures", identity)
        entry.describe()
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
            entry.folder,
            {"key": entry.key, "count": len(w)},
            shapes,
            make,
            self.synthesis_batch_size,
            "pictures of pairs",
            self.progress,
        )
        return torch.from_numpy(open_rows(folder, IMAGES))
