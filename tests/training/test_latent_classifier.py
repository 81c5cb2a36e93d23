from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.training.latent_classifier import LatentClassifier
from lace_lightning.training.losses import attribute_losses, attribute_scores

SCHEMA = Schema("s", (Attribute("a"), Attribute("v", "continuous"), Attribute("b", "discrete", 3)))


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.3, 0.0, 0.0, 0.0]])
    hard = attribute_losses(SCHEMA, logits, torch.tensor([[1.0, 0.5, 2.0], [0.0, 0.5, 0.0]]))
    torch.testing.assert_close(
        hard, torch.tensor([2.0, 1.0, 3.0]).log() * torch.tensor([1.0, 0.0, 1.0]) + torch.tensor([0.0, 0.02, 0.0])
    )
    soft = attribute_losses(SCHEMA, logits, torch.tensor([[5.0, -5.0, 0.5, 9.0, 1.0, 0.0]] * 2))
    torch.testing.assert_close(soft, hard)


def test_a_soft_value_outside_of_its_range_counts_as_the_end_that_it_decides() -> None:
    schema = Schema("s", (Attribute("a"), Attribute("v", "continuous")))
    logits = torch.tensor([[0.0, 0.0, 0.8]] * 2)
    soft = torch.tensor([[1.0, 0.0, 40.0], [1.0, 0.0, -3.0]])
    assert float(attribute_losses(schema, logits, soft)[1]) == pytest.approx((0.2**2 + 0.8**2) / 2)
    decided = attribute_losses(schema, logits, schema.decode(soft).values)
    assert float(attribute_losses(schema, logits, soft)[1]) == pytest.approx(float(decided[1]))


def test_scores_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.5, 0.0, 0.0, 1.0], [2.0, 0.0, 1.3, 1.0, 0.0, 0.0]])
    hard = attribute_scores(SCHEMA, logits, torch.tensor([[0.0, 0.4, 2.0], [1.0, 0.9, 0.0]]))
    assert {name: float(score) for name, score in hard.items()} == pytest.approx({"a": 0.5, "v": 0.9, "b": 1.0})
    soft = attribute_scores(
        SCHEMA, logits, torch.tensor([[1.0, 0.0, 0.4, 0.0, 0.0, 1.0], [0.0, 3.0, 0.9, 2.0, 0.0, 0.0]])
    )
    assert {name: float(score) for name, score in soft.items()} == pytest.approx({"a": 0.5, "v": 0.9, "b": 1.0})


def test_errors_of_continuous_attributes_can_count_as_energies_do() -> None:
    """With 1/(2σ²) the loss is the energy of Eq. 4, the mean over the batch."""
    schema = Schema("s", (Attribute("a", "discrete", 3), Attribute("v", "continuous")))
    torch.manual_seed(0)
    module = LatentClassifier(schema, "z", "mlp", {"input_dim": 4, "hidden": [5]}, continuous_weight=1 / (2 * 0.1**2))
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    u, labels = torch.randn(6, 4), torch.tensor([[0, 0.2], [1, 0.4], [2, 0.9], [0, 0.1], [1, 1.0], [2, 0.5]])
    energy = module.classifier.energy("a == * and v == *", Labels(schema, labels), sigma=0.1)
    torch.testing.assert_close(module.training_step((u, labels), 0), energy(u).mean())


def test_warm_up_and_staircase() -> None:
    module = LatentClassifier(
        SCHEMA, "z", arguments={"input_dim": 4}, learning_rate=1.0, warmup_steps=10, decay=0.1, decay_epochs=2
    )

    class FakeTrainer:
        fit_loop = SimpleNamespace(setup_data=lambda: None)
        num_training_batches, accumulate_grad_batches = 10, 1

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
