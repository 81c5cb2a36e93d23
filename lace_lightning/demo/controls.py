"""The controls of the page: one for each attribute of a schema, as a query and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..conditions import And, Atom, Interval, Node
from ..energies import build
from ..errors import LaceError, suggest
from ..query import Query, parse
from ..schema import Attribute, Schema

# What a control asks for: nothing, one value, every value in turn, or an interval.
FREE, IS, EACH, BETWEEN = "free", "is", "each", "between"
MODES = {"discrete": (FREE, IS, EACH), "continuous": (FREE, IS, EACH, BETWEEN)}
NOTHING = "anything"
Control = Mapping[str, Any]


def describe_controls(schema: Schema) -> list[dict[str, Any]]:
    """Return what the page needs to make a control for each attribute.

    Args:
        schema: the attributes.

    Returns:
        For each attribute its `name`, `kind`, `modes`, and the `classes` of a discrete one.

    Example:
        >>> describe_controls(Schema("s", (Attribute("hat"),)))
        [{'name': 'hat', 'kind': 'discrete', 'modes': ['free', 'is', 'each'], 'classes': ['0', '1']}]
    """
    return [
        {
            "name": attribute.name,
            "kind": attribute.kind,
            "modes": list(MODES[attribute.kind]),
            "classes": [attribute.class_name(index) for index in range(attribute.num_classes)]
            if attribute.kind == "discrete"
            else [],
        }
        for attribute in schema
    ]


def query_of_controls(controls: Mapping[str, Control], schema: Schema) -> Query:
    """Return the query that controls ask for, joined by `and`.

    Args:
        controls: for each name of an attribute its control: `mode`, and `value` (a class name or a number), or `low`
            and `high`. Attributes that are left out are free.
        schema: the attributes.

    Raises:
        LaceError: for an unknown attribute or mode, a value that the attribute does not have, and an interval that
            nothing lies in.

    Example:
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> age = {"mode": "between", "low": 0.2, "high": 0.4}
        >>> str(query_of_controls({"age": age, "hat": {"mode": "is", "value": "1"}}, schema))
        'hat == 1 and 0.2 <= age <= 0.4'
    """
    for name in controls:
        _ = schema[name]
    nodes = [_node(attribute, controls[attribute.name]) for attribute in schema if attribute.name in controls]
    asked = [str(node) for node in nodes if node is not None]
    return checked_query(" and ".join(asked) or NOTHING, schema)


def _node(attribute: Attribute, control: Control) -> Node | None:
    mode = str(control.get("mode"))
    if mode not in MODES[attribute.kind]:
        allowed = MODES[attribute.kind]
        raise LaceError(
            f"The control of '{attribute.name}' must be one of {', '.join(allowed)}, received '{mode}'."
            f"{suggest(mode, allowed)}"
        )
    if mode == FREE:
        return None
    if mode == EACH:
        return Atom(attribute, "==", None)
    if mode == BETWEEN:
        low, high = (_number(attribute, control.get(end)) for end in ("low", "high"))
        return Interval(attribute, low, high, "<=", "<=")
    if attribute.kind == "discrete":
        return Atom(attribute, "==", float(attribute.class_index(str(control.get("value")))))
    return Atom(attribute, "==", _number(attribute, control.get("value")))


def _number(attribute: Attribute, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise LaceError(
            f"Attribute '{attribute.name}' is continuous with values from 0 to 1, received {value!r}: move its slider."
        )
    return float(value)


def controls_of_query(query: Query) -> dict[str, dict[str, Any]] | None:
    """Return the controls that ask for a query; None where it asks for what controls cannot show.

    Args:
        query: the condition.

    Example:
        >>> schema = Schema("s", (Attribute("hat"), Attribute("age", "continuous")))
        >>> controls_of_query(parse("hat == 1 and age == *", schema))
        {'hat': {'mode': 'is', 'value': '1'}, 'age': {'mode': 'each'}}
        >>> controls_of_query(parse("hat == 1 or age == 0.2", schema)) is None
        True
    """
    found: dict[str, dict[str, Any]] = {}

    def collect(node: Node) -> bool:
        if isinstance(node, And):
            return collect(node.left) and collect(node.right)
        control = _control(node)
        if control is None or node.attribute.name in found:  # type: ignore[union-attr]
            return False
        found[node.attribute.name] = control  # type: ignore[union-attr]
        return True

    return found if not query.asks or collect(query.root) else None


def _control(node: Node) -> dict[str, Any] | None:
    if isinstance(node, Interval) and (node.low_op, node.high_op) == ("<=", "<="):
        return {"mode": BETWEEN, "low": node.low, "high": node.high}
    if not isinstance(node, Atom) or node.op != "==":
        return None
    if node.value is None:
        return {"mode": EACH}
    if node.attribute.kind == "discrete":
        return {"mode": IS, "value": node.attribute.class_name(int(node.value))}
    return {"mode": IS, "value": node.value}


def checked_query(text: str, schema: Schema) -> Query:
    """Return the query of a line of the page.

    Args:
        text: the condition.
        schema: the attributes.

    Raises:
        LaceError: for a text outside of the grammar, unknown attributes, classes or values, and a condition that can
            never be true.

    Example:
        >>> str(checked_query("hat==1", Schema("s", (Attribute("hat"),))))
        'hat == 1'
    """
    query = parse(re.sub(r"\s+", " ", text), schema)
    if query.free:
        # With free values the energy needs one for each sample, and the condition alone is checked.
        build(query.bind(**{name: _some_value(schema[name]) for name in query.free}))
    else:
        build(query)
    return query


def _some_value(attribute: Attribute) -> str:
    return "0" if attribute.kind == "discrete" else "0.5"
