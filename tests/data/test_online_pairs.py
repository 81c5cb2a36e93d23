"""Fresh pairs: a stream that does not depend on how it is read, and what it teaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lace_lightning.data import FreshPairsDataModule, LatentPairsDataModule, make_pairs
from lace_lightning.data.online_pairs import FRESH_SEEDS, FreshBatches
from lace_lightning.errors import LaceError
from lace_lightning.generators import Generator
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.seeds import RunSeeds
from lace_lightning.training.latent_classifier import LatentClassifier


@pytest.fixture(scope="module")
def stored(tiny_generator, tiny_labeler, tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("pairs"), tiny_generator, tiny_labeler, 60, seed=3, progress=False)


def read(batches: FreshBatches, epochs: range) -> list[tuple[torch.Tensor, torch.Tensor]]:
    result = []
    for epoch in epochs:
        batches.set_epoch(epoch)
        result += list(batches)
        assert len(result) == (epoch - epochs.start + 1) * len(batches)
    return result


def joined(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    u, target = (torch.cat(column) for column in list(zip(*batches, strict=True))[:2])
    return u, target


@pytest.mark.parametrize("space", ["z", "w"])
def test_the_stream_is_the_same_however_it_is_read(stored, tiny_generator, tiny_labeler, space) -> None:
    data = LatentPairsDataModule(stored, space, soft=True)
    data.setup()

    def stream(count, batch_size, **where):
        return FreshBatches(tiny_generator, tiny_labeler, data, count, batch_size, 7, **where)

    u, target = joined(read(stream(24, 12), range(2)))
    z = tiny_generator.prior(48, 7)
    w = tiny_generator.mapping(z)
    torch.testing.assert_close(u, {"z": z, "w": w}[space])
    images = tiny_generator.synthesis(w)
    torch.testing.assert_close(target, tiny_labeler(((images + 1) * 127.5).round() / 127.5 - 1), atol=1e-3, rtol=1e-3)
    for batches, epochs in ((stream(48, 48), range(1)), (stream(12, 3), range(4)), (stream(8, 8), range(6))):
        other = joined(read(batches, epochs))
        torch.testing.assert_close(other[0], u)
        torch.testing.assert_close(other[1], target, atol=1e-3, rtol=1e-3)
    # Three processes share it, and one that goes on at an epoch makes what it would have made.
    ranks = [read(stream(24, 4, rank=rank, world_size=3), range(2)) for rank in range(3)]
    torch.testing.assert_close(torch.cat([part[0] for parts in zip(*ranks, strict=True) for part in parts]), u)
    resumed = read(stream(24, 12), range(1, 2))
    assert torch.equal(joined(resumed)[0], u[24:])
    assert torch.equal(joined(resumed)[1], target[24:])


@pytest.mark.parametrize(("count", "batch_size", "made"), [(30, 64, 30), (50, 4, 60), (33, 8, 40), (1000, 7, 1050)])
def test_at_least_as_many_pairs_as_were_asked_for(
    stored, tiny_generator, tiny_labeler, count, batch_size, made
) -> None:
    fresh = FreshPairsDataModule(LatentPairsDataModule(stored, "w", batch_size), tiny_generator, tiny_labeler, count)
    fresh.setup()
    batches = fresh.train_dataloader()
    assert batches.batch_size <= batch_size
    assert fresh.epochs * len(batches) * batches.batch_size == made


def test_nothing_begins_at_the_same_latents(stored, tiny_generator, tiny_labeler) -> None:
    fresh = FreshPairsDataModule(
        LatentPairsDataModule(stored, "z", 20, fractions=(0.2, 0.2)), tiny_generator, tiny_labeler, 100
    )
    fresh.setup()
    batches = fresh.train_dataloader()
    u = joined(read(batches, range(fresh.epochs)))[0]
    assert torch.equal(u, tiny_generator.prior(100, seed=3 + FRESH_SEEDS))
    for seed in (0, 1, 3, 3 + RunSeeds.OTHER):
        assert torch.cdist(u, tiny_generator.prior(200, seed=seed)).min() > 1e-2
    assert torch.cdist(u, u).add(torch.eye(100)).min() > 1e-2
    # What is measured is measured on the pairs that are stored.
    assert torch.equal(joined(list(fresh.val_dataloader()))[0], fresh.data.parts["val"][0])
    assert torch.equal(joined(list(fresh.test_dataloader()))[0], fresh.data.parts["test"][0])


def test_pictures_are_refused(stored, tiny_generator, tiny_labeler) -> None:
    with pytest.raises(
        LaceError, match=r"space w or z.*received one of pictures \(space x\): set classifier.fresh_pairs=0"
    ):
        FreshPairsDataModule(LatentPairsDataModule(stored, "x"), tiny_generator, tiny_labeler, 10)


class Toy(Generator):
    """Four numbers in (-1, 1) are latent w and picture alike."""

    def __init__(self) -> None:
        super().__init__(4, 4, (1, 1, 4))
        self.mapping = nn.Tanh()

    def render(self, ws: torch.Tensor) -> torch.Tensor:
        return ws[:, None]


class Linear(nn.Module):
    """A labeler that knows p(c|w) = softmax(A w)."""

    schema = Schema("s", (Attribute("a", "discrete", 3),))
    digest = "linear"
    matrix = torch.tensor([[2.0, 0, 0, -1], [0, 2, 0, 1], [0, 0, -2, 0]])

    def decide(self, logits: torch.Tensor) -> Labels:
        return self.schema.decode(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.matrix.T


def test_soft_labels_teach_the_probabilities_and_decided_ones_do_not(tmp_path) -> None:
    generator, labeler = Toy(), Linear()
    pairs = make_pairs(tmp_path, generator, labeler, 100, progress=False)
    fresh = FreshPairsDataModule(LatentPairsDataModule(pairs, "w", 64, soft=True), generator, labeler, 20000)
    fresh.setup()
    w = generator.mapping(generator.prior(500, seed=77))
    known = labeler(w).log_softmax(1)
    distances = []
    for soft in (True, False):
        module = LatentClassifier(labeler.schema, "w", arguments={"input_dim": 4, "hidden": []})
        module.log = lambda *_, **__: None
        optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
        for batch in read(fresh.train_dataloader(), range(fresh.epochs)):
            optimizer.zero_grad()
            module.training_step(batch if soft else (batch[0], labeler.schema.decode(batch[1]).values), 1).backward()
            optimizer.step()
        distances.append(
            float(F.kl_div(module(w).log_softmax(1), known, log_target=True, reduction="batchmean").detach())
        )
    assert distances[0] < 1e-3 < 0.05 < distances[1]


def test_batches_are_topped_up_with_pairs_that_are_stored(stored, tiny_generator, tiny_labeler) -> None:
    data = LatentPairsDataModule(stored, "w", 16, fractions=(0.2, 0.2))
    fresh = FreshPairsDataModule(data, tiny_generator, tiny_labeler, 200, share=0.25)
    fresh.setup()
    batches, rows = fresh.train_dataloader(), {tuple(row.tolist()) for row in data.parts["train"][0]}
    parts = read(batches, range(2))
    assert all(len(u) == len(target) == 16 for u, target, _ in parts)
    assert all(tuple(row.tolist()) in rows for u, *_ in parts for row in u[4:])
    # Decided labels where those of the stored pairs are decided.
    torch.testing.assert_close(
        torch.cat([u[:4] for u, *_ in parts]), tiny_generator.mapping(tiny_generator.prior(40, 3 + FRESH_SEEDS))
    )
    assert all(target.shape == (16, 1) for _, target, _ in parts)
    # One that goes on at an epoch has what it would have had, beside other pairs than the epoch before.
    resumed = read(fresh.train_dataloader(), range(1, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(resumed, parts[len(batches) :], strict=True))
    assert not torch.equal(parts[0][0][4:], parts[len(batches)][0][4:])


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_is_a_share(stored, tiny_generator, tiny_labeler, share) -> None:
    with pytest.raises(LaceError, match=f"received {share}"):
        FreshPairsDataModule(LatentPairsDataModule(stored, "w"), tiny_generator, tiny_labeler, 10, share)
