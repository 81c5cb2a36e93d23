"""A labeler that abstains: what it does not know is stored, read back as unknown, and counts in no loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lace_lightning.data import FreshPairsDataModule, LatentPairsDataModule, PairSet, make_pairs, pairs_identity
from lace_lightning.data.resumable_arrays import fill
from lace_lightning.errors import LaceError
from lace_lightning.labelers import Labeler, function_labeler
from lace_lightning.query import parse
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.targets import free_labels
from lace_lightning.training.calibration import fit_calibration
from lace_lightning.training.latent_classifier import LatentClassifier
from lace_lightning.training.losses import attribute_losses, attribute_scores

SCHEMA = Schema("s", (Attribute("a"), Attribute("v", "continuous"), Attribute("b", "discrete", 3)))
CONFIDENCE = 0.6


@pytest.fixture(scope="module")
def doubtful(tiny_labeler) -> Labeler:
    return Labeler(tiny_labeler.classifier, precision="float32", confidence=CONFIDENCE)


@pytest.fixture(scope="module")
def pairs(tiny_generator, doubtful, tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("pairs"), tiny_generator, doubtful, 300, seed=3, progress=False)


def test_below_its_confidence_a_label_is_unknown(pairs, doubtful, tiny_labeler, tiny_generator) -> None:
    largest = pairs.array("logits").softmax(1).amax(1)
    labels = pairs.labels()
    assert 20 < int(labels.known.sum()) < 280
    assert torch.equal(labels.known[:, 0], largest >= CONFIDENCE)
    assert torch.equal(labels.values[labels.known], pairs.array("logits").argmax(1).float()[labels.known[:, 0]])
    assert not labels.values.isnan().any()
    images = pairs.array("images")[:20].float() / 127.5 - 1
    assert torch.equal(doubtful.labels(images).known, labels.known[:20])
    assert tiny_labeler.labels(images).known.all()
    assert pairs_identity(tiny_generator, doubtful, 3, 0) != pairs_identity(tiny_generator, tiny_labeler, 3, 0)
    assert doubtful.digest.split("-")[0] == tiny_labeler.digest.split("-")[0]
    with pytest.raises(LaceError, match=r"must lie in \[0, 1\]"):
        Labeler(tiny_labeler.classifier, confidence=1.5)


def copied(pairs: PairSet, folder: Path, change: Callable[[str, Tensor], Tensor]) -> PairSet:
    """Write pairs once more, with changed arrays."""
    arrays = {name: change(name, pairs.array(name).clone()).float() for name in pairs.NAMES if name != "images"}
    shapes = {name: tuple(array.shape[1:]) for name, array in arrays.items()}
    fill(
        folder,
        {**pairs.meta, "arrays": list(arrays)},
        shapes,
        lambda rows, first: {name: array[first : first + rows] for name, array in arrays.items()},
        len(pairs),
        "pairs",
        progress=False,
    )
    return PairSet(folder)


def test_pairs_without_missing_labels_are_known_altogether(pairs, tmp_path) -> None:
    whole = copied(pairs, tmp_path, lambda name, array: array.nan_to_num(1.0))
    assert whole.labels().known.all()
    assert torch.equal(whole.labels().values, whole.array("labels"))
    data = LatentPairsDataModule(whole)
    data.setup()
    assert data.parts["train"][2].all()


def test_what_is_unknown_counts_in_no_loss() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(40, SCHEMA.num_logits, requires_grad=True), torch.rand(40, 3).round()
    soft, known = torch.randn(40, SCHEMA.num_logits), torch.rand(40, 3) < 0.5
    known[:, 1] = False
    for wanted in (target, soft):
        losses = attribute_losses(SCHEMA, logits, wanted, known=known)
        for index in (0, 2):
            rows = known[:, index]
            torch.testing.assert_close(losses[index], attribute_losses(SCHEMA, logits[rows], wanted[rows])[index])
        assert losses[1] == 0
        everything = attribute_losses(SCHEMA, logits, wanted, known=torch.ones_like(known))
        torch.testing.assert_close(everything, attribute_losses(SCHEMA, logits, wanted))
    (gradient,) = torch.autograd.grad(attribute_losses(SCHEMA, logits, target, known=known).sum(), logits)
    assert torch.equal(gradient[:, 0] != 0, known[:, 0])
    scores = attribute_scores(SCHEMA, logits, target, known)
    torch.testing.assert_close(scores["a"], attribute_scores(SCHEMA, logits[known[:, 0]], target[known[:, 0]])["a"])
    fitted = fit_calibration(SCHEMA, logits.detach(), target, known)
    alone = fit_calibration(SCHEMA, logits.detach()[known[:, 0]], target[known[:, 0]])
    assert fitted["temperature"]["a"] == alone["temperature"]["a"]
    assert "v" not in fitted["sigma"]


@pytest.mark.parametrize("soft", [False, True])
def test_training_does_not_see_what_is_unknown(pairs, tmp_path, soft) -> None:
    """Rows that are unknown may hold anything."""
    unknown = ~pairs.labels().known[:, 0]

    def spoilt(name: str, array: Tensor) -> Tensor:
        return array.masked_fill(unknown[:, None], torch.nan) if name == "logits" else array

    other = copied(pairs, tmp_path, spoilt)
    trained = []
    for source in (pairs, other):
        torch.manual_seed(0)
        module = LatentClassifier(source.schema, "z", "mlp", {"input_dim": 8, "hidden": [8]}, learning_rate=0.01)
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = LatentPairsDataModule(source, "z", 64, soft, (0.2, 0.2))
        trainer.fit(module, data)
        module.calibrate(data.val_dataloader())
        trained.append((module.classifier.state_dict(), trainer.test(module, data, verbose=False)[0]))
    assert all(torch.equal(value, trained[1][0][name]) for name, value in trained[0][0].items())
    assert trained[0][1] == trained[1][1]


def test_fresh_pairs_carry_the_mask(pairs, tiny_generator, doubtful) -> None:
    data = LatentPairsDataModule(pairs, "w", 20)
    fresh = FreshPairsDataModule(data, tiny_generator, doubtful, 100, 0.5)
    fresh.setup()
    _, _, known = (torch.cat(column) for column in zip(*fresh.train_dataloader(), strict=True))
    assert 0 < int(known.sum()) < len(known)


def test_an_attribute_that_is_never_decided_is_refused(tiny_generator, tiny_labeler, tmp_path) -> None:
    sure = Labeler(tiny_labeler.classifier, precision="float32", confidence=1.0)
    nothing = make_pairs(tmp_path, tiny_generator, sure, 20, progress=False)
    with pytest.raises(LaceError, match="lower labeler"):
        LatentPairsDataModule(nothing).setup()
    with pytest.raises(LaceError, match="none of 20 rows knows label"):
        free_labels(parse("label == *", nothing.schema), 4, table=nothing.labels())


def test_the_advice_for_labels_that_are_nan_is_about_the_labeler(pairs, tiny_generator, tmp_path) -> None:
    schema = Schema("s", (Attribute("hat"),))
    silent = function_labeler(lambda images: torch.full((len(images), 1), torch.nan), schema)
    with pytest.raises(LaceError, match=r"NaN\): correct the labeler's function or network") as caught:
        LatentPairsDataModule(make_pairs(tmp_path / "pairs", tiny_generator, silent, 20, progress=False)).setup()
    assert "confidence" not in str(caught.value)
    unlabelled = copied(pairs, tmp_path / "table", lambda name, array: array * (torch.nan if name == "labels" else 1))
    unlabelled.arrays = ("z", "w", "labels")
    with pytest.raises(LaceError, match="fill in its labels in the table of the pairs"):
        LatentPairsDataModule(unlabelled).setup()


def test_free_values_come_from_rows_that_are_known() -> None:
    table = Labels(
        SCHEMA,
        torch.tensor([[0.0, 0.1, 0.0], [1.0, 0.2, 1.0], [0.0, 0.3, 2.0]]),
        torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]),
    )
    free = free_labels(parse("a == * and b == *", SCHEMA), 3, table=table)
    assert free is not None
    assert free.column("a").tolist() == [1.0, 1.0, 1.0]
    assert free.column("b").tolist() == [1.0, 1.0, 1.0]
