from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
            "yaw > 0.75",
            "haircolor == red",
            "haircolor != black",
        )
    ]
)
TREES = st.recursive(
    ATOMS,
    lambda inner: st.builds(Not, inner) | st.builds(And, inner, inner) | st.builds(Or, inner, inner),
    max_leaves=8,
)


def _python(node: Node, row: dict[str, float]) -> bool:
    if isinstance(node, Atom):
        value, target = row[node.attribute.name], node.value
        close = abs(value - target) <= (0.1 if node.attribute.kind == "continuous" else 0.5)
        return {"==": close, "!=": not close, "<": value < target, ">": value > target}[node.op]
    if isinstance(node, Not):
        return not _python(node.inner, row)
    left, right = _python(node.left, row), _python(node.right, row)
    return (left and right) if isinstance(node, And) else (left or right)


@given(TREES)
def test_printing_then_parsing_changes_no_truth(tree: Node) -> None:
    query = Query(tree, FACES)
    again = parse(query.text, FACES)
    rows = [{"glasses": g, "yaw": y, "haircolor": h} for g in (0, 1) for y in (0.1, 0.45, 0.9) for h in (0, 1, 2)]
    labels = Labels(FACES, torch.tensor([[row[name] for name in FACES.names] for row in rows], dtype=torch.float32))
    expected = [_python(tree, row) for row in rows]
    assert query.holds(labels).tolist() == again.holds(labels).tolist() == expected
    assert parse(again.text, FACES).text == again.text


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
        ("glasses == 1 & yaw == 0", "'&' cannot be read"),
        ("yaw == black", "from 0 to 1"),
        ("glasses == 7", "0 to 1"),
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
    with pytest.raises(LaceError, match="'breed' stands where an attribute should"):
        parse("'breed' == tabby", ANIMALS)
