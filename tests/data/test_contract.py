"""The contract of `PictureData`, for every data set that there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lace_lightning.data import (
    CelebADataModule,
    CIFAR10DataModule,
    DigitsDataModule,
    EpochBatches,
    FacesDataModule,
    FolderDataModule,
    GeneratedPicturesDataModule,
    PairPicturesDataModule,
    PeopleDataModule,
    PictureData,
    PortraitsDataModule,
    cifar10,
    digits,
)
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Schema
from tests.data.test_celeba import _write
from tests.data.test_cifar10 import _archive
from tests.data.test_pair_pictures import Pairs

BATCH = 4


class Shades(PictureData):
    """A data set as a user writes it: a schema and load()."""

    schema = Schema("shades", (Attribute("bright"), Attribute("shade", "continuous")))

    def load(self) -> dict[str, tuple[Tensor, ...]]:
        shades = torch.arange(40)
        pictures = shades.byte()[:, None, None, None].expand(40, 3, 8, 8)
        labels = torch.stack([shades >= 20, shades / 39], dim=1)
        return {"train": (pictures[::2], labels[::2]), "test": (pictures[1::2], labels[1::2])}


def _folder(path: Path, options: dict[str, Any]) -> FolderDataModule:
    for number, picture in enumerate(np.random.default_rng(0).integers(0, 256, (18, 8, 8, 3))):
        Image.fromarray(picture.astype(np.uint8)).save(path / f"{number:02}.png")
    return FolderDataModule(str(path), batch_size=BATCH, **options)


def _celeba(path: Path, options: dict[str, Any]) -> CelebADataModule:
    _write(path / "celeba")
    return CelebADataModule(
        path / "celeba", 8, str(path / "cache"), progress=False, batch_size=BATCH, flip=False, **options
    )


def _cifar10(path: Path, options: dict[str, Any]) -> CIFAR10DataModule:
    names = [f"{name}/{number}.png" for name in cifar10.CLASSES for number in (0, 1)]
    for split in ("train", "test"):
        _archive(path / f"cifar10-{split}.zip", names)
    changes = {"pad": 0, "flip": False, "cutout": 0}
    return CIFAR10DataModule(str(path), str(path / "cache"), batch_size=BATCH, **changes, **options)


def _few_digits(root: str, split: str) -> tuple[Tensor, Tensor]:
    count = {"train": 26, "test": 20}[split]
    pictures = torch.randint(0, 256, (count, 1, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return pictures, torch.arange(count) % 10


Builder = Callable[[Path, Any, dict[str, Any]], PictureData]
# How a small one of each is made, without augmentation; a new data set needs a line here.
BUILDERS: dict[type[PictureData], Builder] = {
    CIFAR10DataModule: lambda path, generator, options: _cifar10(path, options),
    DigitsDataModule: lambda path, generator, options: DigitsDataModule(
        str(path), str(path / "cache"), batch_size=BATCH, pad=0, **options
    ),
    CelebADataModule: lambda path, generator, options: _celeba(path, options),
    FolderDataModule: lambda path, generator, options: _folder(path, options),
    GeneratedPicturesDataModule: lambda path, generator, options: GeneratedPicturesDataModule(
        generator, 10, batch_size=BATCH, **options
    ),
    PairPicturesDataModule: lambda path, generator, options: PairPicturesDataModule(
        Pairs(generator),
        generator,
        4,
        str(path),
        (0.2, 0.3),
        progress=False,
        batch_size=BATCH,
        flip=False,
        **options,
    ),
    PeopleDataModule: lambda path, generator, options: PeopleDataModule(16, 5, 4, 3, BATCH, **options),
    PortraitsDataModule: lambda path, generator, options: PortraitsDataModule(16, 18, 6, BATCH, **options),
    Shades: lambda path, generator, options: Shades(BATCH, **options),
}
TRAINED = [kind for kind in BUILDERS if kind is not GeneratedPicturesDataModule]
# Others draw new pictures in every epoch.
FIXED = [kind for kind in TRAINED if kind not in (PeopleDataModule, PortraitsDataModule)]


def _subclasses(kind: type[PictureData]) -> Iterator[type[PictureData]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(cifar10, "SIZES", {"train": 20, "test": 20})
    monkeypatch.setattr(digits, "load_digits", _few_digits)
    monkeypatch.setattr(digits, "VALIDATION", 6)


@pytest.fixture
def make(tmp_path: Path, tiny_generator) -> Callable[..., PictureData]:
    def build(kind: type[PictureData], **options: Any) -> PictureData:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        path.mkdir()
        return BUILDERS[kind](path, tiny_generator, options)

    return build


def _parts(batch: Any) -> tuple[Tensor, ...]:
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def _joined(loader: EpochBatches, epoch: int = 0) -> Tensor:
    loader.set_epoch(epoch)
    return torch.cat([_parts(batch)[0] for batch in loader])


def _whole(pictures: Any) -> Tensor:
    return pictures if isinstance(pictures, Tensor) else torch.cat(list(pictures))


def _bytes(pictures: Tensor) -> list[bytes]:
    return [picture.numpy().tobytes() for picture in pictures]


def test_every_data_set_is_tested() -> None:
    ours = {kind for kind in _subclasses(PictureData) if kind.__module__.startswith("lace_lightning.")}
    assert ours - {FacesDataModule} <= set(BUILDERS), "give a builder above for every data set"


@pytest.mark.parametrize("kind", BUILDERS)
def test_pictures_and_labels_have_their_shapes_types_and_ranges(kind: type[PictureData], make) -> None:
    data = make(kind)
    data.prepare_data()
    data.setup("fit")
    assert data.at_hand
    for name, (pictures, *rest) in data.splits.items():
        assert name in ("train", "val", "test")
        assert pictures.dtype == torch.uint8
        assert list(pictures.shape[1:]) == data.source["shape"]
        assert bool(rest) == (data.schema is not None)
    if data.schema is None:
        with pytest.raises(LaceError, match=f"data set {kind.__name__} has no labels, and a classifier needs them"):
            data.require_schema()
        return
    for name in data.splits:
        pictures, labels, known = data.labelled(name)
        assert labels.shape == known.shape == (len(pictures), len(data.schema))
        assert labels.dtype == torch.float32
        assert known.dtype == torch.bool
        for column, attribute in enumerate(data.schema):
            values = labels[known[:, column], column]
            high = 1 if attribute.kind == "continuous" else attribute.num_classes - 1
            assert ((values >= 0) & (values <= high)).all()
            assert attribute.kind == "continuous" or torch.equal(values, values.round())
    with pytest.raises(LaceError, match=r"no split 'holdout' \(it has train"):
        data.split("holdout")


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_source_is_plain_and_has_the_shape(kind: type[PictureData], make) -> None:
    data = make(kind)
    source = dict(data.source)
    assert json.loads(json.dumps(source)) == source
    pictures = _whole(data.train_pictures())
    assert source["shape"] == list(pictures.shape[1:])
    assert pictures.dtype == torch.uint8


@pytest.mark.parametrize("kind", BUILDERS)
def test_train_pictures_are_the_train_split(kind: type[PictureData], make) -> None:
    data = make(kind)
    pictures = _whole(data.train_pictures())
    if data.splits:
        assert torch.equal(pictures, data.split("train")[0])
    some = data.some_pictures(3)
    assert 3 <= len(some) < 6 or len(some) == len(pictures)
    # Portraits that are drawn together may differ by a rounding from those that are drawn alone.
    distance = (some[:, None].int() - pictures[None].int()).abs().flatten(2).amax(2)
    assert (distance.amin(1) <= 1).all()


@pytest.mark.parametrize("kind", TRAINED)
def test_batches_are_full_and_have_what_the_splits_have(kind: type[PictureData], make) -> None:
    data = make(kind)
    data.setup("fit")
    batches = [_parts(batch) for batch in data.train_dataloader()]
    assert {len(part) for batch in batches for part in batch} == {BATCH}
    assert batches[0][0].dtype == torch.uint8
    if data.schema is not None:
        assert [part.shape[1] for part in batches[0][1:]] == [len(data.schema)] * (len(data.split("train")) - 1)


@pytest.mark.parametrize("kind", FIXED)
def test_an_epoch_shows_rows_once_in_an_order_of_seed_and_epoch(kind: type[PictureData], make) -> None:
    data = make(kind, seed=3)
    data.setup("fit")
    rows = _bytes(_whole(data.train_pictures()))
    loader = data.train_dataloader()
    shown = [_bytes(_joined(loader, epoch)) for epoch in (0, 1)]
    for epoch in shown:
        # Rows that do not fill a batch are left out.
        assert len(epoch) == len(rows) // BATCH * BATCH
        assert all(epoch.count(row) <= rows.count(row) for row in set(epoch))
    assert shown[0] != shown[1]
    again = make(kind, seed=3)
    again.setup("fit")
    assert _bytes(_joined(again.train_dataloader(), 1)) == shown[1]
    other = make(kind, seed=4)
    other.setup("fit")
    assert _bytes(_joined(other.train_dataloader())) != shown[0]


@pytest.mark.parametrize("kind", TRAINED)
def test_two_processes_share_an_epoch(kind: type[PictureData], make) -> None:
    data = make(kind)
    data.setup("fit")
    whole = [_parts(batch) for batch in data.train_dataloader()]
    parts = []
    for rank in (0, 1):
        loader = data.train_dataloader()
        loader.rank, loader.world_size = rank, 2
        parts.append([_parts(batch) for batch in loader])
        assert len(parts[-1]) == len(loader) == len(whole) // 2
    for number, batch in enumerate(whole[: len(whole) // 2 * 2]):
        assert all(map(torch.equal, batch, parts[number % 2][number // 2]))


@pytest.mark.parametrize("kind", [kind for kind in TRAINED if kind is not FolderDataModule])
def test_validation_and_test_show_every_row_in_order(kind: type[PictureData], make) -> None:
    data = make(kind)
    data.setup("fit")
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        assert torch.equal(_joined(loader), data.split(name if name in data.splits else "test")[0])


def test_a_data_set_of_a_user_is_augmented_and_cut() -> None:
    data = Shades(BATCH, flip=True, pad=2, cutout=3, limit=5)
    data.setup("fit")
    assert [len(split[0]) for split in data.splits.values()] == [5, 5]
    pictures, labels = next(iter(data.train_dataloader()))
    assert ((pictures == 127).all(1).sum((1, 2)) == 9).all()
    assert labels.shape == (BATCH, 2)
    assert Shades().source == Shades(seed=1, flip=True).source != data.source


PICTURES = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("schema", "loaded", "message"),
    [
        (Shades.schema, [PICTURES], "must return a mapping with the split 'train', and returned list"),
        (Shades.schema, {"test": (PICTURES,)}, "with the split 'train', and returned test"),
        (Shades.schema, {"train": PICTURES.float()}, r"pictures \(N, C, H, W\) uint8"),
        (Shades.schema, {"train": PICTURES}, r"labels of shape \(4, 2\), received none"),
        (Shades.schema, {"train": (PICTURES, torch.zeros(4, 1))}, r"labels of shape \(4, 2\), received \(4, 1\)"),
        (Shades.schema, {"train": (PICTURES, torch.full((4, 2), 2))}, "classes of 'bright' from 0 to 1, received 2"),
        (Shades.schema, {"train": (PICTURES, torch.tensor([[1, 1.5]] * 4))}, "values of 'shade' from 0 to 1"),
        (Shades.schema, {"train": (PICTURES, torch.full((4, 2), torch.nan))}, "classes of 'bright'"),
        (Shades.schema, {"train": (PICTURES, torch.zeros(4, 2), torch.zeros(4, 2))}, "known of shape .* bool"),
        (Shades.schema, {"train": (PICTURES, "labels")}, "tensors"),
        (None, {"train": (PICTURES, torch.zeros(4, 2))}, "only where the data set has a schema"),
    ],
)
def test_a_wrong_data_set_is_refused_in_one_sentence(schema: Schema | None, loaded: Any, message: str) -> None:
    data = Shades()
    data.schema, data.load = schema, lambda: loaded  # type: ignore[method-assign]
    with pytest.raises(LaceError, match=message):
        data.setup("fit")


def test_what_a_data_set_lacks_is_said() -> None:
    with pytest.raises(LaceError, match="must give its pictures, and PictureData has no method load"):
        PictureData().train_dataloader()
    with pytest.raises(LaceError, match="batch_size must be at least 1, received 0"):
        Shades(batch_size=0)
    with pytest.raises(LaceError, match="pad must be at least 0, received -1"):
        Shades(pad=-1)
    data = Shades()
    data.splits = {"train": data.split("train")}
    with pytest.raises(LaceError, match=r"no split 'test' \(it has train\), and it is needed"):
        data.val_dataloader()


def test_unlabelled_pictures_are_batches_of_pictures() -> None:
    data = Shades(BATCH)
    data.schema, data.load = None, lambda: {"train": PICTURES}  # type: ignore[method-assign]
    (batch,) = data.train_dataloader()
    assert torch.equal(batch, PICTURES)
    with pytest.raises(LaceError, match="Shades has no labels"):
        data.labelled("train")


def test_a_generator_s_own_pictures_are_not_trained_on(make) -> None:
    with pytest.raises(LaceError, match="no batches to train on"):
        make(GeneratedPicturesDataModule).train_dataloader()
