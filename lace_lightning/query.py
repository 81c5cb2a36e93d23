"""Queries: conditions on attributes such as `glasses == 1 and not yaw == 0.5`, parsed and checked against a schema.

Grammar, loosest first, as in Python: `or`, `and`, `not`, comparison. A comparison is `attribute op value` with `==` or
`!=` for classes (by number or name, in quotes where a name is not one word), `==`, `<` or `>` for continuous values in
[0, 1]. `attribute == *` leaves the value free: it is given for each sample when the query is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .errors import LaceError
from .schema import Attribute, Labels, Schema

_TOKEN = re.compile(
    r"\s*(?:(?P<op>==|!=|<|>)|(?P<bracket>[()])|(?P<quoted>\"[^\"]+\"|'[^']+')"
    r"|(?P<word>\*|[A-Za-z_][\w-]*|[0-9]*\.?[0-9]+(?:[eE][-+]?\d+)?))"
)
_KEYWORDS = ("and", "or", "not", "*")
_HELP = "write for example `glasses == 1 and not yaw == 0.5`"


@dataclass(frozen=True)
class Atom:
    """A comparison of one attribute with a value.

    Args:
        attribute: the attribute.
        op: "==" or "!=", and for continuous attributes "<" or ">".
        value: a class index, a number in [0, 1], or None where it is free and given for each sample.

    Example:
        >>> str(Atom(Attribute("yaw", "continuous"), "<", 0.25))
        'yaw < 0.25'
    """

    attribute: Attribute
    op: str
    value: float | None

    def __str__(self) -> str:
        if self.value is None:
            text = "*"
        elif self.attribute.kind == "discrete":
            text = _class_text(self.attribute, int(self.value))
        else:
            text = f"{self.value:g}"
        return f"{self.attribute.name} {self.op} {text}"


@dataclass(frozen=True)
class Not:
    """The negation of a condition.

    Args:
        inner: the condition.

    Example:
        >>> str(Not(Atom(Attribute("hat"), "==", 1)))
        'not hat == 1'
    """

    inner: Node

    def __str__(self) -> str:
        return f"not {_bracket(self.inner, (And, Or))}"


@dataclass(frozen=True)
class And:
    """The conjunction of two conditions.

    Args:
        left: the first condition.
        right: the second condition.

    Example:
        >>> str(And(Atom(Attribute("hat"), "==", 1), Atom(Attribute("smile"), "==", 0)))
        'hat == 1 and smile == 0'
    """

    left: Node
    right: Node

    def __str__(self) -> str:
        return f"{_bracket(self.left, (Or,))} and {_bracket(self.right, (Or, And))}"


@dataclass(frozen=True)
class Or:
    """The disjunction of two conditions, true where at least one of them is.

    Args:
        left: the first condition.
        right: the second condition.

    Example:
        >>> str(Or(Atom(Attribute("hat"), "==", 1), Atom(Attribute("smile"), "==", 0)))
        'hat == 1 or smile == 0'
    """

    left: Node
    right: Node

    def __str__(self) -> str:
        return f"{self.left} or {_bracket(self.right, (Or,))}"


Node = Atom | Not | And | Or


def _class_text(attribute: Attribute, index: int) -> str:
    """Return a class as a query writes it: its name, in quotes where that is not one word."""
    name = attribute.class_name(index)
    match = _TOKEN.fullmatch(name)
    if match and match["word"] == name and name not in _KEYWORDS:
        return name
    quotes = [mark for mark in ("'", '"') if mark not in name]
    return f"{quotes[0]}{name}{quotes[0]}" if quotes else str(index)


def _bracket(node: Node, kinds: tuple[type, ...]) -> str:
    return f"({node})" if isinstance(node, kinds) else str(node)


def atoms(node: Node) -> list[Atom]:
    """Return the comparisons of a tree, from left to right.

    Args:
        node: the root of the tree.

    Example:
        >>> hat = Atom(Attribute("hat"), "==", 1)
        >>> len(atoms(Or(hat, Not(hat))))
        2
    """
    if isinstance(node, Atom):
        return [node]
    if isinstance(node, Not):
        return atoms(node.inner)
    return atoms(node.left) + atoms(node.right)


def _map_atoms(node: Node, change: Callable[[Atom], Atom]) -> Node:
    if isinstance(node, Atom):
        return change(node)
    if isinstance(node, Not):
        return Not(_map_atoms(node.inner, change))
    return type(node)(_map_atoms(node.left, change), _map_atoms(node.right, change))


def restrict(node: Node, name: str, value: float, tolerance: float = 0.1) -> Node | bool:
    """Return the rest of a tree when one attribute has a certain value; comparisons with free values stay.

    Args:
        node: the root of the tree.
        name: the name of the attribute.
        value: its class index, or its number in [0, 1].
        tolerance: a continuous `==` holds within ± tolerance.

    Returns:
        A tree without the attribute, or True or False where the value decides it.

    Example:
        >>> hat, smile = (Atom(Attribute(name), "==", 1) for name in ("hat", "smile"))
        >>> str(restrict(And(hat, smile), "hat", 1)), restrict(And(hat, smile), "hat", 0)
        ('smile == 1', False)
    """
    if isinstance(node, Atom):
        if node.attribute.name != name or node.value is None:
            return node
        return bool(_true(node.attribute, node.op, torch.tensor(float(value)), node.value, tolerance))
    if isinstance(node, Not):
        inner = restrict(node.inner, name, value, tolerance)
        return not inner if isinstance(inner, bool) else Not(inner)
    left, right = restrict(node.left, name, value, tolerance), restrict(node.right, name, value, tolerance)
    absorbing = isinstance(node, Or)
    if left is absorbing or right is absorbing:
        return absorbing
    if isinstance(left, bool):
        return right
    return left if isinstance(right, bool) else type(node)(left, right)


def _outcomes(node: Node | bool, tolerance: float) -> set[bool]:
    """Return the truth values that a tree can have, attribute by attribute."""
    if isinstance(node, bool):
        return {node}
    bound = [atom for atom in atoms(node) if atom.value is not None]
    if not bound:
        return {True, False}
    result: set[bool] = set()
    attribute = bound[0].attribute
    if attribute.kind == "discrete":
        values: list[float] = list(range(attribute.num_classes))
    else:
        # Truth values change at a value or at its tolerance: test these points, and the points between them.
        edges = sorted(
            {
                0.0,
                1.0,
                *(
                    min(max(atom.value + shift, 0.0), 1.0)
                    for atom in bound
                    if atom.attribute == attribute and atom.value is not None
                    for shift in (-tolerance, 0.0, tolerance)
                ),
            }
        )
        values = edges + [(low + high) / 2 for low, high in pairwise(edges)]
    for value in values:
        result |= _outcomes(restrict(node, attribute.name, value, tolerance), tolerance)
        if len(result) == 2:
            break
    return result


class Query:
    """A condition on the attributes of one schema; `str(query)` is its canonical text.

    Args:
        root: the tree of the condition.
        schema: the schema of its attributes.

    Example:
        >>> schema = Schema("s", (Attribute("hat"), Attribute("yaw", "continuous")))
        >>> query = parse("(hat == 1) and yaw == *", schema)
        >>> str(query), query.free, query.slug
        ('hat == 1 and yaw == *', ('yaw',), 'hat_is_1_and_yaw_is_any')
    """

    def __init__(self, root: Node, schema: Schema) -> None:
        self.root, self.schema = root, schema

    @property
    def text(self) -> str:
        """The canonical text."""
        return str(self.root)

    @property
    def slug(self) -> str:
        """The text in letters, digits and underscores, for names of files and runs."""
        text = self.text
        for mark, word in (("==", "is"), ("!=", "is not"), ("<", "below"), (">", "above"), ("*", "any"), (".", "p")):
            text = text.replace(mark, f" {word} " if mark != "." else word)
        return re.sub(r"\W+", "_", text).strip("_")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that occur, each once, in order."""
        return tuple(dict.fromkeys(atom.attribute.name for atom in atoms(self.root)))

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the attributes whose value is given per sample."""
        return tuple(dict.fromkeys(atom.attribute.name for atom in atoms(self.root) if atom.value is None))

    @property
    def is_conjunction(self) -> bool:
        """Whether the query consists of `==` and `and` alone, so that labels can express it."""

        def simple(node: Node) -> bool:
            return (
                simple(node.left) and simple(node.right)
                if isinstance(node, And)
                else isinstance(node, Atom) and node.op == "=="
            )

        return simple(self.root)

    @property
    def branches(self) -> tuple[Query, ...]:
        """The sides of the outermost `or`, from left to right; empty where the query is no disjunction."""

        def sides(node: Node) -> list[Node]:
            return [*sides(node.left), *sides(node.right)] if isinstance(node, Or) else [node]

        return tuple(Query(side, self.schema) for side in sides(self.root)) if isinstance(self.root, Or) else ()

    def on(self, schema: Schema) -> Query:
        """Return the query on another schema that has its attributes.

        Args:
            schema: the other schema.

        Raises:
            LaceError: when an attribute of the query is missing there.
        """
        missing = [name for name in self.attributes if self.schema[name] not in schema.attributes]
        if missing:
            raise LaceError(
                f"The query '{self}' needs {', '.join(missing)}, and the classifier knows {', '.join(schema.names)} "
                "alone: leave it out, or train a classifier on it."
            )
        return Query(self.root, schema)

    def bind(self, **values: str | float) -> Query:
        """Return the query with values in the place of free ones.

        Args:
            values: for each name of an attribute its class name, class number or number in [0, 1].

        Raises:
            LaceError: for a name that is not free, and for a value that the attribute does not have.
        """
        for name in values:
            if name not in self.free:
                raise LaceError(
                    f"The query '{self}' has the free attributes {', '.join(self.free) or 'none'}, and '{name}' "
                    "was bound: write `attribute == *` in the query to leave a value free."
                )

        def fill(atom: Atom) -> Atom:
            if atom.value is not None or atom.attribute.name not in values:
                return atom
            return Atom(atom.attribute, atom.op, _value(atom.attribute, atom.op, str(values[atom.attribute.name])))

        return Query(_map_atoms(self.root, fill), self.schema)

    def holds(self, labels: Labels, free: Labels | None = None, tolerance: float = 0.1) -> Tensor:
        """Return for each row of labels whether the query is true (N,) bool.

        Args:
            labels: N rows of labels of the query's schema.
            free: values of the query's free attributes, N rows.
            tolerance: a continuous `==` holds within ± tolerance.

        Raises:
            LaceError: when the query has free attributes and `free` is None.
        """
        if self.free and free is None:
            raise LaceError(f"The query '{self}' leaves {', '.join(self.free)} free: give its values for every sample.")
        return self._holds(self.root, labels, free, tolerance)

    def _holds(self, node: Node, labels: Labels, free: Labels | None, tolerance: float) -> Tensor:
        if isinstance(node, Not):
            return ~self._holds(node.inner, labels, free, tolerance)
        if isinstance(node, (And, Or)):
            left, right = (self._holds(side, labels, free, tolerance) for side in (node.left, node.right))
            return left & right if isinstance(node, And) else left | right
        value = labels.column(node.attribute.name)
        if node.value is None:
            assert free is not None
            target = free.column(node.attribute.name).to(value)
        else:
            target = torch.full_like(value, node.value)
        return _true(node.attribute, node.op, value, target, tolerance)

    def outcomes(self, tolerance: float = 0.1) -> set[bool]:
        """Return the truth values that the query has, over all values of its attributes."""
        return _outcomes(self.root, tolerance)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Query({self.text!r}, schema={self.schema.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Query) and (self.root, self.schema) == (other.root, other.schema)

    def __hash__(self) -> int:
        return hash((self.root, self.schema))


def _true(attribute: Attribute, op: str, value: Tensor, target: Tensor | float, tolerance: float) -> Tensor:
    """Compare values (*) with targets: bool (*)."""
    if op in "<>":
        return value < target if op == "<" else value > target
    equal = (value - target).abs() <= (tolerance if attribute.kind == "continuous" else 0.5)
    return equal if op == "==" else ~equal


def _value(attribute: Attribute, op: str, text: str) -> float | None:
    """Check operator and value against the attribute."""
    allowed = ("==", "!=") if attribute.kind == "discrete" else ("==", "!=", "<", ">")
    if op not in allowed:
        raise LaceError(
            f"Attribute '{attribute.name}' is {attribute.kind} and is compared with {' or '.join(allowed)}, "
            f"received '{op}'."
        )
    if text == "*":
        return None
    if attribute.kind == "discrete":
        return float(attribute.class_index(text))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise LaceError(
            f"Attribute '{attribute.name}' is continuous with values from 0 to 1, received '{text}': scale it."
        )
    return value


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, schema: Schema) -> None:
        self.text, self.schema = text, schema
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.error(f"'{text[position:].strip()[0]}' cannot be read")
            kind = str(match.lastgroup)
            self.tokens.append((kind, match[kind][1:-1] if kind == "quoted" else match[kind]))
            position = match.end()
        self.next = 0

    def error(self, problem: str) -> LaceError:
        return LaceError(f"The query '{self.text}' could not be understood, {problem}: {_HELP}.")

    def accept(self, *texts: str) -> bool:
        if (
            self.next < len(self.tokens)
            and self.tokens[self.next][0] != "quoted"
            and self.tokens[self.next][1] in texts
        ):
            self.next += 1
            return True
        return False

    def expect(self, wanted: str, *kinds: str) -> str:
        if self.next >= len(self.tokens):
            raise self.error(f"{wanted} is missing at its end")
        found_kind, found = self.tokens[self.next]
        if found_kind not in kinds:
            raise self.error(f"'{found}' stands where {wanted} should")
        self.next += 1
        return found

    def disjunction(self) -> Node:
        node = self.conjunction()
        while self.accept("or"):
            node = Or(node, self.conjunction())
        return node

    def conjunction(self) -> Node:
        node = self.negation()
        while self.accept("and"):
            node = And(node, self.negation())
        return node

    def negation(self) -> Node:
        if self.accept("not"):
            return Not(self.negation())
        if self.accept("("):
            node = self.disjunction()
            if not self.accept(")"):
                raise self.error("a bracket is not closed")
            return node
        attribute = self.schema[self.expect("an attribute", "word")]
        op = self.expect("a comparison (==, !=, < or >)", "op")
        return Atom(attribute, op, _value(attribute, op, self.expect("a value", "word", "quoted")))


def parse(text: str, schema: Schema) -> Query:
    """Return the query of a text.

    Args:
        text: a condition in the grammar of this module.
        schema: the schema of its attributes.

    Raises:
        LaceError: for a text outside the grammar, and for unknown attributes, classes or values.

    Example:
        >>> parse("not hat == 0", Schema("s", (Attribute("hat"),)))
        Query('not hat == 0', schema='s')
    """
    parser = _Parser(text, schema)
    if not parser.tokens:
        raise parser.error("it is empty")
    root = parser.disjunction()
    if parser.next < len(parser.tokens):
        raise parser.error(f"'{parser.tokens[parser.next][1]}' was not expected")
    return Query(root, schema)
