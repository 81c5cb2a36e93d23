from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lace_lightning.data import LatentPairsDataModule, keep_pictures, make_pairs
from lace_lightning.data import pairs as pairs_module
from lace_lightning.data.batches import TensorBatches, batch_size_of_steps
from lace_lightning.data.resumable_arrays import blocks_of, rows_done
from lace_lightning.errors import LaceError
from lace_lightning.labelers import function_labeler
from lace_lightning.run.pairs import classifier_identity, epochs_of
from lace_lightning.training.latent_classifier import LatentClassifier


def test_rows_are_what_they_say(tiny_generator, tiny_labeler, tmp_path) -> None:
    pairs = make_pairs(tmp_path, tiny_generator, tiny_labeler, 50, seed=3, batch_size=16, progress=False)
    assert pairs.complete
    torch.testing.assert_close(pairs.array("z"), tiny_generator.prior(50, seed=3))
    torch.testing.assert_close(pairs.array("w"), tiny_generator.mapping(pairs.array("z")))
    images = pairs.array("images").float() / 127.5 - 1
    torch.testing.assert_close(images, tiny_generator.synthesis(pairs.array("w")), atol=0.5 / 127.5 + 1e-4, rtol=0)
    torch.testing.assert_close(pairs.array("logits"), tiny_labeler(images), atol=1e-4, rtol=1e-4)
    assert torch.equal(pairs.labels().column("label"), pairs.array("logits").argmax(1).float())


def test_a_killed_run_goes_on_without_loss_or_repetition(tiny_generator, tiny_labeler, tmp_path, monkeypatch) -> None:
    whole = make_pairs(tmp_path / "whole", tiny_generator, tiny_labeler, 40, batch_size=8, progress=False)
    calls = []
    original = type(tiny_generator).render

    def dying(self, ws):
        calls.append(len(ws))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, ws)

    monkeypatch.setattr(type(tiny_generator), "render", dying)
    with pytest.raises(KeyboardInterrupt):
        make_pairs(tmp_path / "killed", tiny_generator, tiny_labeler, 40, batch_size=8, progress=False)
    assert rows_done(blocks_of(tmp_path / "killed")) == 16
    again = make_pairs(tmp_path / "killed", tiny_generator, tiny_labeler, 40, batch_size=8, progress=False)
    assert sum(calls) == 48  # 16 kept, 8 lost with the kill, 24 more
    for name in pairs_module.PairSet.NAMES:
        assert torch.equal(again.array(name), whole.array(name)), name
    calls.clear()
    make_pairs(tmp_path / "killed", tiny_generator, tiny_labeler, 40, batch_size=8, progress=False)
    assert not calls


def test_another_folder_for_other_pairs(tiny_generator, tiny_labeler, tmp_path) -> None:
    make_pairs(tmp_path, tiny_generator, tiny_labeler, 8, progress=False)
    with pytest.raises(LaceError, match="use another folder"):
        make_pairs(tmp_path, tiny_generator, tiny_labeler, 8, seed=1, progress=False)


def test_the_split_belongs_to_the_sample(tiny_generator, tiny_labeler, tmp_path) -> None:
    parts = []
    for count in (200, 100):
        pairs = make_pairs(tmp_path / str(count), tiny_generator, tiny_labeler, count, progress=False)
        data = LatentPairsDataModule(pairs, "z", fractions=(0.2, 0.2))
        data.setup()
        parts.append({name: {tuple(row.tolist()) for row in part[0]} for name, part in data.parts.items()})
        assert sum(len(part) for part in parts[-1].values()) == count
    for name in ("train", "val", "test"):
        assert parts[1][name] <= parts[0][name]
    assert 20 < len(parts[0]["val"]) < 60


@pytest.mark.parametrize("world", [1, 3])
def test_batches_cover_an_epoch_once(world: int) -> None:
    data = torch.arange(60)
    seen = []
    for rank in range(world):
        batches = TensorBatches((data, data * 2), 10, seed=1, rank=rank, world_size=world)
        parts = list(batches)
        assert len(parts) == len(batches)
        assert all(torch.equal(x * 2, y) for x, y in parts)
        seen += [value for x, _ in parts for value in x.tolist()]
    assert sorted(seen) == data.tolist()
    batches = TensorBatches((data,), 10, seed=1)
    first = next(iter(batches))[0]
    batches.set_epoch(1)
    assert not torch.equal(first, next(iter(batches))[0])


@pytest.mark.parametrize(
    ("space", "network", "soft"), [("w", "mlp", False), ("z", "mlp", True), ("x", "resnet9", False)]
)
def test_a_classifier_learns_in_every_space(tiny_generator, tiny_labeler, tmp_path, space, network, soft) -> None:
    pairs = make_pairs(tmp_path, tiny_generator, tiny_labeler, 600, progress=False)
    data = LatentPairsDataModule(pairs, space, 64, soft, (0.1, 0.2))
    arguments = {"mlp": {"input_dim": {"w": 12, "z": 8}.get(space), "hidden": [32]}, "resnet9": {"width": 4}}[network]
    torch.manual_seed(0)
    module = LatentClassifier(pairs.schema, space, network, arguments, learning_rate=0.01, warmup_steps=5)
    trainer = pl.Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    accuracy = trainer.test(module, data, verbose=False)[0]["classifier/accuracy/label"]
    share = torch.bincount(pairs.labels().column("label").long()).max() / len(pairs)
    assert accuracy > float(share) + (0.1 if space != "x" else 0)
    module.classifier.save(tmp_path / "c.safetensors")
    again = type(module.classifier).load(tmp_path / "c.safetensors")
    u = pairs.latents(space)[:5]
    torch.testing.assert_close(
        again(u.float() / 127.5 - 1 if space == "x" else u), module.eval()(u).detach(), atol=1e-5, rtol=1e-5
    )


