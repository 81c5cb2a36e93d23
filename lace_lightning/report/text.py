"""Tables as aligned text, CSV and Markdown, and the table of the figures of one run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from ..errors import LaceError
from ..metrics.names import FIGURES, Figure, depth, in_order


@dataclass(frozen=True)
class Table:
    r"""Rows under a header, written as aligned text, CSV or Markdown.

    Args:
        columns: Titles of the columns.
        rows: Rows of cells, as many as there are columns: texts, numbers, or None for an empty cell.

    Raises:
        LaceError: When a row has another number of cells than there are columns.

    Example:
        >>> table = Table(("sampler", "ACC"), [("heun", 0.98765), ("ode", None)])
        >>> print(table.text())
        sampler     ACC
        -------  ------
        heun     0.9877
        ode           -
        >>> print(table.markdown())
        | sampler | ACC |
        | --- | --- |
        | heun | 0.9877 |
        | ode |  |
        >>> table.csv()
        'sampler,ACC\nheun,0.98765\node,\n'
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise LaceError(
                    f"Each row of a table must have {len(self.columns)} cells, one for each column, received "
                    f"{len(row)}: give None for an empty cell."
                )

    def text(self) -> str:
        """Return aligned text: the first column to the left, the others to the right, empty cells as dashes."""
        cells = [list(self.columns), *([format_value(value) for value in row] for row in self.rows)]
        widths = [max(len(row[index]) for row in cells) for index in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])

    def csv(self) -> str:
        """Return CSV with all digits; empty cells are empty fields."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return stream.getvalue()

    def markdown(self) -> str:
        """Return a Markdown table."""
        cells = [
            ["" if value is None or value == "" else format_value(value).replace("|", "\\|") for value in row]
            for row in (self.columns, ["---"] * len(self.columns), *self.rows)
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    def with_columns(self, columns: Sequence[str], cells: Sequence[Sequence[Any]]) -> Table:
        """Return the table with further columns on its right.

        Args:
            columns: Their titles.
            cells: Their cells, a sequence for every row.

        Raises:
            LaceError: When the cells do not fit.
        """
        if len(cells) != len(self.rows):
            raise LaceError(
                f"Further columns must have {len(self.rows)} rows, received {len(cells)}: give cells for every row."
            )
        return Table([*self.columns, *columns], [[*row, *more] for row, more in zip(self.rows, cells, strict=True)])


def format_value(value: Any) -> str:
    """Return a number with four significant digits, None as a dash, and any other value as text.

    Args:
        value: Any value; an empty text is written as a dash too.

    Example:
        >>> format_value(0.123456), format_value(7), format_value(None)
        ('0.1235', '7', '-')
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def mean_sd(values: Sequence[float]) -> str:
    """Return the mean and, of several values, ± their standard deviation (n - 1).

    Args:
        values: Values of one figure over seeds.

    Returns:
        Three decimals below 10, else one; an empty text for no values.

    Example:
        >>> mean_sd([0.5, 0.7]), mean_sd([12.34]), mean_sd([])
        ('0.600 ± 0.141', '12.3', '')
    """
    if not values:
        return ""
    digits = 3 if abs(mean(values)) < 10 else 1
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as aligned text.

    Args:
        columns: Titles of the columns.
        rows: Rows of cells, as many as there are columns.

    Raises:
        LaceError: When a row has another number of cells than there are columns.

    Example:
        >>> print(text_table(("sampler", "ACC"), [("heun", 0.5)]))
        sampler  ACC
        -------  ---
        heun     0.5
    """
    return Table(columns, rows).text()


def results_table(metrics: Mapping[str, float], paper: Mapping[str, float] | None = None) -> str:
    """Return the table of a run's figures beside the paper's.

    The paper's figures are those of another generator, other features and other hardware.

    Args:
        metrics: Figures of the run by name; names without an entry in `metrics.names` come last.
        paper: The paper's figures for the same setting by key.

    Returns:
        Aligned text with a row for each figure.

    Example:
        >>> print(results_table({"acc": 0.91, "holds": 0.91, "brightness": 0.5}, {"acc": 0.98}))
                    here  paper
        ----------  ----  -----
        ACC         0.91   0.98
        brightness   0.5      -
    """
    rows = [("  " * row.depth + row.title, row.here, row.paper) for row in result_rows(metrics, paper or {})]
    return Table(("", "here", "paper"), rows).text()


@dataclass(frozen=True)
class ResultRow:
    """A row of the table of a run: a figure beside the paper's.

    Args:
        title: title of the figure.
        depth: number of figures that it is indented below.
        here: the figure of the run as text, None where the run has none.
        paper: the figure of the paper as text, None where the paper has none.

    Example:
        >>> ResultRow("ACC", 0, "0.91", None).here
        '0.91'
    """

    title: str
    depth: int
    here: str | None
    paper: str | None


def result_rows(metrics: Mapping[str, float], paper: Mapping[str, float]) -> list[ResultRow]:
    """Return the rows of the table of a run, in the order of `metrics.names`.

    Args:
        metrics: figures of the run by name.
        paper: the paper's figures for the same setting by key.

    Example:
        >>> [(row.title, row.here, row.paper) for row in result_rows({"acc": 0.91}, {"acc": 0.98})]
        [('ACC', '0.91', '0.98')]
    """
    return [
        ResultRow(
            figure.title,
            depth(figure),
            figure.text(metrics[figure.name]) if figure.name in metrics else None,
            figure.beside(paper),
        )
        for figure in in_order([*metrics, *_only_in_paper(metrics, paper)])
        if _is_shown(figure, metrics)
    ]


def _is_shown(figure: Figure, metrics: Mapping[str, float]) -> bool:
    """Return whether a run's table has a row for a figure."""
    value = metrics.get(figure.name)
    return not (
        figure.place == "file"
        or figure.unless in metrics
        or (value is not None and metrics.get(figure.unless_equal) == value)
        or (figure.hide_zero and not value)
    )


def _only_in_paper(metrics: Mapping[str, float], paper: Mapping[str, float]) -> list[str]:
    """Return names of figures that the paper has and the run has not."""
    shown = {key for figure in in_order(metrics) for key in figure.paper}
    names = []
    for key in paper:
        entry = next((f for f in FIGURES if key in (f.paper or (f.name,)) and f.place == "main"), None)
        if key not in shown and entry is not None:
            names.append(entry.name)
    return names
