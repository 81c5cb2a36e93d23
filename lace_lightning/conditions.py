"""Trees of conditions: comparisons, intervals, lists of classes, and their logic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from .schema import Attribute

# Comparisons of a continuous value with a bound, and each with its sides exchanged.
BOUNDS = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
COUNTS = ("at least", "at most", "exactly")
KEYWORDS = ("and", "or", "not", "in", "of", "at", "least", "most", "exactly", "*")
NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
# A word begins with a letter of any alphabet. Whether its characters are letters and digits is checked afterwards.
WORD = r"(?:[A-Za-z_]|[^\x00-\x7f\s])(?:[A-Za-z0-9_-]|[^\x00-\x7f\s])*"


def is_word(text: str) -> bool:
    """Return whether a name needs no quotes in a query: letters, digits, `_` and `-` of any alphabet.

    Args:
        text: the name.

    Example:
        >>> is_word("возраст"), is_word("t-shirt"), is_word("facial hair"), is_word("not")
        (True, True, False, False)
    """
    return bool(re.fullmatch(WORD, text)) and text.replace("-", "_").isidentifier() and text not in KEYWORDS


def quoted(text: str) -> str | None:
    """Return a name as a query writes it, in quotes where it is not one word; None where quotes cannot hold it.

    Args:
        text: the name.

    Example:
        >>> quoted("hat"), quoted("long beard")
        ('hat', "'long beard'")
    """
    if is_word(text):
        return text
    marks = [mark for mark in ("'", '"') if text and mark not in text]
    return f"{marks[0]}{text}{marks[0]}" if marks else None


def _name(attribute: Attribute) -> str:
    return quoted(attribute.name) or attribute.name


def _class(attribute: Attribute, index: int) -> str:
    name = attribute.class_name(index)
    return name if re.fullmatch(NUMBER, name) else quoted(name) or str(index)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _compare(value: Tensor, op: str, bound: Tensor | float) -> Tensor:
    return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[op]


@dataclass(frozen=True)
class Atom:
    """A comparison of one attribute with a value.

    Args:
        attribute: the attribute.
        op: "==" or "!=", and for continuous attributes "<", "<=", ">" or ">=".
        value: a class index, a number in [0, 1], or None where it is free and given for each sample.

    Example:
        >>> str(Atom(Attribute("yaw", "continuous"), "<", 0.25))
        'yaw < 0.25'
    """

    attribute: Attribute
    op: str
    value: float | None

    @property
    def is_bound(self) -> bool:
        """Whether the truth is that of an interval of the attribute's value."""
        return self.op in BOUNDS

    def edges(self, tolerance: float) -> list[float]:
        """Return the values at which the truth changes; see `true` for the argument."""
        if self.value is None:
            return []
        return [self.value] if self.is_bound else [self.value - tolerance, self.value, self.value + tolerance]

    def true(self, value: Tensor, tolerance: float, free: Tensor | None = None) -> Tensor:
        """Return for values of the attribute (*) whether the comparison is true, bool (*).

        Args:
            value: classes or numbers.
            tolerance: a continuous `==` holds within ± tolerance.
            free: what a free value is (*).
        """
        target = torch.full_like(value, self.value) if self.value is not None else free
        assert target is not None  # a free value needs one for each sample
        if self.is_bound:
            return _compare(value, self.op, target)
        equal = (value - target).abs() <= (tolerance if self.attribute.kind == "continuous" else 0.5)
        return equal if self.op == "==" else ~equal

    def __str__(self) -> str:
        if self.value is None:
            text = "*"
        elif self.attribute.kind == "discrete":
            text = _class(self.attribute, int(self.value))
        else:
            text = _number(self.value)
        return f"{_name(self.attribute)} {self.op} {text}"


