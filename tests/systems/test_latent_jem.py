"""Latent-JEM: identities of the energies, chains against closed forms, the buffer, resuming, a toy problem."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lace_lightning.energies import Energy, Joint
from lace_lightning.errors import LaceError
from lace_lightning.samplers import FlatLangevin, Langevin
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.latent_jem import LatentJEM

SCHEMA = Schema("s", (Attribute("a", "discrete", 3), Attribute("v", "continuous"), Attribute("b")))
ONE = Schema("s", (Attribute("a", "discrete", 3),))


def model(schema: Schema = SCHEMA, **settings: object) -> LatentJEM:
    torch.manual_seed(0)
    result = LatentJEM(schema, 4, {"hidden": [16, 16]}, **settings)  # type: ignore[arg-type]
    result.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    return result


def every_code() -> Labels:
    return Labels(SCHEMA, torch.tensor([[a, 0.3, b] for a in (0.0, 1.0, 2.0) for b in (0.0, 1.0)]))


def test_what_is_known_is_a_share_of_the_marginal() -> None:
    """exp(E(w) - E(w, c)) = p(c|w), the softmax, and all of them sum to 1."""
    f = 3 * torch.randn(6, 6, dtype=torch.double)
    marginal = Joint(Labels.constant(SCHEMA, 1))(f)
    for c in range(3):
        share = (marginal - Joint(Labels.constant(SCHEMA, 1, a=c))(f)).exp()
        torch.testing.assert_close(share, f[:, :3].softmax(1)[:, c], rtol=1e-12, atol=0)
    codes = every_code()
    joint = Joint(Labels(SCHEMA, codes.values, torch.tensor([[True, False, True]]).expand(6, 3)))
    everything = (marginal[:, None] - torch.stack([joint(row.expand(6, 6)) for row in f])).exp()
    torch.testing.assert_close(everything.sum(1), torch.ones(6, dtype=torch.double))


def test_energies_by_hand() -> None:
    f = torch.tensor([[1.0, -2.0, 0.5, 0.7, 3.0, -1.0]])
    assert float(Joint(Labels(SCHEMA, torch.tensor([[1.0, 0.4, 0.0]])), sigma=0.2)(f)) == pytest.approx(
        2.0 + 0.09 / 0.08 - 3.0
    )
    a, b = math.log(math.exp(1) + math.exp(-2) + math.exp(0.5)), math.log(math.exp(3) + math.exp(-1))
    assert float(Joint(Labels.constant(SCHEMA, 1))(f)) == pytest.approx(-a - b)
    assert float(Joint(Labels.constant(SCHEMA, 1, b=1))(f)) == pytest.approx(-a + 1.0)


def test_a_constant_moves_the_density_and_no_decision() -> None:
    f, shift = torch.randn(5, 6, dtype=torch.double), torch.randn(5, 1, dtype=torch.double)
    moved = f + shift * torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    marginal, given = Joint(Labels.constant(SCHEMA, 1)), Joint(Labels.constant(SCHEMA, 1, a=2))
    torch.testing.assert_close(marginal(moved), marginal(f) - shift[:, 0])
    torch.testing.assert_close(marginal(moved) - given(moved), marginal(f) - given(f))


def test_the_gradient_of_the_marginal_is_the_mean_of_the_gradients_by_class() -> None:
    module, w = model().double(), torch.randn(7, 4, dtype=torch.double)
    p = module(w)[:, :3].softmax(1).detach()
    gradient = module.marginal.pullback(module.classifier).value_and_grad(w)[1]
    by_class = [
        Joint(Labels.constant(SCHEMA, 1, a=c)).pullback(module.classifier).value_and_grad(w)[1] for c in range(3)
    ]
    torch.testing.assert_close(gradient, sum(p[:, c, None] * g for c, g in enumerate(by_class)))


def test_the_closed_form_gradient_is_that_of_autograd_and_rows_are_rows() -> None:
    f = torch.randn(6, 6, dtype=torch.double)
    known = torch.tensor([[True, True, True], [False, True, True], [True, False, False]]).repeat(2, 1)
    energy = Joint(Labels(SCHEMA, every_code().values, known))
    value, gradient = energy.value_and_grad(f)
    by_autograd = Energy.value_and_grad(energy, f)
    torch.testing.assert_close(value, by_autograd[0])
    torch.testing.assert_close(gradient, by_autograd[1])
    torch.testing.assert_close(energy.rows(torch.tensor([4, 1]))(f[[4, 1]]), value[[4, 1]])


class Quadratic(Energy):
    """E = k‖w‖²/2."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, u: Tensor) -> Tensor:
        return self.k * u.square().sum(1) / 2


