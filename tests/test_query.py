from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lace_lightning.conditions import COUNTS, Count, Interval, OneOf, restrict
from lace_lightning.errors import LaceError
from lace_lightning.query import And, Atom, Node, Not, Or, Query, parse
from lace_lightning.schema import Attribute, Labels, Schema

from .test_schema import FACES


def test_precedence_is_pythons() -> None:
    query = parse("glasses == 1 or haircolor == red and not yaw < 0.3", FACES)
    assert isinstance(query.root, Or)
    assert isinstance(query.root.right, And)
    assert isinstance(query.root.right.right, Not)
    assert query.attributes == ("glasses", "haircolor", "yaw")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("(( glasses==1 ))and(yaw>.7)", "glasses == 1 and yaw > 0.7"),
        ("haircolor == 2", "haircolor == red"),
        ("not (glasses == 1 or glasses != 0)", "not (glasses == 1 or glasses != 0)"),
        ("glasses == *", "glasses == *"),
        ("0.3<yaw<0.5", "0.3 < yaw < 0.5"),
        ("0.5 >= yaw > .3", "0.3 < yaw <= 0.5"),
        ("0.3 <= yaw", "yaw >= 0.3"),
        ("yaw > 0.3 and yaw < 0.5", "0.3 < yaw < 0.5"),
        ("yaw < 0.5 and glasses == 1 and yaw >= 0.3", "0.3 <= yaw < 0.5 and glasses == 1"),
        ("yaw > 0.3 and (0.2 < yaw <= 0.4 and glasses == 1)", "0.3 < yaw <= 0.4 and glasses == 1"),
        ("yaw > 0.3 and yaw >= 0.3 and yaw > 0.1", "yaw > 0.3"),
        ("yaw > 0.3 or yaw < 0.5", "yaw > 0.3 or yaw < 0.5"),
        ("yaw < 0.123456789", "yaw < 0.123456789"),
        ("haircolor in (red, 'black',red)", "haircolor in (black, red)"),
        ("haircolor in (red)", "haircolor == red"),
        ("haircolor not in (red)", "haircolor != red"),
        ("not haircolor not in (0,2)", "not haircolor not in (black, red)"),
        (
            "at  least 2 of(glasses==1,yaw<.5,haircolor==red)",
            "at least 2 of (glasses == 1, yaw < 0.5, haircolor == red)",
        ),
        (
            "at most 1 of (glasses == 1 or yaw < 0.5, not haircolor in (red, brown))",
            "at most 1 of (glasses == 1 or yaw < 0.5, not haircolor in (brown, red))",
        ),
        ("exactly 1 of (glasses == 1, yaw > 0.3 and yaw < 0.5)", "exactly 1 of (glasses == 1, 0.3 < yaw < 0.5)"),
        ("'glasses' == \"1\"", "glasses == 1"),
    ],
)
def test_text_is_canonical(text: str, canonical: str) -> None:
    assert parse(text, FACES).text == canonical


ATOMS = st.sampled_from(
    [
        parse(text, FACES).root
        for text in (
            "glasses == 1",
            "glasses != 1",
            "yaw == 0.5",
            "yaw < 0.25",
            "yaw <= 0.45",
            "yaw > 0.75",
            "yaw >= 0.1",
            "0.1 < yaw <= 0.9",
            "0.3 <= yaw < 0.5",
            "haircolor == red",
            "haircolor != black",
            "haircolor in (black, red)",
            "haircolor not in (brown, red)",
        )
    ]
)


def counts(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    conditions = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.builds(Count, st.sampled_from(COUNTS), st.integers(0, 3), conditions)


TREES = st.recursive(
    ATOMS,
    lambda inner: st.builds(Not, inner) | st.builds(And, inner, inner) | st.builds(Or, inner, inner) | counts(inner),
    max_leaves=8,
)
COMPARE = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b}


