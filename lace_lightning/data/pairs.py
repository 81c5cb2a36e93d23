"""Latents with the labels of the pictures that they become, on disk and in memory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ..artifacts import digest, read_json
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..pictures.convert import from_bytes
from ..schema import Labels, Schema
from ..seeds import Streams, sample_seeds, uniform
from .batches import TensorBatches
from .resumable_arrays import fill

# Bytes of pictures that are stored whether anything needs them or not.
SMALL = 2**32


class Latents(Protocol):
    """Where the latents of pairs come from: (count, first) -> z (count, Dz) of rows first .. first + count - 1."""

    @property
    def digest(self) -> str:
        """Return the digest of what they depend on beside generator and seed."""
        ...

    def __call__(self, count: int, first: int) -> Tensor: ...


def pairs_key(
    generator: Generator, labeler: Labeler, count: int, seed: int, latents: Latents | None = None, pictures: bool = True
) -> str:
    """Return the digest of everything that pairs depend on; `latents` is None for the prior."""
    drawn = {} if latents is None else {"source": latents.digest}
    stored = {} if pictures else {"pictures": False}
    return digest(
        {
            "generator": generator.digest,
            "labeler": labeler.digest,
            "count": count,
            "seed": seed,
            "format": 1,
            **drawn,
            **stored,
        }
    )


def keep_pictures(choice: bool | str, generator: Generator, count: int, space: str) -> bool:
    """Return whether pairs store their pictures: `choice` (true, false), or for "auto" where a classifier of `space`
    sees them, or all of them are at most 4 GiB. Raises LaceError for another choice, and for false where they are
    needed.
    """
    if choice not in (True, False, "auto"):
        raise LaceError(f"task.pairs_pictures must be auto, true or false, received '{choice}'.")
    if choice is False and space == "x":
        raise LaceError(
            "A classifier of pictures (classifier.space=x) needs those of the pairs, and task.pairs_pictures is false: "
            "set "
            "task.pairs_pictures=auto."
        )
    return bool(choice) if choice != "auto" else space == "x" or count * math.prod(generator.image_shape) <= SMALL


class PairSet:
    """Pairs in a folder: memory-mapped z (N, Dz), w (N, Dw), logits (N, L), labels (N, K) and, where they are stored,
    images (N, C, H, W) uint8.

    `done` rows are written; soft labels are the softmax of the logits, `labels` the decisions, NaN on disk where the
    labeler abstained. Pairs that others made have fewer `arrays`; w and labels are always there.
    """

    NAMES = ("z", "w", "logits", "labels", "images")

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.meta: dict[str, Any] = read_json(self.folder / "meta.json")
        self.schema = Schema.from_config(self.meta["schema"])
        self.seed, self.done = int(self.meta["seed"]), int(self.meta["done"])
        self.arrays: tuple[str, ...] = tuple(self.meta.get("arrays", self.NAMES))

    def __len__(self) -> int:
        return self.done

    @property
    def complete(self) -> bool:
        return self.done == self.meta["count"]

    def array(self, name: str) -> Tensor:
        """Return the written rows of one of z, w, logits, labels, images, memory-mapped. Raises LaceError for what
        these pairs lack.
        """
        if name not in self.arrays:
            what = {
                "z": "classifier.space=w",
                "images": "classifier.space=w, or make pairs with task.pairs_pictures=true",
                "logits": "classifier.soft_labels=false",
            }
            raise LaceError(
                f"The pairs in '{self.folder}' have {', '.join(self.arrays)}, and {name} was asked for: set "
                f"{what.get(name, 'another name')}."
            )
        return torch.from_numpy(np.load(self.folder / f"{name}.npy", mmap_mode="c")[: self.done])

    def labels(self) -> Labels:
        """Return the hard labels; what the labeler abstained from is not known."""
        values = self.array("labels")
        return Labels(self.schema, values.nan_to_num(0.0), ~values.isnan())

    def latents(self, space: str) -> Tensor:
        """Return what a classifier of `space` sees: z, w, or pictures in [-1, 1] as uint8."""
        return self.array({"x": "images"}.get(space, space))


@torch.no_grad()
def make_pairs(
    folder: str | os.PathLike[str],
    generator: Generator,
    labeler: Labeler,
    count: int,
    seed: int = 0,
    batch_size: int = 500,
    progress: bool = True,
    latents: Latents | None = None,
    pictures: bool = True,
) -> PairSet:
    """Draw `count` latents, generate, label and store, with or without the pictures; go on where a killed run stopped.

    Row i depends on `seed` and i alone. Rows count as done only after they are on disk. Latents come from the prior, or
    from `latents`. Raises LaceError when the folder holds pairs of something else.
    """
    shapes = {
        "z": (generator.z_dim,),
        "w": (generator.w_dim,),
        "logits": (labeler.schema.num_logits,),
        "labels": (len(labeler.schema),),
        **({"images": generator.image_shape} if pictures else {}),
    }
    meta: dict[str, Any] = {
        "key": pairs_key(generator, labeler, count, seed, latents, pictures),
        "count": count,
        "seed": seed,
        "done": 0,
        "generator": generator.digest,
        "labeler": labeler.digest,
        "schema": labeler.schema.to_config(),
        "arrays": list(shapes),
    }
    draw = latents or (lambda rows, first: generator.prior(rows, seed, first, generator.device))

    def make(rows: int, first: int) -> dict[str, Tensor]:
        z = draw(rows, first)
        w = generator.mapping(z)
        answers, kept = [], []
        for images in generator.parts(w):
            # The labeler sees the stored picture, rounding included.
            answers.append(labeler(from_bytes(images)))
            if pictures:
                kept.append(images.cpu())
        logits = torch.cat(answers)
        decided = labeler.decide(logits)
        return {
            "z": z,
            "w": w,
            "logits": logits,
            "labels": decided.values.masked_fill(~decided.known, torch.nan),
            **({"images": torch.cat(kept)} if pictures else {}),
        }

    return PairSet(
        fill(
            folder, meta, shapes, make, batch_size, "latent/label pairs" if latents is None else "more pairs", progress
        )
    )


def split_rows(count: int, seed: int, val: float, test: float) -> dict[str, Tensor]:
    """Return which of `count` samples of run seed `seed` are in val, test and train (count,) bool: that follows from a
    sample's seed.
    """
    lot = uniform(sample_seeds(count, seed), (1,), stream=Streams.SPLIT)[:, 0]
    return {"val": lot < val, "test": (lot >= val) & (lot < val + test), "train": lot >= val + test}


class LatentPairsDataModule(pl.LightningDataModule):
    """Serve pairs (u, target, known) from memory; the split of a pair follows from its seed.

    u is z, w or the picture (uint8); the target holds decided labels (B, K) or, with `soft`, logits of the labeler (B,
    L), of all attributes or of `schema`, a part of them; `known` (B, K) bool says which attributes the labeler decided.
    `fractions` are the shares of validation and test; pairs of `more` are all for training. Raises LaceError for an
    attribute that the labeler never decided.
    """

    def __init__(
        self,
        pairs: PairSet,
        space: str = "w",
        batch_size: int = 512,
        soft: bool = False,
        fractions: tuple[float, float] = (0.02, 0.02),
        seed: int = 0,
        schema: Schema | None = None,
        more: PairSet | None = None,
    ) -> None:
        super().__init__()
        self.pairs, self.more = pairs, more
        self.space, self.batch_size, self.soft, self.seed = space, batch_size, soft, seed
        self.fractions, self.schema = (float(fractions[0]), float(fractions[1])), schema or pairs.schema
        self.parts: dict[str, tuple[Tensor, ...]] = {}

    @property
    def key(self) -> str:
        """Return what the pairs depend on."""
        return self.pairs.meta["key"] if self.more is None else f"{self.pairs.meta['key']}-{self.more.meta['key']}"

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        tensors = self._tensors(self.pairs)
        chosen = split_rows(len(self.pairs), self.pairs.seed, *self.fractions)
        self.parts = {name: tuple(tensor[rows] for tensor in tensors) for name, rows in chosen.items()}
        if self.more is not None:
            self.parts["train"] = tuple(map(torch.cat, zip(self.parts["train"], self._tensors(self.more), strict=True)))
        known = self.parts["train"][2]
        for index, name in enumerate(self.schema.names):
            if len(known) and not known[:, index].any():
                raise LaceError(
                    f"Training needs labels of every attribute, and the labeler decided '{name}' for none of "
                    f"{len(known)} "
                    "pictures: lower labeler.confidence or leave it out of classifier.attributes."
                )

    @property
    def columns(self) -> list[int]:
        """Where the attributes are in the labeler's logits, or in its decisions."""
        whole = self.pairs.schema
        return (
            [c for name in self.schema.names for c in range(whole.num_logits)[whole.slices[name]]]
            if self.soft
            else [whole.index(name) for name in self.schema.names]
        )

    def _tensors(self, pairs: PairSet) -> tuple[Tensor, Tensor, Tensor]:
        target = pairs.array("logits" if self.soft else "labels")[:, self.columns]
        known = pairs.labels().known[:, [pairs.schema.index(name) for name in self.schema.names]]
        return pairs.latents(self.space).clone(), target.nan_to_num(0.0), known

    def train_dataloader(self) -> TensorBatches:
        return TensorBatches(self.parts["train"], self.batch_size, self.seed).within(self.trainer)

    # Small enough for every process to evaluate all of it.
    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(self.parts["val"], 4096)

    def test_dataloader(self) -> TensorBatches:
        return TensorBatches(self.parts["test"], 4096)
