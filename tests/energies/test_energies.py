"""Closed forms, algebra and gradients of energies."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.energies import Continuous, Discrete, HalfLine, Not, Or, Prior, Pullback, build, linearize
from lace_lightning.energies.base import Energy
from lace_lightning.errors import LaceError
from lace_lightning.generators.stylegan2 import TruncatedMapping
from lace_lightning.generators.stylegan2_networks import MappingNetwork
from lace_lightning.query import And, Atom, Query, parse
from lace_lightning.query import Not as NotNode
from lace_lightning.schema import Attribute, Labels, Schema

SCHEMA = Schema("s", (Attribute("a"), Attribute("b", "discrete", 3), Attribute("c"), Attribute("v", "continuous")))
LOGITS = torch.randn(64, SCHEMA.num_logits, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3

ATOMS = st.sampled_from(
    [parse(text, SCHEMA).root for text in ("a == 0", "a == 1", "b == 0", "b != 1", "b == 2", "c == 1")]
)
TREES = st.recursive(ATOMS, lambda inner: st.builds(NotNode, inner) | st.builds(And, inner, inner), max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_a_query_has_the_probability_of_its_truth_table(tree) -> None:
    """P = Σ over all combinations of classes that satisfy the query, whatever is repeated or negated."""
    query = Query(tree, SCHEMA)
    combinations = list(itertools.product((0, 1), (0, 1, 2), (0, 1)))
    table = Labels(SCHEMA, torch.tensor([[*row, 0.0] for row in combinations]))
    log_p = [LOGITS[:, SCHEMA.slices[name]].log_softmax(1) for name in "abc"]
    expected = torch.zeros(len(LOGITS), dtype=torch.float64)
    for row, true in zip(combinations, query.holds(table).tolist(), strict=True):
        if true:
            expected += torch.stack([part[:, c] for part, c in zip(log_p, row, strict=True)]).sum(0).exp()
    try:
        energy = build(query, sigma=0.3)
    except LaceError:
        return  # a part that is always or never true; refused by name, tested below
    log_true, log_false = energy.pair(LOGITS)
    torch.testing.assert_close(log_true.exp(), expected)
    torch.testing.assert_close(log_false.exp(), 1 - expected)
    torch.testing.assert_close(energy(LOGITS), -log_true)


def test_de_morgan_and_double_negation() -> None:
    a, b, v = Discrete(slice(0, 2), 1), Discrete(slice(2, 5), 2), Continuous(slice(7, 8), 0.4)
    for left, right in itertools.permutations((a, b, v), 2):
        torch.testing.assert_close((~(left & right)).pair(LOGITS), (~left | ~right).pair(LOGITS))
        torch.testing.assert_close((left | right)(LOGITS), (right | left)(LOGITS))
    inner = Or(a, b)
    assert Not(Not(inner)) is inner


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_gradients_survive_extreme_logits(size: float) -> None:
    signs = torch.tensor([[1.0, -1, -1, 1, 0, -1, 1, 1], [-1, 1, 1, -1, 0, 1, -1, -1]], dtype=torch.float32) * size
    for text in (
        "a == 1 or b == 0",
        "not (a == 1 and c == 1)",
        "not a == 0 and b == 1",
        "a == 1 or b == 2 or c == 1",
        "v < 0.3 or a == 1",
        "not v == 0.5",
    ):
        value, gradient = build(parse(text, SCHEMA)).value_and_grad(signs)
        assert torch.isfinite(value).all(), text
        assert torch.isfinite(gradient).all(), text
    wanted = build(parse("a == 1 or c == 1", SCHEMA)).value_and_grad(torch.tensor([[size, 0, 0, 0, 0, size, 0, 0]]))[1]
    assert float(wanted.abs().max()) > 0.4


@pytest.mark.parametrize(
    "energy",
    [
        Discrete(slice(2, 5), 1, temperature=0.7),
        Discrete(slice(2, 5), 1, 0.7, paper_temperature=True),
        Continuous(slice(7, 8), 0.4),
        2.5 * Discrete(slice(0, 2), torch.arange(64) % 2),
        Prior(),
        Discrete(slice(0, 2), 1) & Continuous(slice(7, 8), torch.linspace(0, 1, 64)),
    ],
    ids=str,
)
def test_closed_form_gradients_equal_automatic_ones(energy: Energy) -> None:
    torch.testing.assert_close(energy.value_and_grad(LOGITS), Energy.value_and_grad(energy, LOGITS))
    chosen = torch.tensor([5, 3, 60])
    torch.testing.assert_close(energy.rows(chosen)(LOGITS[chosen]), energy(LOGITS)[chosen])


def test_half_line_is_the_normal_tail() -> None:
    f = torch.tensor([[0.3], [0.2], [0.6]], dtype=torch.float64)
    below = HalfLine(slice(0, 1), 0.3, sigma=0.1)
    torch.testing.assert_close(
        below.pair(f)[0].exp(), torch.tensor([0.5, 0.8413447460685429, 0.0013498980316301035], dtype=torch.float64)
    )
    torch.testing.assert_close(HalfLine(slice(0, 1), 0.3, above=True).pair(f)[0], below.pair(f)[1])


def test_temperature() -> None:
    energy = Discrete(slice(0, 2), 1)
    torch.testing.assert_close((energy & energy).tempered(0.5)(LOGITS), 2 * energy(LOGITS / 0.5))
    f = torch.tensor([[0.0, 2.0]])
    assert float(Discrete(slice(0, 2), 1, 0.5, paper_temperature=True)(f)) == pytest.approx(math.log(1 + math.e**2) - 4)


class Counted(torch.nn.Module):
    calls = 0

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.tanh(u) * 2


def test_a_shared_map_runs_once_per_evaluation() -> None:
    g = Counted()
    terms = [Discrete(slice(0, 2), 1), Continuous(slice(7, 8), 0.4), ~Discrete(slice(2, 5), 0)]
    energy = terms[0].pullback(g) & terms[1].pullback(g) & terms[2].pullback(g)
    assert isinstance(energy, Pullback)
    value, gradient = energy.value_and_grad(LOGITS)
    assert g.calls == 1
    x = LOGITS.clone().requires_grad_(True)
    expected = sum(term(torch.tanh(x) * 2) for term in terms)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])


def test_gradients_inside_inference_mode() -> None:
    with torch.inference_mode():
        energy = build(parse("a == * or v < 0.5", SCHEMA), free=Labels.constant(SCHEMA, 64, a=1.0))
        value, gradient = energy.value_and_grad(LOGITS.clone())
    assert torch.isfinite(value).all()
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("mode", ["single", "separate"])
def test_closed_form_derivatives_of_the_networks(mode: str) -> None:
    torch.manual_seed(0)
    mapping = TruncatedMapping(MappingNetwork(12, 0, 20, 3), 0.7)
    classifier = AttributeClassifier(SCHEMA, "w", "mlp", {"input_dim": 20, "hidden": [16, 8], "mode": mode})
    z, w = torch.randn(5, 12), torch.randn(5, 20)
    for function, u, size in ((mapping, z, 20), (classifier, w, 8)):
        g = torch.randn(5, size)
        y, vjp = function.linearize(u)
        x = u.clone().requires_grad_(True)
        torch.testing.assert_close(y, function(x).detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(vjp(g), torch.autograd.grad(function(x), x, g)[0], atol=1e-6, rtol=1e-4)
        plain, plain_vjp = linearize(lambda u, f=function: f(u), u)
        torch.testing.assert_close(plain_vjp(g), vjp(g), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(plain, y)


def test_separate_networks_see_only_their_attribute() -> None:
    torch.manual_seed(0)
    classifier = AttributeClassifier(SCHEMA, "w", "mlp", {"input_dim": 6, "hidden": [8], "mode": "separate"})
    gradient = torch.autograd.grad(
        classifier(torch.randn(4, 6))[:, SCHEMA.slices["b"]].sum(), list(classifier.parameters())
    )
    for part in gradient:
        assert [float(part[index].abs().sum()) > 0 for index in range(4)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("b == 0 and b == 1", "can never be true"),
        ("a == 0 or a == 1", "can always be true"),
        ("b == * and b == 1", "use a free attribute once"),
    ],
)
def test_contradictions_are_refused(text: str, words: str) -> None:
    query = parse(text, SCHEMA)
    with pytest.raises(LaceError, match=words):
        build(query, free=Labels.constant(SCHEMA, 4, b=1.0))


def test_what_cannot_be_combined_is_said() -> None:
    with pytest.raises(LaceError, match="probability of an event"):
        (2.0 * Discrete(slice(0, 2), 1) | Discrete(slice(2, 5), 1))(LOGITS)
    with pytest.raises(LaceError, match="exact, paper"):
        build(parse("a == 1", SCHEMA), logic="exakt")
    classifier = AttributeClassifier(SCHEMA, "w", "mlp", {"input_dim": 6}, generator="abc")
    with pytest.raises(LaceError, match="train one for this generator"):
        classifier.check_generator("def")
    with pytest.raises(LaceError, match="latents of 6 numbers"):
        classifier(torch.zeros(2, 7))
    assert isinstance(parse("a == 1", SCHEMA).root, Atom)


def test_a_weight_of_each_sample() -> None:
    energy, weights = Continuous(slice(0, 1), 0.5), torch.arange(len(LOGITS)).double()
    weighted = weights * energy
    torch.testing.assert_close(weighted(LOGITS), weights * energy(LOGITS))
    value, gradient = weighted.value_and_grad(LOGITS)
    torch.testing.assert_close(value, weights * energy(LOGITS))
    torch.testing.assert_close(gradient, weights[:, None] * energy.value_and_grad(LOGITS)[1])
    chosen = torch.tensor([2, 0])
    torch.testing.assert_close(weighted.rows(chosen)(LOGITS[chosen]), weighted(LOGITS)[chosen])