def _python(node: Node, row: dict[str, float]) -> bool:
    if isinstance(node, Interval):
        value = row[node.attribute.name]
        return COMPARE[node.low_op](node.low, value) and COMPARE[node.high_op](value, node.high)
    if isinstance(node, OneOf):
        return (row[node.attribute.name] in node.classes) != node.negated
    if isinstance(node, Atom):
        value, target = row[node.attribute.name], node.value
        if node.op in COMPARE:
            return COMPARE[node.op](value, target)
        close = abs(value - target) <= (0.1 if node.attribute.kind == "continuous" else 0.5)
        return close == (node.op == "==")
    if isinstance(node, Not):
        return not _python(node.inner, row)
    if isinstance(node, Count):
        true = sum(_python(part, row) for part in node.conditions)
        return {"at least": true >= node.number, "at most": true <= node.number, "exactly": true == node.number}[
            node.kind
        ]
    left, right = _python(node.left, row), _python(node.right, row)
    return (left and right) if isinstance(node, And) else (left or right)


@given(TREES)
def test_printing_then_parsing_returns_the_query(tree: Node) -> None:
    query = Query(tree, FACES)
    assert parse(query.text, FACES) == query
    rows = [{"glasses": g, "yaw": y, "haircolor": h} for g in (0, 1) for y in (0.1, 0.45, 0.9) for h in (0, 1, 2)]
    labels = Labels(FACES, torch.tensor([[row[name] for name in FACES.names] for row in rows], dtype=torch.float32))
    expected = [_python(tree, row) for row in rows]
    assert query.holds(labels).tolist() == expected
    assert set(expected) <= query.outcomes()


def test_free_values_are_given_per_sample() -> None:
    query = parse("haircolor == *", FACES)
    assert query.free == ("haircolor",)
    labels = Labels.constant(FACES, 3, haircolor=torch.tensor([0, 1, 2]))
    free = Labels.constant(FACES, 3, haircolor=torch.tensor([0, 2, 2]))
    assert query.holds(labels, free).tolist() == [True, False, True]
    assert query.bind(haircolor="red").text == "haircolor == red"
    with pytest.raises(LaceError, match="leaves haircolor free"):
        query.holds(labels)


