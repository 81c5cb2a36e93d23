"""Pairs of latents and labels of their pictures, on disk and in memory."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..artifacts import digest, read_json
from ..cache import Cache, is_whole
from ..errors import LaceError
from ..generators import Generator
from ..labelers import Labeler
from ..pictures.convert import from_bytes
from ..schema import Labels, Schema
from ..seeds import Streams, sample_seeds, uniform
from ..source import code_of, identity_of
from .batches import TensorBatches, batch_size_of_steps
from .processes import note_found, say
from .resumable_arrays import META, blocks_of, fill, is_filled, open_rows, rows_done

# Fewer labels than this may be of one class by chance.
FEW = 50
# So many pictures are labelled in pairs too.
APART = 8
# Pictures of up to so many bytes are stored even where no classifier needs them.
SMALL = 2**32
# Pairs whose features are computed together.
FEATURES = 500


class Latents(Protocol):
    """Interface of sources of latents of pairs: (count, first) -> z (count, Dz) of rows first .. first + count - 1.

    Example:
        >>> class Zeros:
        ...     digest = "zeros"
        ...
        ...     def __call__(self, count, first):
        ...         return torch.zeros(count, 4)
        >>> latents: Latents = Zeros()
        >>> tuple(latents(3, 0).shape)
        (3, 4)
    """

    @property
    def digest(self) -> str:
        """Digest of everything besides generator and seed that the latents depend on."""
        ...

    def __call__(self, count: int, first: int) -> Tensor:
        """Return the latents (count, Dz) of rows first .. first + count - 1."""
        ...


def pairs_identity(
    generator: Generator, labeler: Labeler, count: int, seed: int, latents: Latents | None = None, pictures: bool = True
) -> dict[str, Any]:
    """Return everything that pairs depend on: all arguments of `make_pairs` but batch size and progress.

    Args:
        generator: the generator of their pictures.
        labeler: the labeler of their pictures.
        count: number of pairs, at least 1.
        seed: seed of the latents.
        latents: source of the latents; None for the prior.
        pictures: whether pictures are stored.

    Returns:
        Plain values.
    """
    source = None if latents is None else {"digest": latents.digest, "code": code_of(type(latents))}
    return {
        "generator": identity_of(generator),
        "labeler": identity_of(labeler),
        "count": count,
        "seed": seed,
        "latents": source,
        "pictures": pictures,
        "recipe": 2,
    }


def keep_pictures(choice: bool | str, generator: Generator, count: int, space: str) -> bool:
    """Return whether pairs store their pictures.

    Args:
        choice: true, false, or "auto" for pictures where `space` is x or all of them have at most 4 GiB.
        generator: the generator of the pictures.
        count: number of pairs, at least 1.
        space: inputs of the classifier: z, w, or x for pictures.

    Returns:
        Whether pictures are stored.

    Raises:
        LaceError: when the choice is another, or false where pictures are needed.
    """
    if choice not in (True, False, "auto"):
        raise LaceError(f"pairs.pictures must be auto, true or false, received '{choice}': set it to auto.")
    if choice is False and space == "x":
        raise LaceError(
            "A classifier of pictures (classifier.space=x) needs those of the pairs, and pairs.pictures is false: "
            "set pairs.pictures=auto."
        )
    return bool(choice) if choice != "auto" else space == "x" or count * math.prod(generator.image_shape) <= SMALL


def check_values(schema: Schema, logits: Tensor) -> None:
    """Refuse continuous answers of a labeler that are no values from 0 to 1; a network may miss the ends by a little.

    Args:
        schema: the labeler's schema.
        logits: its answers (B, L), NaN where it does not know.

    Raises:
        LaceError: for infinite answers, and where more than a tenth are below -0.5 or above 1.5.
    """
    for attribute in schema:
        values = logits[:, schema.slices[attribute.name]]
        if values.isinf().any():
            raise LaceError(
                f"Answers of a labeler must be finite, and {int(values.isinf().any(1).sum())} of {len(values)} for "
                f"'{attribute.name}' are infinite: return NaN where the label is not known."
            )
        if attribute.kind == "continuous" and ((values < -0.5) | (values > 1.5)).double().mean() > 0.1:
            known = values[~values.isnan()]
            raise LaceError(
                f"Values of '{attribute.name}' must lie in [0, 1], and the labeler gives {float(known.min()):g} to "
                f"{float(known.max()):g}: scale them."
            )


def check_apart(labeler: Labeler, images: Tensor, logits: Tensor) -> None:
    """Refuse a labeler whose answer for a picture depends on the other pictures of its batch.

    Args:
        labeler: the labeler.
        images: pictures (B, C, H, W) in [-1, 1].
        logits: its answers (B, L) for these pictures in a larger batch.

    Raises:
        LaceError: when an answer is another one in batches of two, by more than rounding explains.
    """
    apart = torch.cat([labeler(two) for two in images.split(2)])
    for attribute in labeler.schema:
        columns = labeler.schema.slices[attribute.name]
        moved = (apart[:, columns] - logits[:, columns]).abs().nan_to_num(0, posinf=0).max()
        # Half precision moves logits by less than 1, and values by less than 0.1.
        if float(moved) > (1.0 if attribute.kind == "discrete" else 0.1):
            raise LaceError(
                f"The label of a picture must depend on that picture alone, and the labeler's answer for "
                f"'{attribute.name}' differs by {float(moved):.2g} without the other pictures of its batch: let it "
                "compare a picture with fixed numbers, not with the mean of its batch."
            )


def check_labels(labels: Labels) -> None:
    """Refuse labels that say nothing of an attribute, and warn of classes that no pair has.

    Args:
        labels: labels (N, K) of all pairs.

    Raises:
        LaceError: where all of at least 50 known labels of an attribute are one.
    """
    for index, attribute in enumerate(labels.schema):
        values = labels.values[labels.known[:, index], index]
        if len(values) < FEW:
            continue
        is_discrete = attribute.kind == "discrete"
        if bool((values == values[0]).all()):
            label = attribute.class_name(int(values[0])) if is_discrete else f"{float(values[0]):g}"
            raise LaceError(
                f"Pairs need at least two different labels of '{attribute.name}', and all {len(values)} are {label}: "
                "check the labeler and the range of the pictures that it expects, or leave the attribute out."
            )
        if is_discrete:
            counts = torch.bincount(values.long(), minlength=attribute.num_classes)
            missing = [attribute.class_name(number) for number in (counts == 0).nonzero()[:, 0].tolist()]
            if missing:
                warnings.warn(
                    f"None of {len(values)} pairs has the label {', '.join(missing[:10])} of '{attribute.name}': a "
                    "classifier cannot learn it, and figures of it mean nothing. Make more pairs.",
                    stacklevel=2,
                )


class PairSet:
    """Pairs in a folder, memory-mapped: latents, labels, and where they are stored logits and pictures.

    The arrays are z (N, Dz), w (N, Dw), logits (N, L) of the labeler, labels (N, K), its decisions with NaN where it
    abstained, and images (N, C, H, W) uint8. N is `done`, the number of rows on disk. Pairs of other programs have
    fewer `arrays`; w and labels are always there.

    Args:
        folder: where `make_pairs` or `given_pairs` wrote them.

    Raises:
        LaceError: when the folder has no pairs; when an array is asked for that they lack, or that is damaged.

    Example:
        >>> import tempfile
        >>> from lace_lightning.schema import Attribute
        >>> schema = Schema("given", (Attribute("hat"),)).to_config()
        >>> meta = {"key": "a", "count": 3, "seed": 0, "schema": schema, "arrays": ["w", "labels"]}
        >>> rows = lambda count, first: {name: torch.ones(count, 1) for name in meta["arrays"]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pairs = PairSet(fill(folder, meta, {"w": (1,), "labels": (1,)}, rows, 3, "pairs", progress=False))
        ...     len(pairs), pairs.complete, tuple(pairs.latents("w").shape)
        (3, True, (3, 1))
    """

    NAMES = ("z", "w", "logits", "labels", "images")

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not is_whole(self.folder / META):
            raise LaceError(f"Pairs were required in '{self.folder}', and its {META} is missing or damaged.")
        self.meta: dict[str, Any] = read_json(self.folder / META)
        self.schema = Schema.from_config(self.meta["schema"])
        self.seed, self.done = int(self.meta["seed"]), rows_done(blocks_of(self.folder))
        self.arrays: tuple[str, ...] = tuple(self.meta.get("arrays", self.NAMES))

    def __len__(self) -> int:
        return self.done

    @property
    def complete(self) -> bool:
        """Whether all rows are on disk."""
        return bool(self.done == self.meta["count"])

    def array(self, name: str) -> Tensor:
        """Return the rows of one array that are on disk, memory-mapped.

        Args:
            name: one of z, w, logits, labels, images.

        Returns:
            A tensor (N, ...); images are uint8, others float32.

        Raises:
            LaceError: when these pairs lack the array.
        """
        if name not in self.arrays:
            fixes = {
                "z": "classifier.space=w",
                "images": "classifier.space=w, or make pairs with pairs.pictures=true",
                "logits": "classifier.soft_labels=false",
            }
            raise LaceError(
                f"The pairs in '{self.folder}' have {', '.join(self.arrays)}, and {name} was asked for: set "
                f"{fixes.get(name, 'another name')}."
            )
        return torch.from_numpy(open_rows(self.folder, name))

    def labels(self) -> Labels:
        """Return the decided labels (N, K); those that the labeler abstained from are not known."""
        values = self.array("labels")
        return Labels(self.schema, values.nan_to_num(0.0), ~values.isnan())

    def latents(self, space: str) -> Tensor:
        """Return the inputs of a classifier.

        Args:
            space: z, w, or x for pictures.

        Returns:
            z (N, Dz), w (N, Dw) or pictures (N, C, H, W) uint8.

        Raises:
            LaceError: when these pairs lack them.
        """
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
    """Draw latents, generate, label and store pairs; continue where an earlier call was killed.

    Row i depends on `seed` and i alone. Rows count as done only after they are on disk.

    Args:
        folder: where the pairs are stored.
        generator: (count, first) -> pictures, through its prior, mapping and synthesis.
        labeler: the labeler of the pictures, which it sees after they are rounded to 8 bits.
        count: number of pairs, at least 1.
        seed: seed of the prior.
        batch_size: pairs that are made together, at least 1.
        progress: whether a progress bar is shown.
        latents: source of the latents; None for the prior.
        pictures: whether pictures are stored.

    Returns:
        The pairs.

    Raises:
        LaceError: when the folder holds pairs of something else, or cannot be written.
    """
    shapes = {
        "z": (generator.z_dim,),
        "w": (generator.w_dim,),
        "logits": (labeler.schema.num_logits,),
        "labels": (len(labeler.schema),),
        **({"images": generator.image_shape} if pictures else {}),
    }
    meta: dict[str, Any] = {
        "key": digest(pairs_identity(generator, labeler, count, seed, latents, pictures)),
        "count": count,
        "seed": seed,
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
            check_values(labeler.schema, answers[-1])
            if first == 0 and len(answers) == 1:
                check_apart(labeler, from_bytes(images[:APART]), answers[-1][:APART])
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


def cached_pairs(
    cache: Cache,
    generator: Generator,
    labeler: Labeler,
    count: int,
    seed: int = 0,
    batch_size: int = 500,
    progress: bool = True,
    latents: Latents | None = None,
    pictures: bool = True,
) -> PairSet:
    """Return pairs of the cache, and make what is missing of them; of several processes one does, the others wait.

    Args:
        cache: the cache.
        generator: the generator of their pictures.
        labeler: the labeler of their pictures.
        count: number of pairs, at least 1.
        seed: seed of the latents.
        batch_size: pairs that are made together, at least 1.
        progress: whether a progress bar is shown.
        latents: source of the latents; None for the prior.
        pictures: whether pictures are stored.

    Returns:
        The pairs, complete.

    Raises:
        LaceError: when they cannot be made or written.
    """
    entry = cache.entry("pairs", pairs_identity(generator, labeler, count, seed, latents, pictures))
    title = "pairs" if latents is None else "more pairs"
    if is_filled(entry.folder):
        note_found(f"{count} {title} {entry.key}")
    else:
        say(f"making {count} {title} {entry.key}", entry.why())
        entry.describe()
    return make_pairs(entry.folder, generator, labeler, count, seed, batch_size, progress, latents, pictures)


def split_rows(count: int, seed: int, val: float, test: float) -> dict[str, Tensor]:
    """Return which samples are in which split; that follows from the seed of a sample alone.

    Args:
        count: number of samples, at least 0.
        seed: seed of the run.
        val: share of validation, from 0 to 1.
        test: share of test, from 0 to 1 - `val`.

    Returns:
        `val`, `test` and `train`, each (count,) bool.

    Example:
        >>> parts = split_rows(1000, 0, 0.1, 0.1)
        >>> bool((sum(part.int() for part in parts.values()) == 1).all())
        True
    """
    lot = uniform(sample_seeds(count, seed), (1,), stream=Streams.SPLIT)[:, 0]
    return {"val": lot < val, "test": (lot >= val) & (lot < val + test), "train": lot >= val + test}


def _why_unknown(pairs: PairSet, name: str) -> str:
    """Return why an attribute of pairs has no labels, and what to do."""
    if "logits" not in pairs.arrays:
        return ": fill in its labels in the table of the pairs"
    if pairs.array("logits")[:, pairs.schema.slices[name]].isnan().any(1).all():
        return " (its answers are NaN): correct the labeler's function or network"
    return " (its probabilities are below its confidence): lower labeler.confidence"


class LatentPairsDataModule(pl.LightningDataModule):
    """Batches (u, target, known) of pairs from memory; the split of a pair follows from its seed.

    u (B, ...) is z, w or the picture (uint8). The target holds decided labels (B, K), or logits of the labeler (B, L).
    known (B, K) bool says which attributes the labeler decided.

    Args:
        pairs: the pairs.
        space: inputs of the classifier: z, w, x for pictures, or features.
        batch_size: pairs of a train batch, at least 1.
        soft: whether targets are the labeler's logits, for learning from its probabilities.
        fractions: shares of validation and test, each from 0 to 1.
        seed: seed of the order, at least 0.
        schema: a part of the pairs' attributes; None for all.
        more: further pairs, all of them for training; None for none.
        generator: the generator of the pairs, of which features are computed; None for other spaces.

    Raises:
        LaceError: when the labeler decided an attribute for none of the train pairs.

    Example:
        >>> issubclass(LatentPairsDataModule, pl.LightningDataModule)
        True
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
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.pairs, self.more, self.generator = pairs, more, generator
        self.space, self.batch_size, self.soft, self.seed = space, batch_size, soft, seed
        self.fractions, self.schema = (float(fractions[0]), float(fractions[1])), schema or pairs.schema
        self.parts: dict[str, tuple[Tensor, ...]] = {}

    @property
    def key(self) -> str:
        """Digest of everything that the pairs depend on."""
        return self.pairs.meta["key"] if self.more is None else f"{self.pairs.meta['key']}-{self.more.meta['key']}"

    def setup(self, stage: str | None = None) -> None:
        """Read the pairs and split them.

        Args:
            stage: Lightning's name of the stage, which changes nothing.
        """
        if self.parts:
            return
        check_labels(self.pairs.labels().part(self.schema))
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
                    f"{len(known)} pictures{_why_unknown(self.pairs, name)}, or leave it out of "
                    "classifier.attributes."
                )

    def ensure_steps(self, epochs: int, min_steps: int) -> None:
        """Make the batches smaller where the train pairs are too few for a number of steps.

        Args:
            epochs: number of epochs of the training; a training without end (-1) has enough steps.
            min_steps: number of steps, at least 0; 0 for any.
        """
        self.setup()
        count, asked = len(self.parts["train"][0]), self.batch_size
        if epochs < 1 or not count:
            return
        self.batch_size = batch_size_of_steps(count, asked, epochs, min_steps)
        if self.batch_size != asked:
            say(f"batches of {self.batch_size} in place of {asked}, for more steps: the train pairs are {count}")

    @property
    def columns(self) -> list[int]:
        """Columns of the attributes in the targets of the pairs: logits where they are soft, else decisions."""
        whole = self.pairs.schema
        return (
            [c for name in self.schema.names for c in range(whole.num_logits)[whole.slices[name]]]
            if self.soft
            else [whole.index(name) for name in self.schema.names]
        )

    def _tensors(self, pairs: PairSet) -> tuple[Tensor, Tensor, Tensor]:
        target = pairs.array("logits" if self.soft else "labels")[:, self.columns]
        known = pairs.labels().known[:, [pairs.schema.index(name) for name in self.schema.names]]
        return self._inputs(pairs), target.nan_to_num(0.0), known

    @torch.no_grad()
    def _inputs(self, pairs: PairSet) -> Tensor:
        """Return the inputs of the classifier; features are computed from w, since they can be large."""
        if self.space != "features":
            return pairs.latents(self.space).clone()
        if self.generator is None:
            raise LaceError("Features are computed by the generator of the pairs, received none: give the generator.")
        device = self.generator.device
        parts = pairs.latents("w").split(FEATURES)
        return torch.cat([self.generator.features_of(part.to(device)).cpu() for part in parts])

    def train_dataloader(self) -> TensorBatches:
        """Return shuffled batches of the train pairs."""
        return TensorBatches(self.parts["train"], self.batch_size, self.seed).within(self.trainer)

    # Small enough for every process to evaluate all of it.
    def val_dataloader(self) -> TensorBatches:
        """Return the validation pairs in order."""
        return TensorBatches(self.parts["val"], 4096)

    def test_dataloader(self) -> TensorBatches:
        """Return the test pairs in order."""
        return TensorBatches(self.parts["test"], 4096)
