"""What samples are asked to be."""

from __future__ import annotations

import torch

from .errors import LaceError
from .query import And, Atom, Query
from .schema import Labels
from .seeds import Streams, sample_seeds, uniform


def free_labels(query: Query, count: int, seed: int = 0, first: int = 0, table: Labels | None = None) -> Labels | None:
    """Return values of the free attributes of samples first .. first + count - 1, or None when nothing is free.

    Classes are balanced: sample i gets class i mod m, further discrete attributes go on like the digits of a number.
    Continuous values are uniform in [0, 1] by the sample's seed. With a `table` of labels sample i gets the values of
    row i (mod its length) instead, which come together as they do there; rows where one of them is not known are passed
    over. Raises LaceError for a table without a row in which all are known.
    """
    if not query.free:
        return None
    if table is not None:
        known = table.known[:, [table.schema.index(name) for name in query.free]].all(1)
        if not known.any():
            raise LaceError(
                f"Free attributes take their values from labels, and none of {len(table)} rows knows "
                f"{' and '.join(query.free)} together: set metrics.distance_codes=same, or lower labeler.confidence."
            )
        table = table[known]
        rows = torch.arange(first, first + count) % len(table)
        return Labels.constant(query.schema, count, **{name: table.column(name)[rows] for name in query.free})
    number = torch.arange(first, first + count)
    columns = {}
    for index, name in enumerate(query.free):
        attribute = query.schema[name]
        if attribute.kind == "discrete":
            columns[name] = (number % attribute.num_classes).float()
            number = number // attribute.num_classes
        else:
            columns[name] = uniform(sample_seeds(count, seed, first), (1,), stream=Streams.CONDITION + index)[:, 0]
    return Labels.constant(query.schema, count, **columns)


def wanted_labels(query: Query, count: int, free: Labels | None) -> Labels:
    """Return the labels that a conjunction of `==` asks for; attributes in other logic count as not known."""
    columns = {}

    def collect(node: object) -> None:
        if isinstance(node, And):
            collect(node.left)
            collect(node.right)
        elif isinstance(node, Atom) and node.op == "==":
            name = node.attribute.name
            columns[name] = (
                free.column(name) if node.value is None and free is not None else torch.tensor(node.value or 0.0)
            )

    collect(query.root)
    return Labels.constant(query.schema, count, **columns)