def test_pairs_without_pictures(tiny_generator, tiny_labeler, tmp_path) -> None:
    whole = make_pairs(tmp_path / "whole", tiny_generator, tiny_labeler, 20, batch_size=8, progress=False)
    bare = make_pairs(tmp_path / "bare", tiny_generator, tiny_labeler, 20, batch_size=8, progress=False, pictures=False)
    assert bare.arrays == ("z", "w", "logits", "labels")
    assert not (tmp_path / "bare" / "images.npy").exists()
    for name in bare.arrays:
        assert torch.equal(bare.array(name), whole.array(name)), name
    with pytest.raises(LaceError, match=r"pairs\.pictures=true"):
        bare.latents("x")
    with pytest.raises(LaceError, match="use another folder"):
        make_pairs(tmp_path / "bare", tiny_generator, tiny_labeler, 20, progress=False)


def test_pictures_are_stored_where_they_are_needed_or_small(tiny_generator) -> None:
    few, many = 10, 2**32 // (3 * 8 * 8) + 1
    assert [keep_pictures("auto", tiny_generator, count, space) for count in (few, many) for space in "wx"] == [
        True,
        True,
        False,
        True,
    ]
    assert keep_pictures(True, tiny_generator, many, "w")
    assert not keep_pictures(False, tiny_generator, few, "w")
    with pytest.raises(LaceError, match="is false"):
        keep_pictures(False, tiny_generator, few, "x")
    with pytest.raises(LaceError, match="auto, true or false"):
        keep_pictures("maybe", tiny_generator, few, "w")


def test_a_labeler_that_compares_pictures_with_each_other_is_refused(tiny_generator, tmp_path) -> None:
    schema = {
        "name": "s",
        "attributes": [{"name": "bright", "num_classes": 2}, {"name": "light", "kind": "continuous"}],
    }

    def light(images):
        return images.mean((1, 2, 3))

    def relative(images):
        return torch.stack([(light(images) > light(images).mean()).float(), light(images) / 2 + 0.5], 1)

    def scaled(images):
        value = light(images)
        return torch.stack([(value > 0).float(), (value - value.min()) / (value.max() - value.min())], 1)

    def fixed(images):
        return torch.stack([(light(images) > 0).float(), light(images) / 2 + 0.5], 1)

    for function, name in ((relative, "bright"), (scaled, "light")):
        with pytest.raises(LaceError, match=f"labeler's answer for '{name}' differs by .* other pictures"):
            make_pairs(tmp_path / name, tiny_generator, function_labeler(function, schema), 16, progress=False)
    assert make_pairs(tmp_path / "fixed", tiny_generator, function_labeler(fixed, schema), 16, progress=False).complete


@pytest.mark.parametrize("count", [17, 40, 400, 1600, 48_000])
@pytest.mark.parametrize(("batch_size", "epochs", "least"), [(512, 30, 500), (128, 50, 500), (512, 1, 500), (64, 8, 0)])
def test_few_pairs_are_trained_on_in_batches_that_give_enough_steps(count, batch_size, epochs, least) -> None:
    size = batch_size_of_steps(count, batch_size, epochs, least)
    steps = epochs * max(1, count // size)
    before = epochs * max(1, count // batch_size)
    assert size <= batch_size
    assert steps >= before
    assert steps >= least or size == 16
    # Where the steps were enough, nothing changes.
    assert size == batch_size or before < least


def test_a_training_is_identified_by_the_batches_that_it_has(tiny_generator, tiny_labeler, tmp_path) -> None:
    pairs = make_pairs(tmp_path, tiny_generator, tiny_labeler, 200, progress=False)
    node = {"space": "w", "batch_size": 64, "max_epochs": 4, "min_steps": 0}
    settings = SimpleNamespace(limits=(100, -1), pairs=SimpleNamespace(holdout=[0.1, 0.1]))
    study: Any = SimpleNamespace(settings=settings)

    def identity(min_steps: int) -> tuple[dict[str, Any], int]:
        own = {**node, "min_steps": min_steps}
        data = LatentPairsDataModule(pairs, "w", 64, fractions=(0.1, 0.1))
        data.ensure_steps(epochs_of(study, own), min_steps)
        return classifier_identity(study, own, data), 4 * len(data.train_dataloader())

    (without, few), (same, _), (other, many) = identity(0), identity(8), identity(40)
    assert few == 8
    assert without == same
    assert many >= 40
    assert other != same
