"""Queries: conditions on attributes such as `glasses == 1 and not yaw == 0.5`, parsed and checked against a schema.

Grammar, loosest first, as in Python: `or`, `and`, `not`, comparison. A comparison is `attribute op value` with `==` or
`!=` for classes (by number or name), `==`, `!=`, `<`, `<=`, `>` or `>=` for continuous values in [0, 1], an interval
`0.3 < age <= 0.5`, a list `haircolor in (red, blond)` or `haircolor not in (red, blond)`, or a count
`at least 2 of (hat == 1, smile == 1, glasses == 1)`, also with `at most` and `exactly`. Names of any alphabet are
words, and a name that is not one word stands in quotes: `"facial hair" == 'long beard'`. `attribute == *` leaves the
value free: it is given for each sample when the query is used. `anything`, alone, asks for nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .conditions import (
    BOUNDS,
    COUNTS,
    NUMBER,
    WORD,
    And,
    Anything,
    Atom,
    Count,
    Leaf,
    Node,
    Not,
    OneOf,
    Or,
    atoms,
    inner_nodes,
    is_free,
    map_atoms,
    merged,
    outcomes,
    restrict,
)
from .errors import LaceError
from .schema import Attribute, Labels, Schema

__all__ = ["And", "Atom", "Node", "Not", "Or", "Query", "atoms", "parse", "restrict"]

_TOKEN = re.compile(
    r"\s*(?:(?P<op>==|!=|<=|>=|<|>)|(?P<mark>[(),])|(?P<quoted>\"[^\"]+\"|'[^']+')"
    rf"|(?P<number>{NUMBER})|(?P<word>\*|{WORD}))"
)
_HELP = "write for example `glasses == 1 and not yaw == 0.5`"
# What is written in the place of signs of other languages.
_INSTEAD = {
    "=": "a comparison is written ==",
    ":": "a comparison is written ==",
    "&": "it is written and",
    "|": "it is written or",
    "!": "it is written not",
    **dict.fromkeys("“”„‘’«»`", "quotes are written \" or '"),
}
T = TypeVar("T")
# Signs of a text in letters, the longest first.
_SPOKEN = {
    "==": " is ",
    "!=": " is not ",
    "<=": " at most ",
    ">=": " at least ",
    "<": " below ",
    ">": " above ",
    "*": " any ",
    ".": "p",
}


class Query:
    """A condition on the attributes of one schema; `str(query)` is its canonical text, and `parse` its inverse.

    Bounds of one attribute that are joined by `and` become one interval.

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
        self.root, self.schema = merged(root), schema

    @property
    def text(self) -> str:
        """The canonical text."""
        return str(self.root)

    @property
    def slug(self) -> str:
        """The text in letters, digits and underscores, for names of files and runs."""
        text = self.text
        for mark, word in _SPOKEN.items():
            text = text.replace(mark, word)
        return re.sub(r"\W+", "_", text).strip("_")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that occur, each once, in order."""
        return tuple(dict.fromkeys(atom.attribute.name for atom in atoms(self.root)))

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the attributes whose value is given per sample."""
        return tuple(dict.fromkeys(atom.attribute.name for atom in atoms(self.root) if is_free(atom)))

    @property
    def asks(self) -> bool:
        """Whether the query asks for something; `anything` does not."""
        return not isinstance(self.root, Anything)

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

        def fill(atom: Leaf) -> Node:
            if not is_free(atom) or atom.attribute.name not in values:
                return atom
            assert isinstance(atom, Atom)
            return Atom(atom.attribute, atom.op, _value(atom.attribute, str(values[atom.attribute.name])))

        return Query(map_atoms(self.root, fill), self.schema)

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
        if isinstance(node, Leaf):
            name = node.attribute.name
            value = labels.column(name)
            given = free.column(name).to(value) if free is not None and is_free(node) else None
            return node.true(value, tolerance, given)
        if isinstance(node, Anything):
            return torch.ones(len(labels), dtype=torch.bool, device=labels.values.device)
        parts = [self._holds(part, labels, free, tolerance) for part in inner_nodes(node)]
        if isinstance(node, Not):
            return ~parts[0]
        if isinstance(node, Count):
            allowed = node.allows(torch.stack(parts).sum(0))
            assert isinstance(allowed, Tensor)
            return allowed
        return parts[0] & parts[1] if isinstance(node, And) else parts[0] | parts[1]

    def outcomes(self, tolerance: float = 0.1) -> set[bool]:
        """Return the truth values that the query has, over all values of its attributes."""
        return outcomes(self.root, tolerance)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Query({self.text!r}, schema={self.schema.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Query) and (self.root, self.schema) == (other.root, other.schema)

    def __hash__(self) -> int:
        return hash((self.root, self.schema))


def _check_operator(attribute: Attribute, op: str) -> None:
    """Refuse (LaceError) an operator that the attribute is not compared with."""
    allowed = ("==", "!=", "in") if attribute.kind == "discrete" else ("==", "!=", *BOUNDS)
    if op.removeprefix("not ") not in allowed:
        instead = "" if op in BOUNDS else f": write `0.3 < {attribute.name} < 0.5` for an interval"
        raise LaceError(
            f"Attribute '{attribute.name}' is {attribute.kind} and is compared with {', '.join(allowed[:-1])} or "
            f"{allowed[-1]}, received '{op}'{instead}."
        )


def _value(attribute: Attribute, text: str) -> float | None:
    """Return the number of a class or a value. Raises LaceError where the attribute has none."""
    if text == "*":
        return None
    if attribute.kind == "discrete":
        return float(attribute.class_index(text))
    value = float(text) if re.fullmatch(NUMBER, text) else -1.0
    if not 0 <= value <= 1:
        raise LaceError(
            f"Attribute '{attribute.name}' is continuous with values from 0 to 1, received '{text}': scale it."
        )
    return value


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, schema: Schema) -> None:
        self.text, self.schema = unicodedata.normalize("NFC", text), schema
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while rest := self.text[position:].strip():
            match = _TOKEN.match(self.text, position)
            if match is None:
                raise self.unread(self.text.index(rest[0], position))
            kind = str(match.lastgroup)
            found = match[kind][1:-1] if kind == "quoted" else match[kind]
            if kind == "word" and found != "*" and not found.replace("-", "_").isidentifier():
                # A character outside of ASCII that is no letter, such as a curved quote.
                strange = next(c for c in found if not f"_{c}".replace("-", "_").isidentifier())
                raise self.unread(self.text.index(strange, position))
            self.tokens.append((kind, found))
            position = match.end()
        self.next = 0

    def error(self, problem: str, advice: str = _HELP) -> LaceError:
        return LaceError(f"The query '{self.text}' could not be understood, {problem}: {advice}.")

    def unread(self, position: int) -> LaceError:
        """Return the error of a character at which no token begins."""
        mark = self.text[position]
        if mark in "\"'":
            return self.error(f"the quote {mark} at character {position + 1} is not closed")
        advice = _INSTEAD.get(mark)
        return self.error(
            f"'{mark}' (character {position + 1}) cannot be read" + (f", {advice}" if advice is not None else "")
        )

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        """Return kind and text of a token, two empty texts behind the end."""
        return self.tokens[self.next + ahead] if self.next + ahead < len(self.tokens) else ("", "")

    def accept(self, *texts: str) -> bool:
        """Go on behind these tokens if they are the next ones."""
        for ahead, text in enumerate(texts):
            kind, found = self.peek(ahead)
            if kind == "quoted" or found != text:
                return False
        self.next += len(texts)
        return True

    def expect(self, wanted: str, *kinds: str) -> str:
        kind, found = self.peek()
        if not kind:
            raise self.error(f"{wanted} is missing at its end")
        if kind not in kinds:
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
        if self.peek()[0] == "number" and self.peek(1)[0] == "op":
            return self.interval()
        for kind in COUNTS:
            words = kind.split()
            # An attribute may be called `exactly`: a comparison follows on it.
            behind = self.peek(len(words))
            if behind[0] != "op" and behind[1] not in ("in", "not") and self.accept(*words):
                return self.count(kind)
        return self.comparison()

    def attribute(self) -> Attribute:
        name = self.expect("an attribute", "word", "quoted")
        owners = [a for a in self.schema if name in a.class_names]
        if name not in self.schema.names and owners:
            comparison = Atom(owners[0], "==", float(owners[0].class_index(name)))
            names = " and ".join(f"'{owner.name}'" for owner in owners)
            raise self.error(f"'{name}' is a class of {names} and no attribute", f"write `{comparison}`")
        attribute = self.schema[name]
        if len(self.tokens) == 1:
            value = attribute.num_classes - 1.0 if attribute.kind == "discrete" else 0.5
            one, each = (Atom(attribute, "==", chosen) for chosen in (value, None))
            raise self.error(
                f"a comparison is missing behind the attribute '{name}'", f"write `{one}`, or `{each}` for all in turn"
            )
        return attribute

    def comparison(self) -> Node:
        attribute = self.attribute()
        for words in (("in",), ("not", "in")):
            if self.accept(*words):
                return self.one_of(attribute, " ".join(words))
        op = self.expect(f"a comparison (==, !=, {', '.join(BOUNDS)} or in)", "op")
        _check_operator(attribute, op)
        return Atom(attribute, op, _value(attribute, self.expect("a value", "word", "number", "quoted")))

    def one_of(self, attribute: Attribute, op: str) -> Node:
        _check_operator(attribute, op)
        names = self.listed(f"'{op}'", lambda: self.expect("a class", "word", "number", "quoted"))
        classes = tuple(sorted({attribute.class_index(name) for name in names}))
        if len(classes) == 1:
            return Atom(attribute, "==" if op == "in" else "!=", float(classes[0]))
        return OneOf(attribute, classes, op != "in")

    def interval(self) -> Node:
        """Read `value < attribute` and `value < attribute < value`; signs may also point to the left."""
        first = self.expect("a value", "number")
        op = self.expect("a comparison", "op")
        attribute = self.attribute()
        if op not in BOUNDS:
            raise self.error(f"a value stands before '{op}', which is written behind it (`attribute {op} value`)")
        _check_operator(attribute, op)
        left = Atom(attribute, BOUNDS[op], _value(attribute, first))
        if self.peek()[0] != "op":
            return left
        again = self.expect("a comparison", "op")
        if again[0] != op[0]:
            raise self.error(f"'{op}' and '{again}' point in different directions")
        right = Atom(attribute, again, _value(attribute, self.expect("a value", "number")))
        return merged(And(left, right))

    def count(self, kind: str) -> Node:
        number = self.expect("a whole number", "number")
        if not number.isdigit():
            raise self.error(f"'{number}' stands where a whole number should")
        if not self.accept("of"):
            raise self.error(f"'of (' is missing behind '{kind} {number}'")
        return Count(kind, int(number), tuple(self.listed(f"'{kind} {number} of'", self.disjunction)))

    def listed(self, before: str, read: Callable[[], T]) -> list[T]:
        """Read a list in brackets, its elements by `read`."""
        if not self.accept("("):
            raise self.error(f"a list in brackets is missing behind {before}")
        result = [read()]
        while self.accept(","):
            result.append(read())
        if not self.accept(")"):
            raise self.error(f"the list behind {before} is not closed")
        return result


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
    alone = len(parser.tokens) == 1 and parser.accept("anything")
    root = Anything() if alone else parser.disjunction()
    if parser.next < len(parser.tokens):
        raise parser.error(f"'{parser.tokens[parser.next][1]}' was not expected")
    return Query(root, schema)
