"""Batches from the middle of an epoch on are those of the whole epoch, noise and all, in every process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lace_lightning.data import FaceBatches, FolderDataModule, FreshBatches, LatentPairsDataModule, make_pairs
from lace_lightning.data.augmentation import AugmentedBatches
from lace_lightning.data.batches import EpochBatches, TensorBatches
from lace_lightning.data.folder import ShuffledPictures
from lace_lightning.data.portraits import PeopleBatches, PortraitBatches
from lace_lightning.schema import Attribute, Labels, Schema

COUNT, SIZE = 24, 4
PICTURES = torch.randint(256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
YAW = Labels(Schema("s", (Attribute("yaw", "continuous"),)), torch.linspace(0, 1, COUNT)[:, None])


def folder_of(path: Path) -> ShuffledPictures:
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path / f"{number:02}.png")
    return ShuffledPictures(FolderDataModule(str(path)).pictures, SIZE, 3, flip=True)


MAKE: dict[str, Callable[[Path], EpochBatches]] = {
    "tensors": lambda path: TensorBatches((PICTURES, torch.arange(COUNT)), SIZE, 3),
    "augmented": lambda path: AugmentedBatches(PICTURES, torch.arange(COUNT), SIZE, 3, pad=2, flip=True, cutout=3),
    "faces": lambda path: FaceBatches(PICTURES, YAW, SIZE, 3, pad=2, flip=True, mirrored={"yaw": 0.4}),
    "folder": folder_of,
    "portraits": lambda path: PortraitBatches(COUNT, SIZE, 16, 3, first=100, degraded=0.5),
    "people": lambda path: PeopleBatches(COUNT // 2, 2, SIZE, 16, 3, first=100),
}


def check(batches: EpochBatches, world: int) -> None:
    for batches.rank in range(world):
        batches.world_size = world
        batches.set_epoch(2)
        whole = list(batches)
        assert len(whole) == len(batches) == COUNT // SIZE // world
        for first in (1, len(whole) - 1, len(whole)):
            rest = list(batches.batches(first))
            assert len(rest) == len(whole) - first
            for one, other in zip(rest, whole[first:], strict=True):
                assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", MAKE)
def test_the_rest_of_an_epoch_is_the_end_of_the_whole(kind: str, world: int, tmp_path: Path) -> None:
    check(MAKE[kind](tmp_path), world)


@pytest.mark.parametrize("world", [1, 2])
def test_the_rest_of_an_epoch_of_fresh_pairs_is_the_end_of_the_whole(
    world: int, tiny_generator, tiny_labeler, tmp_path: Path
) -> None:
    data = LatentPairsDataModule(make_pairs(tmp_path, tiny_generator, tiny_labeler, 40, progress=False), "w")
    data.setup()
    check(FreshBatches(tiny_generator, tiny_labeler, data, COUNT, SIZE, 7, num_stored=3), world)
