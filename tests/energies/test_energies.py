"""Closed forms, algebra and gradients of energies."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.conditions import COUNTS, Node
from lace_lightning.conditions import Count as CountNode
from lace_lightning.energies import (
    Continuous,
    Count,
    Discrete,
    HalfLine,
    Interval,
    Not,
    Or,
    Prior,
    Pullback,
    build,
    linearize,
)
from lace_lightning.energies.base import Energy
from lace_lightning.errors import LaceError
from lace_lightning.generators.stylegan2 import TruncatedMapping
from lace_lightning.generators.stylegan2_networks import MappingNetwork
from lace_lightning.query import And, Atom, Query, parse
from lace_lightning.query import Not as NotNode
from lace_lightning.schema import Attribute, Labels, Schema

SCHEMA = Schema("s", (Attribute("a"), Attribute("b", "discrete", 3), Attribute("c"), Attribute("v", "continuous")))
LOGITS = torch.randn(64, SCHEMA.num_logits, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3

BOUNDS = (0.1, 0.25, 0.3, 0.45, 0.5, 0.7)
ATOMS = st.sampled_from(
    [
        parse(text, SCHEMA).root
        for text in (
            "a == 0",
            "a == 1",
            "b == 0",
            "b != 1",
            "b == 2",
            "b in (0, 2)",
            "b not in (0, 1)",
            "c == 1",
            "v < 0.3",
            "v >= 0.25",
            "v > 0.7",
            "0.1 < v < 0.5",
            "0.3 <= v < 0.45",
        )
    ]
)


def counts(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.builds(
        CountNode, st.sampled_from(COUNTS), st.integers(0, 3), st.lists(inner, min_size=1, max_size=3).map(tuple)
    )


TREES = st.recursive(
    ATOMS,
    lambda inner: st.builds(NotNode, inner) | st.builds(And, inner, inner) | counts(inner),
    max_leaves=6,
)


def normal(x: torch.Tensor) -> torch.Tensor:
    return torch.erfc(-x / math.sqrt(2)) / 2


@settings(max_examples=80, deadline=None)
@given(TREES)
def test_a_query_has_the_probability_of_its_truth_table(tree) -> None:
    """P = Σ over all combinations of classes and of cells of v that satisfy the query, whatever is repeated."""
    query, sigma = Query(tree, SCHEMA), 0.3
    ends = [-9.0, *BOUNDS, 9.0]
    cells = [(low + high) / 2 for low, high in itertools.pairwise(ends)]
    combinations = list(itertools.product((0, 1), (0, 1, 2), (0, 1), range(len(cells))))
    table = Labels(SCHEMA, torch.tensor([[*row[:3], cells[row[3]]] for row in combinations]))
    p = [LOGITS[:, SCHEMA.slices[name]].softmax(1) for name in "abc"]
    below = torch.stack([normal((end - LOGITS[:, 7]) / sigma) for end in BOUNDS], 1)
    p.append(torch.diff(below, prepend=torch.zeros_like(below[:, :1]), append=torch.ones_like(below[:, :1])))
    expected = torch.zeros(len(LOGITS), dtype=torch.float64)
    for row, true in zip(combinations, query.holds(table).tolist(), strict=True):
        if true:
            expected += torch.stack([part[:, c] for part, c in zip(p, row, strict=True)]).prod(0)
    try:
        energy = build(query, sigma=sigma)
    except LaceError:
        return  # a part that is always or never true; refused by name, tested below
    log_true, log_false = energy.pair(LOGITS)
    torch.testing.assert_close(log_true.exp(), expected)
    torch.testing.assert_close(log_false.exp(), 1 - expected)
    value, gradient = energy.value_and_grad(LOGITS)
    torch.testing.assert_close(value, -log_true)
    assert bool(gradient.isfinite().all())


# a, b, σ, f, and log p, log(1 - p), ∂(-log p)/∂f, ∂²(-log p)/∂f², by arithmetic of 60 digits.
INTERVALS = [
    (0.3, 0.5, 0.1, 0.4, -0.38171514630212605, -1.1478744644493182, 0.0, 70.88749052272067),
    (0.3, 0.5, 0.1, -3.0, -548.9163622697381, -4.061185620916116e-239, -330.30247631156703, 99.90867473619674),
    (0.3, 0.5, 0.1, 9.0, -3617.8617281501397, -0.0, 850.1176145146779, 99.98617065042706),
    (0.3, 0.3001, 0.1, 2.5, -249.81567381318555, -3.2094555853069095e-109, 219.9949816672318, 99.99999166686858),
    (0.45, 0.55, 0.01, -20.0, -2091021.0420918406, -0.0, -204500.0488997321, 9999.997608817343),
    (0.0, 1.0, 0.1, 0.5, -5.733033080966988e-07, -14.371851213428778, 0.0, 0.00148672036707576),
    (0.2, 0.9, 0.03, 0.55, -1.8867175190422729e-31, -70.7452993260757, 0.0, 2.8740353200944114e-26),
]


@pytest.mark.parametrize(("low", "high", "sigma", "f", "log_p", "log_rest", "slope", "second"), INTERVALS)
def test_an_interval_is_exact_in_both_tails(low, high, sigma, f, log_p, log_rest, slope, second) -> None:
    energy, u = Interval(slice(0, 1), low, high, sigma), torch.tensor([[f]], dtype=torch.float64)
    l, l_bar = energy.pair(u)
    assert l.item() == pytest.approx(log_p, rel=1e-9)
    assert l_bar.item() == pytest.approx(log_rest, rel=1e-9, abs=1e-300)
    _, gradient, rows = energy.curvature(u)
    assert gradient.item() == pytest.approx(slope, rel=1e-8, abs=1e-8)
    assert rows.square().sum().item() == pytest.approx(second, rel=5e-3)
    torch.testing.assert_close(Energy.value_and_grad(energy, u)[1], gradient, rtol=1e-6, atol=1e-6)
    single = energy.value_and_grad(u.float())
    assert single[0].item() == pytest.approx(-log_p, rel=1e-5, abs=1e-6)


def test_an_interval_is_the_difference_of_its_bounds() -> None:
    v = SCHEMA.slices["v"]
    below = [HalfLine(v, end, sigma=0.3).pair(LOGITS)[0].exp() for end in (0.2, 0.6)]
    torch.testing.assert_close(Interval(v, 0.2, 0.6, 0.3).pair(LOGITS)[0].exp(), below[1] - below[0])


def test_a_count_is_stable_where_its_probability_is_tiny() -> None:
    """Of 12 events of p = e^-60 each, at least 3: log C(12, 3) - 180; and not at most 2."""
    u = torch.zeros(1, 24, dtype=torch.float64)
    u[:, 1::2] = -60
    events = [Discrete(slice(2 * i, 2 * i + 2), 1) for i in range(12)]
    l, l_bar = Count(range(3, 13), events).pair(u)
    torch.testing.assert_close(l.item(), math.log(math.comb(12, 3)) - 180)
    assert l_bar.item() == pytest.approx(0, abs=1e-15)
    torch.testing.assert_close((~Count(range(3), events)).pair(u)[0], l)
    rare = Count([12], events).value_and_grad(u)
    torch.testing.assert_close(rare[0].item(), 720.0)
    assert bool(rare[1].isfinite().all())


@pytest.mark.parametrize("name", ["at least", "at most", "exactly"])
def test_counts_are_those_of_all_combinations(name: str) -> None:
    events = "(a == 1, b in (0, 2), c == 0, 0.3 < v < 0.5)"
    p = torch.stack(
        [
            build(parse(text, SCHEMA)).pair(LOGITS)[0].exp()
            for text in ("a == 1", "b in (0, 2)", "c == 0", "0.3 < v < 0.5")
        ]
    )
    for k in range(5):
        expected = torch.zeros(len(LOGITS), dtype=torch.float64)
        for row in itertools.product((0, 1), repeat=4):
            if {"at least": sum(row) >= k, "at most": sum(row) <= k, "exactly": sum(row) == k}[name]:
                expected += torch.stack([q if hit else 1 - q for q, hit in zip(p, row, strict=True)]).prod(0)
        query = parse(f"{name} {k} of {events}", SCHEMA)
        if len(query.outcomes()) == 1:
            torch.testing.assert_close(expected, torch.ones_like(expected))
            with pytest.raises(LaceError, match="is true for every picture"):
                build(query)
            continue
        torch.testing.assert_close(build(query).pair(LOGITS)[0].exp(), expected)


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
        ("a == 0 or a == 1", "is true for every picture"),
        ("b == * and b == 1", "use a free attribute once"),
        ("v > 0.5 and v < 0.3", "0.5 < v < 0.3' can never be true"),
        ("b in (0, 1, 2)", "is true for every picture"),
        ("at least 3 of (a == 1, c == 1)", "can never be true"),
        ("v > * and v < 0.3", "use a free attribute once"),
        ("v < 0.5 or v >= 0.5", "is true for every picture"),
        ("0.5 <= v <= 0.5", "`==` for a single value"),
        ("at least 1 of (v == 0.2, v == 0.8)", "'v' is compared with a value in 2 of them"),
    ],
)
def test_contradictions_are_refused(text: str, words: str) -> None:
    query = parse(text, SCHEMA)
    with pytest.raises(LaceError, match=words):
        build(query, free=Labels.constant(SCHEMA, 4, b=1.0, v=0.5))


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


@pytest.mark.parametrize(
    ("text", "like"),
    [("b not in (0, 1)", "not b in (0, 1)"), ("0.2 < v < 0.4", "v < 0.4 and v > 0.2"), ("b in (1)", "b == 1")],
)
def test_the_papers_logic_has_intervals_and_lists(text: str, like: str) -> None:
    one, other = (build(parse(each, SCHEMA), logic="paper")(LOGITS) for each in (text, like))
    torch.testing.assert_close(one, other)
    if "not" not in text:
        torch.testing.assert_close(one, build(parse(text, SCHEMA))(LOGITS))


def test_what_the_papers_options_cannot_is_said() -> None:
    with pytest.raises(LaceError, match="paper's logic has no counts"):
        build(parse("at least 1 of (a == 1, c == 1)", SCHEMA), logic="paper")
    with pytest.raises(LaceError, match="asks for several"):
        build(parse("b in (0, 1)", SCHEMA), temperature=0.5, paper_temperature=True)


@pytest.mark.parametrize(
    "text", ["0.2 < v <= 0.6", "b in (0, 2) and v > 0.3", "at least 2 of (a == 1, b == 2, v <= 0.5)"]
)
def test_a_hard_region_is_where_the_decisions_are_right(text: str) -> None:
    query, u = parse(text, SCHEMA), LOGITS / 3
    region = build(query, hard=True, weight=6.0)
    inside = query.holds(SCHEMA.decode(u))
    assert bool(inside.any())
    assert not bool(inside.all())
    value, gradient = region.value_and_grad(u)
    assert torch.equal(value == 0, inside)
    torch.testing.assert_close(gradient, (6 * build(query)).value_and_grad(u)[1])


def test_a_weight_of_each_sample() -> None:
    energy, weights = Continuous(slice(0, 1), 0.5), torch.arange(len(LOGITS)).double()
    weighted = weights * energy
    torch.testing.assert_close(weighted(LOGITS), weights * energy(LOGITS))
    value, gradient = weighted.value_and_grad(LOGITS)
    torch.testing.assert_close(value, weights * energy(LOGITS))
    torch.testing.assert_close(gradient, weights[:, None] * energy.value_and_grad(LOGITS)[1])
    chosen = torch.tensor([2, 0])
    torch.testing.assert_close(weighted.rows(chosen)(LOGITS[chosen]), weighted(LOGITS)[chosen])
