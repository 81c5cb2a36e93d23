"""Target labels of a query: values of its free attributes, and the labels that it requires."""

from __future__ import annotations

import torch

from .errors import LaceError
from .query import And, Atom, Query
from .schema import Labels
from .seeds import Streams, sample_seeds, uniform


def free_labels(query: Query, count: int, seed: int = 0, first: int = 0, table: Labels | None = None) -> Labels | None:
    """Return values of the free attributes of samples first .. first + count - 1, or None when nothing is free.

    Classes are balanced: sample i has class i mod m, and further discrete attributes continue like the digits of a
    number. Continuous values are uniform in [0, 1] and follow from the sample's seed.

    Args:
        query: the condition.
        count: number of samples.
        seed: the seed of the run.
        first: number of the first sample.
        table: labels from which sample i takes the values of row i, modulo the number of rows, so that values occur
            together as they do in the table. Rows in which a free attribute is not known are left out.

    Raises:
        LaceError: for a table without a row in which all free attributes are known.

    Example:
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Schema
        >>> query = parse("smile == *", Schema("s", (Attribute("smile"), Attribute("hat"))))
        >>> free_labels(query, 4).column("smile").tolist()
        [0.0, 1.0, 0.0, 1.0]
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
    columns: dict[str, torch.Tensor | float] = {}
    for index, name in enumerate(query.free):
        attribute = query.schema[name]
        if attribute.kind == "discrete":
            columns[name] = (number % attribute.num_classes).float()
            number = number // attribute.num_classes
        else:
            columns[name] = uniform(sample_seeds(count, seed, first), (1,), stream=Streams.CONDITION + index)[:, 0]
    return Labels.constant(query.schema, count, **columns)


def wanted_labels(query: Query, count: int, free: Labels | None) -> Labels:
    """Return the labels that a query requires, as far as it is a conjunction of `==`; others are not known.

    Args:
        query: the condition.
        count: number of samples.
        free: values of the query's free attributes, `count` rows.

    Example:
        >>> from lace_lightning.query import parse
        >>> from lace_lightning.schema import Attribute, Schema
        >>> schema = Schema("s", (Attribute("smile"), Attribute("hat")))
        >>> wanted_labels(parse("smile == 1 and not hat == 1", schema), 2, None).known.tolist()
        [[True, False], [True, False]]
    """
    columns: dict[str, torch.Tensor | float] = {}

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
