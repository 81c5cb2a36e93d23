"""What loggers get of a finished run: pictures, tables, figures over steps, the paper's figures, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from ..callbacks import Evaluation
from ..metrics.names import figure_of, in_order
from ..report.paper import paper_row
from .settings import Settings

# Files of a run that are kept as its artefact, where they are there.
FILES = ("metrics.json", "config.yaml", "command.txt", "samples.png", "samples.webp")


@rank_zero_only
def track_results(settings: Settings, loggers: Sequence[Any], metrics: Mapping[str, float], result: Evaluation) -> None:
    """Give the results of a run to those loggers that take pictures, tables, values of the whole run and files.

    Args:
        settings: settings of the run, whose results are written.
        loggers: loggers of the run.
        metrics: figures by name.
        result: pictures, tables and series.
    """
    paper = paper_row(settings.plain)
    tables = {
        "results": (["figure", "title", "ours", "paper"], figure_rows(metrics, paper)),
        "by_class": (["attribute", "class", "ours", "paper"], class_rows(metrics, paper)),
        **{name: (table.columns, table.rows) for name, table in result.tables.items()},
    }
    summary: dict[str, Any] = {f"paper/{name}": value for name, value in paper.items()}
    files = [path for name in FILES if (path := Path(settings.paths.output) / name).is_file()]
    figures = {f"sampling/{name}" if name in result.metrics else name: value for name, value in metrics.items()}
    for logger in loggers:
        for series, rows in result.series.items():
            if hasattr(logger, "log_curve"):
                logger.log_curve(rows, series)
        if hasattr(logger, "log_image") and result.grid is not None:
            logger.log_image("samples", [result.grid])
        if hasattr(logger, "log_table"):
            for name, (columns, cells) in tables.items():
                if cells:
                    logger.log_table(f"tables/{name}", columns, cells)
        if hasattr(logger, "log_summary"):
            logger.log_summary({**figures, **summary})
        if hasattr(logger, "log_files"):
            logger.log_files(f"results-{settings.name}", files)


def figure_rows(metrics: Mapping[str, float], paper: Mapping[str, float]) -> list[list[Any]]:
    """Return a row for each figure: name, title, value, and the paper's value as text.

    Args:
        metrics: figures by name.
        paper: the paper's figures by key.

    Example:
        >>> figure_rows({"acc": 0.9, "fd_judge": 6.5}, {"acc": 0.97, "fid": 6.6})
        [['acc', 'ACC', 0.9, '0.97'], ['fd_judge', 'Fréchet distance (fd_judge)', 6.5, '6.6 (FID)']]
    """
    return [
        [figure.name, figure.title, float(metrics[figure.name]), figure.beside(paper)] for figure in in_order(metrics)
    ]


def class_rows(metrics: Mapping[str, float], paper: Mapping[str, float]) -> list[list[Any]]:
    """Return a row for each attribute and for each of its classes: attribute, class, ACC, and the paper's.

    Args:
        metrics: figures by name.
        paper: the paper's figures by key.

    Example:
        >>> class_rows({"acc": 0.9, "acc/label": 0.9, "acc/label/ship": 1.0}, {"acc/label": 0.97})
        [['label', 'all', 0.9, '0.97'], ['label', 'ship', 1.0, None]]
    """
    rows = []
    for name, value in metrics.items():
        first, *parts = name.split("/", 2)
        if first == "acc" and parts:
            attribute, kind = parts if len(parts) == 2 else (parts[0], "all")
            rows.append([attribute, kind, float(value), figure_of(name).beside(paper)])
    return rows