@dataclass(frozen=True)
class Interval:
    """The condition that a continuous attribute lies between two values.

    Args:
        attribute: the attribute.
        low: the lower end, in [0, 1].
        high: the upper end, in [0, 1].
        low_op: "<" or "<=" between the lower end and the attribute.
        high_op: "<" or "<=" between the attribute and the upper end.

    Example:
        >>> str(Interval(Attribute("age", "continuous"), 0.3, 0.5, "<=", "<"))
        '0.3 <= age < 0.5'
    """

    attribute: Attribute
    low: float
    high: float
    low_op: str = "<"
    high_op: str = "<"

    is_bound = True

    def edges(self, tolerance: float) -> list[float]:
        """Return the ends."""
        return [self.low, self.high]

    def true(self, value: Tensor, tolerance: float, free: Tensor | None = None) -> Tensor:
        """Return for values of the attribute (*) whether they lie in the interval, bool (*)."""
        low, high = (torch.full_like(value, end) for end in (self.low, self.high))
        return _compare(low, self.low_op, value) & _compare(value, self.high_op, high)

    def __str__(self) -> str:
        return f"{_number(self.low)} {self.low_op} {_name(self.attribute)} {self.high_op} {_number(self.high)}"


@dataclass(frozen=True)
class OneOf:
    """The condition that a discrete attribute has one of several classes.

    Args:
        attribute: the attribute.
        classes: indices of the classes, in ascending order.
        negated: whether the classes are those that it must not have.

    Example:
        >>> str(OneOf(Attribute("hair", "discrete", 3, ("black", "brown", "red")), (0, 2)))
        'hair in (black, red)'
    """

    attribute: Attribute
    classes: tuple[int, ...]
    negated: bool = False

    is_bound = False

    def edges(self, tolerance: float) -> list[float]:
        """Return no values, because classes have none between them."""
        return []

    def true(self, value: Tensor, tolerance: float, free: Tensor | None = None) -> Tensor:
        """Return for classes (*) whether they are among those that are asked for, bool (*)."""
        inside = torch.stack([(value - index).abs() <= 0.5 for index in self.classes]).any(0)
        return ~inside if self.negated else inside

    def __str__(self) -> str:
        classes = ", ".join(_class(self.attribute, index) for index in self.classes)
        return f"{_name(self.attribute)} {'not in' if self.negated else 'in'} ({classes})"


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


@dataclass(frozen=True)
class Count:
    """The condition that at least, at most or exactly so many of several conditions are true.

    Args:
        kind: "at least", "at most" or "exactly".
        number: the number of conditions, 0 or more.
        conditions: one or more conditions.

    Example:
        >>> hat, smile = (Atom(Attribute(name), "==", 1) for name in ("hat", "smile"))
        >>> str(Count("exactly", 1, (hat, smile)))
        'exactly 1 of (hat == 1, smile == 1)'
    """

    kind: str
    number: int
    conditions: tuple[Node, ...]

    def allows(self, true: int | Tensor) -> bool | Tensor:
        """Return whether so many true conditions make this one true: for a number, or for numbers (*)."""
        if self.kind == "exactly":
            return true == self.number
        return true >= self.number if self.kind == "at least" else true <= self.number

    def __str__(self) -> str:
        return f"{self.kind} {self.number} of ({', '.join(map(str, self.conditions))})"


@dataclass(frozen=True)
class Anything:
    """The condition that is true of every picture; it stands alone.

    Example:
        >>> str(Anything())
        'anything'
    """

    def __str__(self) -> str:
        return "anything"


Leaf = Atom | Interval | OneOf
Node = Leaf | Not | And | Or | Count | Anything


def _bracket(node: Node, kinds: tuple[type, ...]) -> str:
    return f"({node})" if isinstance(node, kinds) else str(node)


def inner_nodes(node: Node) -> tuple[Node, ...]:
    """Return the conditions that a condition consists of; none for a comparison.

    Args:
        node: the condition.

    Example:
        >>> inner_nodes(Not(Atom(Attribute("hat"), "==", 1)))[0].value
        1
    """
    if isinstance(node, (Leaf, Anything)):
        return ()
    if isinstance(node, Not):
        return (node.inner,)
    return node.conditions if isinstance(node, Count) else (node.left, node.right)


