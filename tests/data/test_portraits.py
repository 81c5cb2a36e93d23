"""Portraits as training data: who is shown when."""

from __future__ import annotations

import pytest
import torch

from lace_lightning.data import PortraitsDataModule
from lace_lightning.data.portraits import PeopleBatches, PortraitBatches, degrade, draw_people
from lace_lightning.errors import LaceError
from lace_lightning.portraits import sample_identity


def test_every_epoch_shows_new_people_once() -> None:
    batches = PortraitBatches(12, 4, 16, seed=3, first=100)
    epochs = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        epochs.append(torch.cat([labels for _, labels in batches]))
        expected = draw_people(torch.arange(100 + 12 * epoch, 112 + 12 * epoch), 16)[1]
        assert torch.equal(epochs[-1].sort(0).values, expected.sort(0).values)
    assert not torch.equal(epochs[0].sort(0).values, epochs[1].sort(0).values)


def test_two_processes_share_an_epoch() -> None:
    whole = [labels for _, labels in PortraitBatches(16, 4, 16, seed=3)]
    parts = [[labels for _, labels in PortraitBatches(16, 4, 16, seed=3, rank=rank, world_size=2)] for rank in (0, 1)]
    assert all(torch.equal(whole[2 * i + rank], parts[rank][i]) for rank in (0, 1) for i in (0, 1))


def test_nobody_is_trained_and_tested_on() -> None:
    data = PortraitsDataModule(resolution=16, count=300, test_count=100, seed=1)
    (train, _), (test, labels) = data.splits["train"], data.splits["test"]
    assert train.shape == (300, 3, 16, 16)
    assert train.dtype == torch.uint8
    assert len({picture.numpy().tobytes() for picture in torch.cat([train, test])}) == 400
    assert torch.equal(torch.cat([batch[1] for batch in data.test_dataloader()]), labels)
    # Rounding may differ by one with the pictures that are drawn together.
    assert (data.some_pictures(10).int() - train[:10].int()).abs().max() <= 1
    assert len(data.some_pictures(1000)) == 300
    other = PortraitsDataModule(resolution=16, count=300, test_count=100, seed=2)
    assert torch.equal(other.splits["test"][0], test)
    assert not torch.equal(other.some_pictures(10), train[:10])


def test_people_keep_their_identity_and_change_their_attributes(monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(
        "lace_lightning.data.portraits.render",
        lambda labels, identity, size: (
            drawn.append((labels.values, identity)),
            torch.zeros(len(labels), 3, size, size),
        )[1],
    )
    batches = PeopleBatches(3, 4, 6, 16, seed=0, first=50)
    numbers = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        numbers += [person for _, person in batches]
    person, identity = torch.cat(numbers), torch.cat([i for _, i in drawn])
    assert torch.bincount(person).tolist() == [8, 8, 8]
    assert torch.equal(identity, sample_identity(50 + person))
    assert len(torch.cat([a for a, _ in drawn]).unique(dim=0)) == 24


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(LaceError, match=r"dataset\.module\.resolution must be at least 1"):
        PortraitsDataModule(resolution=0)


def test_degraded_pictures_are_the_same_people_less_clear() -> None:
    seeds = torch.arange(200)
    pictures, labels = draw_people(seeds, 16)
    worse = degrade(pictures, seeds, 0.5)
    changed = (worse != pictures).flatten(1).any(1)
    assert 0.65 < changed.float().mean() < 0.85
    assert torch.equal(degrade(pictures, seeds, 0.0), pictures)
    assert torch.equal(degrade(pictures[50:90], seeds[50:90], 0.5), worse[50:90])
    # A square hides less than a quarter of a picture; blur and noise leave the rest near what it was.
    far = ((worse.float() - pictures.float()).abs() > 100).any(1).flatten(1).float().mean(1)
    assert far.max() < 0.25
    data = PortraitsDataModule(resolution=16, count=200, test_count=10, batch_size=200, degraded=0.5)
    shown, targets = next(iter(data.train_dataloader()))
    originals = {tuple(row.tolist()): picture for row, picture in zip(labels, pictures, strict=True)}
    same = [torch.equal(originals[tuple(row.tolist())], picture) for row, picture in zip(targets, shown, strict=True)]
    assert 0.65 < 1 - sum(same) / len(same) < 0.85
    with pytest.raises(LaceError, match="a share of the pictures"):
        PortraitsDataModule(degraded=1.5)