def test_slug_is_a_file_name() -> None:
    assert parse("glasses == 1 and not yaw < 0.3", FACES).slug == "glasses_is_1_and_not_yaw_below_0p3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("glases == 1", "Did you mean 'glasses'"),
        ("haircolor == blak", "Did you mean 'black'"),
        ("", "it is empty"),
        ("glasses", "a comparison"),
        ("glasses == ", "a value is missing"),
        ("(glasses == 1", "not closed"),
        ("glasses == 1 yaw == 0.5", "'yaw' was not expected"),
        ("yaw == 3", "from 0 to 1"),
        ("glasses < 1", "compared with"),
        ("glasses == 1 & yaw == 0", r"'&' \(character 14\) cannot be read, it is written and"),
        ("yaw == black", "from 0 to 1"),
        ("glasses == 7", "0 to 1"),
        ("glasses <= 1", "compared with ==, != or in, received '<='"),
        ("0 < glasses < 1", "compared with ==, != or in"),
        ("yaw in (0.3, 0.5)", "write `0.3 < yaw < 0.5` for an interval"),
        ("0.3 < yaw > 0.5", "'<' and '>' point in different directions"),
        ("0.3 == yaw", "a value stands before '=='"),
        ("0.3 < yaw < 1.5", "from 0 to 1"),
        ("0.3 < yaw < ", "a value is missing at its end"),
        ("haircolor in red", "a list in brackets is missing behind 'in'"),
        ("haircolor in (red", "the list behind 'in' is not closed"),
        ("haircolor in (red, blak)", "Did you mean 'black'"),
        ("haircolor in ()", "stands where a class should"),
        ("at least two of (glasses == 1)", "'two' stands where a whole number should"),
        ("at least 1.5 of (glasses == 1)", "'1.5' stands where a whole number should"),
        ("at least 1 (glasses == 1)", "'of \\(' is missing behind 'at least 1'"),
        ("at least 1 of glasses == 1", "a list in brackets is missing behind 'at least 1 of'"),
        ("haircolor == “red”", r"'“' \(character 14\) cannot be read, quotes are written"),
        ("glasses = 1", r"'=' \(character 9\) cannot be read, a comparison is written =="),
        ("glasses: 1", r"':' \(character 8\) cannot be read, a comparison is written =="),
        ("glasses == 1 and 🚢 == 1", r"'🚢' \(character 18\) cannot be read"),
        ("haircolor == 'red", "the quote ' at character 14 is not closed"),
        ("red", "'red' is a class of 'haircolor' and no attribute: write `haircolor == red`"),
        ("glasses == 1 and not red", "write `haircolor == red`"),
        ("glasses", "write `glasses == 1`, or `glasses == \\*` for all in turn"),
        ("yaw", "write `yaw == 0.5`"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(LaceError, match=words):
        parse(text, FACES)


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        ("yaw == 0.1 and yaw == 0.9", {False}),
        ("yaw == 0.4 and yaw == 0.55", {True, False}),
        ("yaw < 0.2 and yaw > 0.5", {False}),
        ("yaw < 0.5 or yaw > 0.4", {True}),
        ("yaw < 0", {False}),
        ("yaw <= 0", {True, False}),
        ("0.5 < yaw < 0.3", {False}),
        ("yaw > 0.5 and yaw < 0.3", {False}),
        ("0.5 < yaw <= 0.5", {False}),
        ("0.5 <= yaw <= 0.5", {True, False}),
        ("0 <= yaw <= 1", {True}),
        ("haircolor in (black, brown, red)", {True}),
        ("haircolor not in (black, brown) and haircolor != red", {False}),
        ("at least 3 of (glasses == 1, yaw < 0.5)", {False}),
        ("at least 0 of (glasses == 1, yaw < 0.5)", {True}),
        ("exactly 1 of (glasses == 1, glasses == 0)", {True}),
        ("at least 2 of (haircolor == red, haircolor == black, glasses == 1)", {True, False}),
        ("yaw == * and yaw < 0.5", {True, False}),
        ("(glasses == 1 and yaw == 0.5) or (not glasses == 1 and not yaw == 0.5)", {True, False}),
        ("(yaw < 0.3 or glasses == 1) and yaw > 0.4 and glasses == 0", {False}),
        (" and ".join(f"not {name} == 0" for name in ("glasses", "yaw", "haircolor")), {True, False}),
    ],
)
def test_what_a_query_can_be(text: str, outcomes: set[bool]) -> None:
    assert parse(text, FACES).outcomes() == outcomes


ANIMALS = Schema(
    "animals", (Attribute("breed", "discrete", 6, ("british shorthair", "3d", "not", "cat's eye", "tabby", "t-shirt")),)
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("breed == 'british shorthair'", "breed == 'british shorthair'"),
        ('breed == "3d" or breed == 4', "breed == '3d' or breed == tabby"),
        ("not breed == 'not'", "not breed == 'not'"),
        ('breed == "cat\'s eye"', 'breed == "cat\'s eye"'),
        ("breed == t-shirt", "breed == t-shirt"),
        ("breed == 'tabby' and breed != 0", "breed == tabby and breed != 'british shorthair'"),
    ],
)
def test_names_that_are_not_one_word_stand_in_quotes(text: str, canonical: str) -> None:
    query = parse(text, ANIMALS)
    assert query.text == canonical
    assert parse(canonical, ANIMALS) == query
    assert re.fullmatch(r"\w+", query.slug)


def test_the_suggested_name_of_a_class_can_be_written() -> None:
    with pytest.raises(LaceError, match="Did you mean 'british shorthair'") as error:
        parse("breed == british", ANIMALS)
    suggestion = re.search(r"mean ('.*')\?", str(error.value))
    assert suggestion is not None
    assert parse(f"breed == {suggestion[1]}", ANIMALS).text == "breed == 'british shorthair'"
    assert parse("'breed' == tabby", ANIMALS).text == "breed == tabby"
    with pytest.raises(LaceError, match="Did you mean 'breed'"):
        parse("'bred' == tabby", ANIMALS)