@pytest.mark.parametrize(
    ("step", "noise", "k", "variance"),
    [(1.0, 0.01, 1.0, 1e-4), (1.0, 0.01, 0.5, 1.3333e-4), (0.1, 0.01, 1.0, 5.2632e-4)],
)
def test_langevin_on_a_quadratic_has_its_stationary_variance(
    step: float, noise: float, k: float, variance: float
) -> None:
    start = math.sqrt(variance) * torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    out = FlatLangevin(60, step, noise)(Quadratic(k), start, torch.arange(500)).z
    assert float(out.square().mean()) == pytest.approx(variance, rel=0.05)
    # With the prior that the energy of z needs and that of w does not have, the same chain is one on k + 1.
    beside = Langevin(60, step / 2, noise)(Quadratic(k), start, torch.arange(500)).z
    assert float(beside.square().mean()) == pytest.approx(noise**2 / (1 - (1 - step / 2 * (k + 1)) ** 2), rel=0.05)


class Untouched(LatentJEM):
    """Negatives that equal the data."""

    def negatives(self, w: Tensor) -> Tensor:
        return w


def test_negatives_that_equal_the_data_pull_nowhere_and_the_rest_is_the_classifier() -> None:
    torch.manual_seed(0)
    w, labels = torch.randn(6, 4), every_code().values
    gradients = []
    for kind, weight in ((Untouched, 1.0), (LatentJEM, 0.0)):
        torch.manual_seed(0)
        module = kind(SCHEMA, 4, {"hidden": [5]}, likelihood_weight=weight, continuous_weight=50.0)
        module.log_dict = lambda *_, **__: None
        loss = module.training_step((w, labels), 0)
        torch.testing.assert_close(
            loss, module.classifier.energy("a == * and v == * and b == *", Labels(SCHEMA, labels))(w).mean()
        )
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_likelihood_part_is_the_gap_of_energies() -> None:
    module, w = model(chain_steps=3, restart=1.0), torch.randn(6, 4)
    negative = module.negatives(w)
    energy = module.marginal.pullback(module.classifier)
    unknown = (w, torch.zeros(6, 3), torch.zeros(6, 3, dtype=torch.bool))
    # With no label known the loss is the gap alone; same step, same noise, so that the chains are the same again.
    torch.testing.assert_close(module.training_step(unknown, 0), energy(w).mean() - energy(negative).mean())


def test_what_is_not_known_counts_nowhere() -> None:
    module, w = model(chain_steps=1, restart=1.0), torch.randn(6, 4)
    labels, known = every_code().values, torch.rand(6, 3) < 0.5
    other = torch.where(known, labels, torch.tensor([[2.0, 0.9, 1.0]]))
    torch.testing.assert_close(module.training_step((w, labels, known), 0), module.training_step((w, other, known), 0))


def test_continuous_attributes_alone_have_no_density_of_w() -> None:
    schema = Schema("s", (Attribute("v", "continuous"), Attribute("u", "continuous")))
    module, w = model(schema), torch.randn(6, 4)
    assert module.marginal(module(w)).tolist() == [0.0] * 6
    unknown = (w, torch.zeros(6, 2), torch.zeros(6, 2, dtype=torch.bool))
    assert module.training_step(unknown, 0).item() == 0
    assert not module.visits.any()
    out = module.sample(Labels.constant(schema, 6, v=0.5), torch.arange(6), w)
    assert (module(out.z)[:, 0] - 0.5).abs().mean() < (module(w)[:, 0] - 0.5).abs().mean()