def with_inner(node: Node, inner: Sequence[Node]) -> Node:
    """Return a condition with others in the place of those that it consists of.

    Args:
        node: the condition.
        inner: as many conditions as `inner_nodes` returns.

    Example:
        >>> hat, smile = (Atom(Attribute(name), "==", 1) for name in ("hat", "smile"))
        >>> str(with_inner(Not(hat), [smile]))
        'not smile == 1'
    """
    if isinstance(node, (Leaf, Anything)):
        return node
    return replace(node, conditions=tuple(inner)) if isinstance(node, Count) else type(node)(*inner)


def atoms(node: Node) -> list[Leaf]:
    """Return the comparisons of a tree, from left to right.

    Args:
        node: the root of the tree.

    Example:
        >>> hat = Atom(Attribute("hat"), "==", 1)
        >>> len(atoms(Or(hat, Not(hat))))
        2
    """
    return [node] if isinstance(node, Leaf) else [atom for part in inner_nodes(node) for atom in atoms(part)]


def map_atoms(node: Node, change: Callable[[Leaf], Node]) -> Node:
    """Return a tree with `change(comparison)` in the place of each comparison.

    Args:
        node: the root of the tree.
        change: a function from a comparison to the condition that replaces it.

    Example:
        >>> hat = Atom(Attribute("hat"), "==", 1)
        >>> str(map_atoms(Or(hat, Not(hat)), Not))
        'not hat == 1 or not not hat == 1'
    """
    if isinstance(node, Leaf):
        return change(node)
    return with_inner(node, [map_atoms(part, change) for part in inner_nodes(node)])


def decided(node: Node, decide: Callable[[Leaf], bool | None]) -> Node | bool:
    """Return the rest of a tree when the truth of some comparisons is known.

    Args:
        node: the root of the tree.
        decide: a function that returns the truth of a comparison, None where it stays.

    Returns:
        A tree of the comparisons that stay, or True or False where the known ones decide it.

    Example:
        >>> hat, smile = (Atom(Attribute(name), "==", 1) for name in ("hat", "smile"))
        >>> str(decided(And(hat, smile), lambda atom: True if atom is hat else None))
        'smile == 1'
    """
    if isinstance(node, Leaf):
        known = decide(node)
        return node if known is None else known
    if isinstance(node, Anything):
        return True
    parts = [decided(part, decide) for part in inner_nodes(node)]
    rest = [part for part in parts if not isinstance(part, bool)]
    if isinstance(node, Not):
        return Not(rest[0]) if rest else not parts[0]
    if isinstance(node, Count):
        true = sum(part is True for part in parts)
        possible = {bool(node.allows(true + more)) for more in range(len(rest) + 1)}
        if len(possible) == 1:
            return possible.pop()
        return Count(node.kind, node.number - true, tuple(rest))
    absorbing = isinstance(node, Or)
    if any(part is absorbing for part in parts):
        return absorbing
    return with_inner(node, rest) if len(rest) == 2 else rest[0] if rest else not absorbing


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
    # Labels are float32, and values are compared as labels are.
    given = torch.tensor(float(value))

    def decide(atom: Leaf) -> bool | None:
        if atom.attribute.name != name or is_free(atom):
            return None
        return bool(atom.true(given, tolerance))

    return decided(node, decide)


def is_free(atom: Leaf) -> bool:
    """Return whether the value of a comparison is given for each sample.

    Args:
        atom: the comparison.

    Example:
        >>> is_free(Atom(Attribute("hat"), "==", None))
        True
    """
    return isinstance(atom, Atom) and atom.value is None