WORLD = Schema(
    "world",
    (
        Attribute("возраст", "continuous"),
        Attribute("笑顔"),
        Attribute("हिन्दी", "discrete", 2, ("नहीं", "हाँ")),
        Attribute("facial hair", "discrete", 3, ("none", "long beard", "5 o'clock")),
        Attribute("caf\u00e9"),
        Attribute("not"),
        Attribute("at", "continuous"),
        Attribute("3d"),
    ),
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("возраст > 0.5 and возраст<0.7", "0.5 < возраст < 0.7"),
        ("笑顔==1", "笑顔 == 1"),
        ("हिन्दी == हाँ", "हिन्दी == हाँ"),
        ("'facial hair' in ('long beard', \"5 o'clock\")", "'facial hair' in ('long beard', \"5 o'clock\")"),
        ("\"facial hair\" == 'long beard'", "'facial hair' == 'long beard'"),
        ("cafe\u0301 == 1", "caf\u00e9 == 1"),
        ("not 'not' == 1", "not 'not' == 1"),
        ("at < 0.5", "'at' < 0.5"),
        ("0.2 < 'at' < 0.5", "0.2 < 'at' < 0.5"),
        ("at least 1 of ('3d' == 1, at < 0.5)", "at least 1 of ('3d' == 1, 'at' < 0.5)"),
    ],
)
def test_names_of_any_alphabet(text: str, canonical: str) -> None:
    query = parse(text, WORLD)
    assert query.text == canonical
    assert parse(canonical, WORLD) == query
    assert re.fullmatch(r"\w+", query.slug)


def test_an_interval_and_counts_in_a_name_of_a_file() -> None:
    text = "at least 2 of (0.3 <= yaw < 0.5, haircolor in (red, black), glasses == 1)"
    assert parse(text, FACES).slug == ("at_least_2_of_0p3_at_most_yaw_below_0p5_haircolor_in_black_red_glasses_is_1")


def test_bound_values_become_an_interval() -> None:
    query = parse("yaw > * and yaw < 0.5", FACES)
    assert query.text == "yaw > * and yaw < 0.5"
    assert query.bind(yaw=0.3).text == "0.3 < yaw < 0.5"


def test_what_is_left_of_a_count() -> None:
    root = parse("at least 2 of (glasses == 1, yaw < 0.5, haircolor in (red, brown))", FACES).root
    assert str(restrict(root, "glasses", 1)) == "at least 1 of (yaw < 0.5, haircolor in (brown, red))"
    assert restrict(restrict(root, "glasses", 1), "haircolor", 2) is True
    assert restrict(restrict(root, "glasses", 0), "haircolor", 0) is False


def test_the_new_conditions_are_no_labels() -> None:
    for text in ("haircolor in (red, brown)", "0.3 < yaw < 0.5", "exactly 1 of (glasses == 1, haircolor == red)"):
        query = parse(text, FACES)
        assert not query.is_conjunction
        assert query.branches == ()
        assert query.on(FACES) == query


def test_the_queries_of_the_documentation_are_read() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "queries.md").read_text(encoding="utf-8")
    schema = Schema(
        "page",
        (
            *(Attribute(name, "continuous") for name in ("age", "yaw", "возраст")),
            *(Attribute(name) for name in ("glasses", "笑顔")),
            Attribute("haircolor", "discrete", 3, ("black", "red", "blond")),
            Attribute("facial hair", "discrete", 2, ("none", "long beard")),
        ),
    )
    (block,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    table = page[page.index("| condition |") : page.index("```text")]
    examples = re.findall(r"`([^`]+)`", "".join(row.split("|")[3] for row in table.splitlines()[2:] if "|" in row))
    assert len(examples) > 10
    for text in [*block.splitlines(), *(text for text in examples if " " in text and text not in COUNTS)]:
        query = parse(text, schema)
        assert parse(query.text, schema) == query


def test_anything_stands_alone() -> None:
    query = parse(" anything ", FACES)
    assert (query.text, query.attributes, query.free, query.asks) == ("anything", (), (), False)
    assert query.outcomes() == {True}
    assert query.holds(Labels.constant(FACES, 2)).tolist() == [True, True]
    assert parse(query.text, FACES) == query
    with pytest.raises(LaceError, match="'anything' was asked for"):
        parse("anything and glasses == 1", FACES)
