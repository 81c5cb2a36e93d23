"""Training of image classifiers where not every label is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.data.batches import TensorBatches
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Schema
from lace_lightning.training.image_classifier import ImageClassifierTraining

SMILE, HAIR, YAW = Attribute("smile"), Attribute("hair", "discrete", 3), Attribute("yaw", "continuous")
SCHEMA = Schema("s", (SMILE, HAIR, YAW))
SMALL = {"variant": "v3_small", "width": 0.25, "resolution": 32}


def _training(schema: Schema = SCHEMA, **options) -> ImageClassifierTraining:
    torch.manual_seed(0)
    return ImageClassifierTraining(
        schema, **{"network": "mobilenet", "arguments": SMALL, "bf16": False, "mirror": False, **options}
    )


def _batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    labels = torch.stack(
        [
            torch.randint(2, (count,), generator=random).float(),
            torch.randint(3, (count,), generator=random).float(),
            torch.rand(count, generator=random),
        ],
        dim=1,
    )
    return (
        torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=random),
        labels,
        torch.ones(count, 3, dtype=torch.bool),
    )


def test_what_nobody_knows_moves_nothing() -> None:
    module, (images, labels, known) = _training().eval(), _batch()
    module.log_dict = lambda *_, **__: None
    known[:, 1] = False
    known[:3, 0] = False
    module.training_step((images, labels, known), 0).backward()
    gradient = module.network.head.weight.grad
    assert (gradient[2:5] == 0).all()
    assert (gradient[:2] != 0).any()
    assert (gradient[5] != 0).any()
    module.network.zero_grad()
    # Whatever stands where nothing is known.
    module.training_step((images, torch.where(known, labels, 0.0), known), 0).backward()
    assert torch.equal(module.network.head.weight.grad, gradient)
    module.network.zero_grad()
    # Without a mask everything is known.
    module.training_step((images, labels), 0).backward()
    whole = module.network.head.weight.grad.clone()
    module.network.zero_grad()
    module.training_step((images, labels, torch.ones_like(known)), 0).backward()
    assert torch.equal(module.network.head.weight.grad, whole)


def test_accuracies_are_those_of_known_labels(tmp_path: Path) -> None:
    images, labels, known = _batch(20)
    known[:, 1] = False
    known[::3, 0] = False
    known[6:12, 2] = False
    module = _training()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    figures = trainer.test(module, TensorBatches((images, labels, known), 6), verbose=False)[0]
    judged = module.classifier().schema.decode(module.classifier()(images / 127.5 - 1)).values
    right = (judged[:, 0] == labels[:, 0])[known[:, 0]].float().mean()
    near = (1 - (judged - labels).abs())[:, 2][known[:, 2]].mean()
    assert figures["test_accuracy/smile"] == pytest.approx(float(right))
    assert figures["test_accuracy/yaw"] == pytest.approx(float(near), abs=1e-5)
    assert "test_accuracy/hair" not in figures


def test_training_begins_from_weights_that_know_a_part(tmp_path: Path) -> None:
    other = Schema("t", (YAW, Attribute("smile", "discrete", 3), HAIR))
    begin = AttributeClassifier(other, "x", "mobilenet", {**SMALL, "crop": [0.1, 0.1, 0.8, 0.8]})
    begin.save(tmp_path / "begin.safetensors")
    fresh, module = _training(), _training(start=str(tmp_path / "begin.safetensors"))
    theirs, ours = begin.network.head, module.network.head
    assert torch.equal(module.network.body[0][0].weight, begin.network.body[0][0].weight)
    assert torch.equal(module.average.neck[0].weight, begin.network.neck[0].weight)
    for rows, begun in ((slice(2, 5), slice(4, 7)), (slice(5, 6), slice(0, 1))):
        assert torch.equal(ours.weight[rows], theirs.weight[begun])
        assert torch.equal(ours.bias[rows], theirs.bias[begun])
    # A smile of three classes is another attribute.
    assert torch.equal(ours.weight[:2], fresh.network.head.weight[:2])
    with pytest.raises(LaceError, match="give the same network"):
        _training(arguments={**SMALL, "width": 0.5}, start=str(tmp_path / "begin.safetensors"))
    with pytest.raises(LaceError, match="give the same network"):
        _training(network="resnet9", arguments={"width": 4}, start=str(tmp_path / "begin.safetensors"))
