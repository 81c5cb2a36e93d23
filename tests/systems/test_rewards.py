"""Rewards beside and in the place of a query, the target of `auto`, and what is said before sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lace_lightning.callbacks import ConditionalSampling
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.energies import Continuous, Prior, Reward
from lace_lightning.errors import LaceError
from lace_lightning.examples import tiny_generator, tiny_labeler, tiny_schema
from lace_lightning.generators import ModuleGenerator
from lace_lightning.query import parse
from lace_lightning.samplers import (
    ODE,
    Annealed,
    Auto,
    CrankNicolson,
    EllipticalSlice,
    Filtered,
    HamiltonianMC,
    Heun,
    Rejection,
    Sampler,
)
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.lace import LACE, EnergyOptions
from lace_lightning.systems.outlook import PILOT, expected_scores

SIZE = 4000
SLOPE = torch.tensor([0.6, -0.8])


def linear(z: Tensor) -> Tensor:
    return z @ SLOPE.to(z)


def without_gradient(z: Tensor) -> Tensor:
    return linear(z.detach())


def bounded(z: Tensor) -> Tensor:
    return torch.sigmoid(linear(z))


@pytest.mark.parametrize(
    ("sampler", "function"),
    [
        (EllipticalSlice(20), without_gradient),
        (CrankNicolson(40), without_gradient),
        (HamiltonianMC(10), linear),
        (Annealed(5, num_slice_moves=4), linear),
        pytest.param(Auto(), linear, marks=pytest.mark.slow),
        (Auto(), without_gradient),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_linear_reward_moves_the_mean(sampler: Sampler, function) -> None:
    """N(z)·exp(w·aᵀz) is N(w·a, I)."""
    energy = Reward(function, weight=1.5, space="z")
    seeds = torch.arange(SIZE)
    z = sampler(energy, torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(3)), seeds=seeds).z
    torch.testing.assert_close(z.mean(0), 1.5 * SLOPE, atol=5 / SIZE**0.5, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), atol=7 / SIZE**0.5, rtol=0)


def test_rejection_takes_a_reward_with_a_bound() -> None:
    energy, z = Reward(bounded, 2.0, "z", best=1.0), torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(3))
    exact = Rejection()(energy, z, seeds=torch.arange(SIZE)).z
    many = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(4))
    weights = (2 * bounded(many)).softmax(0)
    torch.testing.assert_close(exact.mean(0), weights @ many, atol=5 / SIZE**0.5, rtol=0)
    with pytest.raises(LaceError, match="needs an energy of at least 0"):
        Rejection()(Reward(bounded, 2.0, "z"), z, seeds=torch.arange(SIZE))
    with pytest.raises(LaceError, match=r"must not be better than best=0\.1"):
        Reward(bounded, 2.0, "z", best=0.1)(z)


def test_the_flow_follows_a_reward() -> None:
    z = torch.zeros(3, 2)
    moved = Heun()(Reward(linear, 2.0, "z"), z).z
    assert bool((linear(moved) > 1).all())
    with pytest.raises(LaceError, match="'without_gradient' has none: choose sampler=slice"):
        Heun()(Reward(without_gradient, 2.0, "z"), z)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Reward("no_such_module.bright"), "could not be imported"),
        (lambda: Reward("math.pi"), "is a value of type float"),
        (lambda: Reward(linear, space="y"), "one of z, w, x"),
        (lambda: Reward(linear, weight=math.inf), "finite number"),
        (lambda: Reward(lambda z: z)(torch.zeros(3, 2)), r"shape \(3,\), and returned \(3, 2\)"),
        (lambda: Reward(lambda z: z.sum())(torch.zeros(3, 2)), "average over the other dimensions"),
        (lambda: Reward(lambda z: z[:, 0] / 0)(torch.zeros(3, 2)), "is not for 3 of 3"),
    ],
)
def test_what_is_no_reward_is_said(make, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        make()


def corner(images: Tensor) -> Tensor:
    return images[:, 0, 0, 0]


def lace(sampler: Sampler, extra, options: EnergyOptions | None = None) -> LACE:
    torch.manual_seed(0)
    classifier = AttributeClassifier(tiny_schema(), "z", "mlp", {"input_dim": 4, "hidden": []})
    # Decisive, and either class for half of the prior.
    with torch.no_grad():
        for name, value in classifier.named_parameters():
            value.mul_(0 if "bias" in name else 4)
    classifier.requires_grad_(False)
    return LACE.of(classifier, sampler, options, extra).bind(tiny_generator())


def sampled(system: LACE, text: str, count: int = 200) -> dict[str, float]:
    torch.manual_seed(1)
    sampling = ConditionalSampling(
        tiny_labeler(),
        parse(text, tiny_schema()),
        num_samples=count,
        batch_size=count,
        timing_repeats=0,
        progress=False,
    )
    sampling.check(system)
    return sampling.evaluate(system).metrics


def test_rewards_on_pictures_beside_a_query_and_alone(capsys) -> None:
    reward = Reward(corner, weight=4.0)
    alone = sampled(lace(EllipticalSlice(10), {"bright": reward}), "anything")
    assert alone["reward/bright"] > alone["prior/reward/bright"] + 0.05
    assert "acc" not in alone
    assert "target: N(z)·exp(4·bright)" in capsys.readouterr().err
    both = sampled(lace(EllipticalSlice(10), {"bright": reward}, EnergyOptions(weight=6.0)), "hat == 1")
    assert both["reward/bright"] > both["prior/reward/bright"] + 0.05
    assert both["own/acc"] > 0.9
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    query = parse("hat == 1", tiny_schema())
    energy = lace(Heun(), {"bright": reward, "prior": Prior()}).energy(query, None)
    expected = -4 * corner(tiny_pictures(z)) + z.square().sum(1) / 2 + lace(Heun(), None).energy(query, None)(z)
    torch.testing.assert_close(energy(z), expected)
    gradient = torch.autograd.functional.jacobian(lambda u: energy(u).sum(), z)
    torch.testing.assert_close(energy.value_and_grad(z)[1], gradient)


def tiny_pictures(z: Tensor) -> Tensor:
    return lace(Heun(), None).generator(z)


def test_nothing_asked_for_and_no_energy_is_refused() -> None:
    with pytest.raises(LaceError, match="asks for nothing and no energy stands in its place"):
        sampled(lace(Heun(), None), "anything")


def test_auto_samples_what_was_asked_for() -> None:
    for options, gamma, target in (
        (None, 10.0, "controlled"),
        (EnergyOptions(target="controlled"), 10.0, "controlled"),
        (EnergyOptions(weight=4.0), 4.0, None),
        (EnergyOptions(target="calibrated"), 1.0, "calibrated"),
        (EnergyOptions(target="hard"), 6.0, "hard"),
    ):
        for sampler in (Auto(), Filtered(Auto())):
            system = LACE(tiny_schema(), sampler, options, space="z", arguments={"input_dim": 4})
            assert (system.options.gamma, system.options.target) == (gamma, target)
    for sampler in (Heun(), ODE(), Rejection()):
        assert LACE(tiny_schema(), sampler, space="z", arguments={"input_dim": 4}).options == EnergyOptions()


@pytest.mark.parametrize(
    ("sampler", "options", "words"),
    [
        (Heun(), None, "target: none, the flow along the gradient of N(z)·p(c|w); expected ACC "),
        (Rejection(), None, "target: calibrated, N(z)·p(c|w) (query.target=controlled asks for more control); "),
        pytest.param(
            Auto(),
            None,
            "target: controlled, N(z)·p(c|w)^10 (query.target=calibrated changes it); expected ACC ",
            marks=pytest.mark.slow,
        ),
        (Rejection(), EnergyOptions(target="hard"), "target: hard, N(z) where every decision is right; expected ACC "),
    ],
)
def test_every_run_says_its_target_and_the_acc_to_expect(sampler, options, words: str, capsys) -> None:
    system = lace(sampler, None, options)
    metrics = sampled(system, "hat == 1", 600)
    line = capsys.readouterr().err
    assert line.startswith(words)
    assert line.count("\n") == 1
    assert system.outlook is not None
    assert system.outlook.samples == PILOT
    assert system.outlook.expected == pytest.approx(metrics["confidence"], abs=6 * system.outlook.error + 1e-3)


def test_the_share_is_expected_where_no_label_is_wanted(capsys) -> None:
    system = lace(Rejection(), None)
    sampled(system, "not hat == 1")
    assert "expected share of samples for which the query holds 0." in capsys.readouterr().err


def test_expected_scores_are_means_over_what_the_judge_may_say() -> None:
    schema = Schema("s", (Attribute("hat", "discrete", 3), Attribute("age", "continuous")))
    logits = torch.tensor([[1.0, 0.0, -1.0, 0.55], [0.0, 2.0, 0.0, 0.2]], dtype=torch.float64)
    wanted = Labels.constant(schema, 2, hat=torch.tensor([0.0, 1.0]), age=0.5)
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    continuous = 1 - (logits[:, 3] + 0.1 * noise - 0.5).abs().mean(0)
    expected = (logits[:, :3].softmax(1)[[0, 1], [0, 1]] + continuous) / 2
    torch.testing.assert_close(expected_scores(schema, logits, wanted, 0.1), expected, atol=1e-3, rtol=0)


def test_a_continuous_value_is_expected_too() -> None:
    schema = Schema("s", (Attribute("age", "continuous"),))
    energy = Continuous(slice(0, 1), 0.5)
    assert energy(torch.tensor([[0.5]])).item() == 0
    wanted = Labels.constant(schema, 1, age=0.5)
    score = expected_scores(schema, torch.tensor([[0.5]]), wanted, 0.1)
    assert score.item() == pytest.approx(1 - 0.1 * math.sqrt(2 / math.pi))


def test_latents_of_a_generator_with_a_mapping() -> None:
    """A reward on w is a function of the mapping's output."""
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.Unflatten(1, (3, 2, 2)))
    generator = ModuleGenerator(decoder, 2, (3, 2, 2))
    classifier = AttributeClassifier(tiny_schema(), "z", "mlp", {"input_dim": 2, "hidden": []})
    system = LACE.of(classifier, Heun(), extra=Reward(linear, 2.0, "w")).bind(generator)
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(system.rewards_of(z)["energy"], linear(generator.mapping(z)))