def outcomes(node: Node | bool, tolerance: float) -> set[bool]:
    """Return the truth values that a tree can have, attribute by attribute.

    Args:
        node: the root of the tree, or its truth.
        tolerance: a continuous `==` holds within ± tolerance.

    Example:
        >>> hat = Atom(Attribute("hat"), "==", 1)
        >>> outcomes(And(hat, Not(hat)), 0.1)
        {False}
    """
    if isinstance(node, bool):
        return {node}
    if isinstance(node, Anything):
        return {True}
    bound = [atom for atom in atoms(node) if not is_free(atom)]
    if not bound:
        return {True, False}
    attribute = bound[0].attribute
    if attribute.kind == "discrete":
        values: list[float] = list(range(attribute.num_classes))
    else:
        # Truth values change at these points: test them, and the points between them.
        ends = [end for atom in bound if atom.attribute == attribute for end in atom.edges(tolerance)]
        edges = sorted({0.0, 1.0, *(min(max(end, 0.0), 1.0) for end in ends)})
        values = edges + [(low + high) / 2 for low, high in pairwise(edges)]
    result: set[bool] = set()
    for value in values:
        result |= outcomes(restrict(node, attribute.name, value, tolerance), tolerance)
        if len(result) == 2:
            break
    return result


def conjuncts(node: Node) -> list[Node]:
    """Return the sides of a conjunction of any number of conditions, from left to right.

    Args:
        node: the conjunction; another condition is its only side.

    Example:
        >>> hat = Atom(Attribute("hat"), "==", 1)
        >>> len(conjuncts(And(And(hat, hat), hat)))
        3
    """
    return [*conjuncts(node.left), *conjuncts(node.right)] if isinstance(node, And) else [node]


def merged(node: Node) -> Node:
    """Return a tree in which bounds of one attribute that are joined by `and` are one interval.

    Args:
        node: the root of the tree.

    Example:
        >>> age = Attribute("age", "continuous")
        >>> str(merged(And(Atom(age, ">", 0.3), Atom(age, "<=", 0.5))))
        '0.3 < age <= 0.5'
    """
    if not isinstance(node, And):
        return with_inner(node, [merged(part) for part in inner_nodes(node)])
    sides = [merged(side) for side in conjuncts(node)]
    bounds: dict[Attribute, list[Leaf]] = {}
    for side in sides:
        if isinstance(side, Leaf) and side.is_bound and not is_free(side):
            bounds.setdefault(side.attribute, []).append(side)
    if all(len(parts) == 1 for parts in bounds.values()):
        return _with_conjuncts(node, iter(sides))
    result: list[Node] = []
    for side in sides:
        if not (isinstance(side, Leaf) and side.is_bound and not is_free(side)):
            result.append(side)
        elif parts := bounds.pop(side.attribute, None):
            result.append(_one_bound(parts))
    return reduce(And, result)


def _with_conjuncts(node: Node, sides: Iterator[Node]) -> Node:
    """Return a conjunction with other sides, in the brackets that it has."""
    if isinstance(node, And):
        return And(_with_conjuncts(node.left, sides), _with_conjuncts(node.right, sides))
    return next(sides)


def _one_bound(parts: Sequence[Leaf]) -> Leaf:
    """Return the bound or interval in which all of these hold."""
    lower: list[tuple[float, str]] = []
    upper: list[tuple[float, str]] = []
    for part in parts:
        if isinstance(part, Interval):
            lower.append((part.low, part.low_op))
            upper.append((part.high, part.high_op))
        elif isinstance(part, Atom) and part.value is not None:
            if part.op in ("<", "<="):
                upper.append((part.value, part.op))
            else:
                lower.append((part.value, BOUNDS[part.op]))
    # Of two bounds with one value, the one without the value itself is the tighter.
    low = max(lower, key=lambda end: (end[0], end[1] == "<"), default=None)
    high = min(upper, key=lambda end: (end[0], end[1] != "<"), default=None)
    attribute = parts[0].attribute
    if low is None:
        assert high is not None
        return Atom(attribute, high[1], high[0])
    if high is None:
        return Atom(attribute, BOUNDS[low[1]], low[0])
    return Interval(attribute, low[0], high[0], low[1], high[1])