def test_the_age_of_chains_is_geometric() -> None:
    module = model(ONE, chain_steps=1, buffer_size=500, restart=0.05)
    moments = []
    for step in range(400):
        module._random = lambda purpose, step=step: torch.Generator().manual_seed(2 * step + purpose)  # type: ignore[method-assign]
        module.negatives(torch.randn(100, 4))
        if step == 4:
            # A place of the buffer that was never visited has begun nowhere: 500·(1 - 0.8^5) of them have.
            assert int((module.visits > 0).sum()) == pytest.approx(500 * (1 - 0.8**5), abs=40)
        if step >= 300 and step % 5 == 0:
            moments.append(module.visits.double())
    ages = torch.cat(moments)
    # 60 to 80 visits a place so far, after which nearly all chains (1 - 0.95^60) have begun anew: p(j) = 0.05·0.95^(j -
    # 1).
    assert float(ages.mean()) == pytest.approx(20, rel=0.12)
    for age in (1, 5, 15):
        assert float((ages > age).double().mean()) == pytest.approx(0.95**age, abs=0.04)


def test_chains_go_on_where_they_were_left() -> None:
    module, w = model(ONE, chain_steps=4, buffer_size=6, restart=0.0, step_size=0.05, noise_std=0.0), torch.randn(6, 4)
    module.negatives(w)
    first = module.buffer.clone()
    once = FlatLangevin(4, 0.05, 0.0)(module.marginal.pullback(module.classifier), first, torch.arange(6)).z
    module.negatives(torch.full((6, 4), torch.nan))
    torch.testing.assert_close(module.buffer, once)
    assert module.visits.tolist() == [2] * 6


