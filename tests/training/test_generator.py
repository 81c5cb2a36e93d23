"""The parts of GAN training that can be known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lace_lightning.errors import LaceError
from lace_lightning.training.adaptive_augment import AdaptiveAugment, augment
from lace_lightning.training.discriminator import Discriminator
from lace_lightning.training.generator import GANTraining

GENERATOR = {
    "z_dim": 8,
    "w_dim": 8,
    "img_resolution": 8,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channels": {4: 8, 8: 8}},
}


@pytest.fixture
def training() -> GANTraining:
    torch.manual_seed(0)
    module = GANTraining(GENERATOR, {"channels": [8, 8]}, bf16=False)
    optimizers = module.configure_optimizers()

    class Stub:
        world_size = 1

    module.__class__ = type(
        "Stub",
        (GANTraining,),
        {
            "trainer": property(lambda self: Stub()),
            "optimizers": lambda self: optimizers,
            "log_dict": lambda self, *a, **k: None,
            "manual_backward": lambda self, loss: loss.backward(),
        },
    )
    return module


def test_gradient_penalty_is_half_gamma_times_the_squared_gradient(training: GANTraining) -> None:
    """For a linear D(x) = Σ a·x the penalty is γ/2·|a|²."""
    a = torch.randn(3 * 64)
    training.discriminator.forward = lambda x, dtype=None: x.flatten(1) @ a
    penalty = training._gradient_penalty(torch.randn(8, 3, 8, 8))
    assert float(penalty) == pytest.approx(0.05 / 2 * float(a.square().sum()), rel=1e-5)


def test_a_step_changes_both_networks_and_the_average_follows(training: GANTraining) -> None:
    before = [p.clone() for p in training.average.parameters()]
    old_g = [p.clone() for p in training.generator.parameters()]
    old_d = [p.clone() for p in training.discriminator.parameters()]
    training.training_step(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), 0)
    assert int(training.images_seen) == 8
    assert any(not torch.equal(a, b) for a, b in zip(old_g, training.generator.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(old_d, training.discriminator.parameters(), strict=True))
    # Half-life 0.05·8 pictures at the very beginning: the average moves by 1 - 0.5^(8/0.4).
    for start, average, new in zip(before, training.average.parameters(), training.generator.parameters(), strict=True):
        torch.testing.assert_close(average, start.lerp(new, 1 - 0.5 ** (8 / 0.4)))


def test_a_start_from_weights_moves_the_discriminator_alone_at_first(training: GANTraining, tmp_path) -> None:
    training.export(tmp_path / "g.safetensors")
    training.hparams["start"], training.hparams["settle_kimg"] = str(tmp_path / "g.safetensors"), 0.008
    training._begin_from(training.hparams["start"])
    pictures = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    for moves in (False, True):
        old_g = [p.clone() for p in training.generator.parameters()]
        old_d = [p.clone() for p in training.discriminator.parameters()]
        training.training_step(pictures, 1)
        assert any(not torch.equal(a, b) for a, b in zip(old_g, training.generator.parameters(), strict=True)) == moves
        assert any(not torch.equal(a, b) for a, b in zip(old_d, training.discriminator.parameters(), strict=True))


def test_a_start_from_weights_of_another_network_is_refused(training: GANTraining, tmp_path) -> None:
    training.export(tmp_path / "g.safetensors")
    with pytest.raises(LaceError, match="must fit the generator"):
        GANTraining({**GENERATOR, "w_dim": 16}, {"channels": [8, 8]}, start=str(tmp_path / "g.safetensors"))


def test_rates_fall_at_the_end(training: GANTraining) -> None:
    training.hparams.update(cooldown=0.25, learning_rate=2.0, generator_learning_rate=1.0)
    assert [training.rate_factor(step, 100) for step in (0, 75, 85, 100)] == pytest.approx([1, 1, 0.1 + 0.9 * 0.6, 0.1])
    type(training.trainer).estimated_stepping_batches = 100
    training._set_rates(training.optimizers(), 85)
    assert [optimizer.param_groups[0]["lr"] for optimizer in training.optimizers()] == pytest.approx([0.64, 1.28])
    with pytest.raises(LaceError, match="from 0 to 1"):
        GANTraining(GENERATOR, {"channels": [8, 8]}, cooldown=2)


def test_losses_are_logistic(training: GANTraining) -> None:
    training.discriminator.forward = lambda x, dtype=None: (
        x.mean((1, 2, 3)) * 0 + 2.0 + 0 * training.discriminator.out.bias.sum()
    )
    optimizer_g, optimizer_d = training.optimizers()
    fake = training._fakes(4)
    loss_d = training._discriminator_step(optimizer_d, torch.zeros(4, 3, 8, 8), fake.detach(), 1)
    assert float(loss_d) == pytest.approx(math.log1p(math.exp(-2)) + math.log1p(math.exp(2)), rel=1e-5)
    assert float(training._generator_step(optimizer_g, fake)) == pytest.approx(math.log1p(math.exp(-2)), rel=1e-5)


def test_heads_on_features_learn_to_tell_two_sets_apart_and_leave_the_classifier(tmp_path) -> None:
    """Dark pictures against light ones, on the features of an untrained classifier."""
    from lace_lightning.classifiers import AttributeClassifier
    from lace_lightning.schema import Attribute, Schema
    from lace_lightning.training.feature_discriminator import FeatureDiscriminator

    torch.manual_seed(0)
    AttributeClassifier(Schema("s", (Attribute("a"),)), "x", "resnet9", {"width": 4}).save(tmp_path / "c.safetensors")
    critic = FeatureDiscriminator(str(tmp_path / "c.safetensors"), width=8).train()
    assert not critic.network.training
    frozen = [p.clone() for p in critic.network.state_dict().values()]
    dark, light = torch.rand(16, 3, 32, 32) - 1, torch.rand(16, 3, 32, 32)
    optimizer = torch.optim.Adam([p for p in critic.heads.parameters() if p.requires_grad], 1e-2)
    for _ in range(150):
        loss = sum(
            F.softplus(-a).mean() + F.softplus(b).mean() for a, b in zip(critic(light), critic(dark), strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 3 * 2 * math.log(2) / 2
    assert all(torch.equal(a, b) for a, b in zip(frozen, critic.network.state_dict().values(), strict=True))


def test_augmentation_off_is_the_identity_and_on_is_differentiable() -> None:
    x = torch.randn(16, 3, 8, 8, requires_grad=True)
    torch.testing.assert_close(augment(x, 0.0), x)
    changed = augment(x, 1.0)
    assert changed.shape == x.shape
    changed.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not torch.allclose(changed, x)


def test_augmentation_adapts_towards_its_target() -> None:
    adaptive = AdaptiveAugment(target=0.6, kimg=1.0)
    for _ in range(200):
        adaptive.adapt(torch.ones(32))
    high = float(adaptive.probability)
    assert high > 0.5
    for _ in range(400):
        adaptive.adapt(-torch.ones(32))
    assert float(adaptive.probability) < high


def test_a_target_of_one_leaves_augmentation_out() -> None:
    """Whatever a checkpoint of an earlier training says about the probability."""
    x, off = torch.randn(16, 3, 8, 8), AdaptiveAugment(target=1.0)
    off.probability.fill_(0.7)
    assert torch.equal(off(x), x)


def test_minibatch_deviation_by_hand() -> None:
    x = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 4, 4, 4)
    deviation = Discriminator([8, 8], group_size=2).minibatch_deviation(x)
    torch.testing.assert_close(deviation, torch.ones(2, 1, 4, 4))


def test_the_export_is_the_average(training: GANTraining, tmp_path) -> None:
    from lace_lightning.generators import check_generator, load_generator

    training.training_step(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), 0)
    training.export(tmp_path / "g.safetensors", precision="float32")
    generator = load_generator(tmp_path / "g.safetensors")
    check_generator(generator)
    z = generator.prior(4)
    expected = training.average(z, noise_mode="const").clamp(-1, 1)
    assert F.mse_loss(generator(z), expected).sqrt() < 0.02
