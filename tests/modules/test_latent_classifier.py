from __future__ import annotations

import pytest
import torch

from lace_lightning.modules.latent_classifier import LatentClassifier
from lace_lightning.modules.losses import attribute_losses, attribute_scores
from lace_lightning.schema import Attribute, Schema

SCHEMA = Schema("s", (Attribute("a"), Attribute("v", "continuous"), Attribute("b", "discrete", 3)))


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.3, 0.0, 0.0, 0.0]])
    hard = attribute_losses(SCHEMA, logits, torch.tensor([[1.0, 0.5, 2.0], [0.0, 0.5, 0.0]]))
    torch.testing.assert_close(hard, torch.tensor([2.0, 1.0, 3.0]).log() * torch.tensor([1.0, 0.0, 1.0]) +
                               torch.tensor([0.0, 0.02, 0.0]))
    soft = attribute_losses(SCHEMA, logits, torch.tensor([[5.0, -5.0, 0.5, 9.0, 1.0, 0.0]] * 2))
    torch.testing.assert_close(soft, hard)


def test_scores_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.5, 0.0, 0.0, 1.0], [2.0, 0.0, 1.3, 1.0, 0.0, 0.0]])
    hard = attribute_scores(SCHEMA, logits, torch.tensor([[0.0, 0.4, 2.0], [1.0, 0.9, 0.0]]))
    assert {name: float(score) for name, score in hard.items()} == pytest.approx({"a": 0.5, "v": 0.9, "b": 1.0})
    soft = attribute_scores(SCHEMA, logits, torch.tensor([[1.0, 0.0, 0.4, 0.0, 0.0, 1.0], [0.0, 3.0, 0.9, 2.0, 0.0, 0.0]]))
    assert {name: float(score) for name, score in soft.items()} == pytest.approx({"a": 0.5, "v": 0.9, "b": 1.0})


def test_warm_up_and_staircase() -> None:
    module = LatentClassifier(SCHEMA, "z", arguments={"input_dim": 4}, learning_rate=1.0, warmup_steps=10, decay=0.1,
                              decay_epochs=2)

    class FakeTrainer:
        estimated_stepping_batches, max_epochs = 100, 10

    module._trainer = FakeTrainer()
    module.__class__ = type("Stub", (LatentClassifier,), {"trainer": property(lambda self: FakeTrainer())})
    factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in (0, 4, 9, 19, 20, 40)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.1, 0.01])


def test_a_checkpoint_loads_safely(tmp_path) -> None:
    module = LatentClassifier(SCHEMA, "z", arguments={"input_dim": 4})
    torch.save({"hyper": dict(module.hparams), "state": module.state_dict()}, tmp_path / "c.pt")
    loaded = torch.load(tmp_path / "c.pt", weights_only=True)
    again = LatentClassifier(**loaded["hyper"])
    again.load_state_dict(loaded["state"])