def test_queries_are_energies_of_w() -> None:
    """Conjunctions are E(w, c); for the rest exp(E(w) - E) is the probability of the event."""
    module, w = model().double(), torch.randn(5, 4, dtype=torch.double)
    codes = Labels.constant(SCHEMA, 1, a=1, b=0, v=0.4)
    torch.testing.assert_close(
        module.energy("a == 1 and b == 0 and v == 0.4")(w), Joint(codes).pullback(module.classifier)(w)
    )
    f = module(w)
    a, b = f[:, :3].softmax(1), f[:, 4:].softmax(1)
    marginal = module.marginal(f)
    torch.testing.assert_close(
        (marginal - module.energy("a == 0 or b == 1")(w)).exp(), 1 - (1 - a[:, 0]) * (1 - b[:, 1])
    )
    torch.testing.assert_close((marginal - module.energy("not a == 2")(w)).exp(), 1 - a[:, 2])
    energy = module.energy("a == * and not b == 1", Labels.constant(SCHEMA, 5, a=torch.tensor([0, 1, 2, 0, 1])))
    for one, other in zip(energy.value_and_grad(w), Energy.value_and_grad(energy, w), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(LaceError, match="without one"):
        energy.pair(w)


def test_samples_do_not_depend_on_their_batch_and_unknown_codes_follow_the_marginal() -> None:
    module, starts, seeds = model(num_steps=20), torch.randn(6, 4), torch.arange(6)
    codes = Labels(SCHEMA, every_code().values, torch.tensor([[True, True, False], [False, False, False]]).repeat(3, 1))
    sample = module.sample(codes, seeds, starts)
    assert sample.evaluations == 20
    for i in range(6):
        torch.testing.assert_close(
            module.sample(codes[i : i + 1], seeds[i : i + 1], starts[i : i + 1]).z, sample.z[i : i + 1]
        )
    free = FlatLangevin(20, 0.1, 0.01)(module.marginal.pullback(module.classifier), starts, seeds).z
    torch.testing.assert_close(sample.z[1::2], free[1::2])
    assert (sample.z[::2] - free[::2]).abs().amax(1).min() > 1e-3


def test_codes_and_starts_that_cannot_be_are_refused() -> None:
    module, seeds, starts = model(), torch.arange(2), torch.zeros(2, 4)
    with pytest.raises(LaceError, match="from 0 to 2"):
        module.sample(Labels.constant(SCHEMA, 2, a=3), seeds, starts)
    with pytest.raises(LaceError, match="'c' was asked for"):
        module.sample(Labels.constant(Schema("other", (Attribute("c"),)), 2, c=1), seeds, starts)
    with pytest.raises(LaceError, match="give starts"):
        module.sample(Labels.constant(SCHEMA, 2, a=1), seeds)
    with pytest.raises(LaceError, match="raise buffer_size"):
        model(buffer_size=1).negatives(starts)
    with pytest.raises(LaceError, match="restart must be a probability"):
        model(restart=1.5)


def test_divergence_is_told_with_the_step() -> None:
    module, w = model(chain_steps=1), torch.randn(6, 4)
    with torch.no_grad():
        module.classifier.network.bias2.add_(1e9)
    with pytest.raises(LaceError, match="diverged at step 0"):
        module.training_step((w, every_code().values), 0)


def toy(count: int = 512) -> tuple[Tensor, Tensor]:
    """Three blobs of w, one a class."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    return centres[labels] + 0.5 * torch.randn(count, 4, generator=generator), labels[:, None].float()


def fit(folder: Path, module: LatentJEM, epochs: int, resume: Path | None = None) -> None:
    module.__dict__.pop("log_dict", None)
    checkpoint = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint],
    )
    trainer.fit(module, DataLoader(TensorDataset(*toy()), batch_size=64), ckpt_path=resume, weights_only=True)


def settings() -> dict[str, object]:
    return {"learning_rate": 3e-3, "warmup_steps": 1, "buffer_size": 128, "chain_steps": 5, "seed": 3}


def test_a_resumed_training_is_the_same_training(tmp_path: Path) -> None:
    whole, rest, half = (model(ONE, **settings()) for _ in range(3))
    fit(tmp_path, whole, 4)
    fit(tmp_path / "rest", rest, 4, tmp_path / "epoch=1.ckpt")
    fit(tmp_path / "half", half, 2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    assert not torch.equal(whole.buffer, half.buffer)


def test_training_learns_to_decide_and_chains_stay_with_the_data(tmp_path: Path) -> None:
    module = model(ONE, **settings(), noise_std=0.05, num_steps=40)
    fit(tmp_path, module, 30)
    w, labels = toy()
    assert float((module(w).argmax(1) == labels[:, 0]).float().mean()) > 0.95
    starts, seeds = w[:300], torch.arange(300)
    codes = Labels.constant(ONE, 300, a=seeds % 3)
    out = module.sample(codes, seeds, starts).z
    assert float((module(out).argmax(1) == seeds % 3).float().mean()) > 0.9
    assert float(out.norm(dim=1).mean() / w.norm(dim=1).mean()) == pytest.approx(1, abs=0.15)
    # Logits that are no density grow without end, and chains on them leave.
    classifier_alone = model(ONE, **settings(), noise_std=0.05, num_steps=40, likelihood_weight=0.0)
    fit(tmp_path / "alone", classifier_alone, 30)
    assert float(classifier_alone.sample(codes, seeds, starts).z.norm(dim=1).mean() / w.norm(dim=1).mean()) > 2

    from_buffer = module.sample(Labels.constant(ONE, 300), seeds).z
    torch.testing.assert_close(module.sample(Labels.constant(ONE, 50), seeds[100:150]).z, from_buffer[100:150])

    module.save(tmp_path / "jem.safetensors")
    again = LatentJEM.load(tmp_path / "jem.safetensors")
    torch.testing.assert_close(again.sample(Labels.constant(ONE, 300), seeds).z, from_buffer, rtol=0, atol=0)
    module.classifier.save(tmp_path / "c.safetensors")
    with pytest.raises(LaceError, match="must be a latent_jem"):
        LatentJEM.load(tmp_path / "c.safetensors")
