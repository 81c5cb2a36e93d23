"""Cells of tables as plain values."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image


def plain_cell(value: Any) -> Any:
    """Return a cell of a table as a plain value; a picture becomes its size in words.

    Args:
        value: a number, a text, a truth value, None or a PIL picture.

    Example:
        >>> plain_cell(Image.new("RGB", (4, 2))), plain_cell(0.5)
        ('picture 4x2', 0.5)
    """
    return f"picture {value.width}x{value.height}" if isinstance(value, Image.Image) else value


def one_kind_a_column(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the cells with those columns as text that have numbers and words: a column of W&B has one kind.

    Args:
        rows: cells of each row; None is of any kind.

    Example:
        >>> one_kind_a_column([[1, 0.5], ["none", None]])
        [['1', 0.5], ['none', None]]
    """
    columns = []
    for column in zip(*rows, strict=True):
        kinds = {float if type(value) is int else type(value) for value in column if value is not None}
        columns.append([value if value is None or len(kinds) < 2 else str(value) for value in column])
    return [list(row) for row in zip(*columns, strict=True)]


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    r"""Return a table as CSV.

    Args:
        columns: names of the columns.
        rows: cells of each row.

    Example:
        >>> csv_text(["a", "b"], [[1, None]])
        'a,b\n1,\n'
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[plain_cell(value) for value in row] for row in rows])
    return stream.getvalue()


def markdown_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as Markdown.

    Args:
        columns: names of the columns.
        rows: cells of each row.

    Example:
        >>> print(markdown_text(["a"], [[0.123456]]))
        | a |
        | --- |
        | 0.1235 |
    """
    lines = [columns, ["---"] * len(columns), *[[_short(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _short(value: Any) -> str:
    value = plain_cell(value)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
