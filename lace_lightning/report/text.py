"""Tables for people: aligned text and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What a sampler has to tell, in the order of the table.
DIAGNOSTICS = (
    ("own/acc", "ACC by the classifier itself"),
    ("own/holds", "query true by the classifier itself"),
    ("confidence", "classifier's p(c|w), mean"),
    ("predicted", "  of exact samples"),
    ("spread", "spread of latents"),
    ("spread/reference", "  of exact samples"),
    ("posterior_distance", "distance to exact samples"),
    ("posterior_distance/floor", "  of exact samples to each other"),
    ("log_p", "log P of the query"),
    ("log_p/error", "  standard error"),
    ("ess", "effective samples, share"),
    ("acceptance", "acceptance"),
    ("corrector_acceptance", "acceptance of the corrector"),
    ("attempts", "attempts per sample"),
    ("checks", "pictures checked per sample"),
)


def format_value(value: Any) -> str:
    """Return a number with four significant digits, anything else as text, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows under a header, first column to the left, the others to the right."""
    cells = [list(columns), *([format_value(value) for value in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def frechet_name(names: Iterable[str]) -> str | None:
    """Return the name of the Fréchet distance among metrics (`fid`, `fid_1k`, or `fd_<network>`), None where there is
    none.
    """
    return next(
        (name for name in names if name == "fid" or (name.startswith(("fid_", "fd_")) and "/" not in name)), None
    )


def frechet_title(name: str) -> str:
    """Return what a table or an axis calls the Fréchet distance of this name."""
    if name.startswith("fid"):
        return f"FID{name.removeprefix('fid').replace('_', ', ')}{' samples' if name != 'fid' else ''}"
    return f"Fréchet distance ({name})"


def main_figures(names: Sequence[str]) -> list[str]:
    """Return the names of the figures that a table of many runs shows, of those that there are."""
    parts = [name for name in names if name.startswith("acc/") and name.count("/") == 1]
    wanted = [
        "acc",
        *(parts if len(parts) > 1 else []),
        "holds",
        "prior/holds",
        "des",
        "id",
        frechet_name(names) or "",
        "own/acc",
        "posterior_distance",
        "posterior_distance/floor",
        "log_p",
        "checks",
        "evaluations",
        "forward",
        "seconds/sampling_per_64",
        "minutes/training",
    ]
    return [name for name in wanted if name in names]


def results_table(metrics: Mapping[str, float], paper: Mapping[str, float] | None) -> str:
    """Return the figures of a run beside the paper's (which are of another generator, other features,
    other hardware).
    """
    paper = paper or {}
    frechet = frechet_name(metrics)
    rows: list[tuple[str, Any, Any]] = [("ACC", metrics.get("acc"), paper.get("acc"))]
    parts = [name for name in metrics if name.startswith("acc/") and name.count("/") == 1]
    if len(parts) > 1:
        rows += [(f"  {name.removeprefix('acc/')}", metrics[name], paper.get(name)) for name in parts]
    if "holds" in metrics and metrics.get("acc") != metrics["holds"]:
        rows.append(("query true", metrics["holds"], None))
    if "prior/holds" in metrics:
        rows.append(("  for the generator alone", metrics["prior/holds"], None))
    for name, value in metrics.items():
        if name.startswith("branch/"):
            side = name.removeprefix("branch/")
            rows.append((f"  of these {'more than one' if side == 'several' else side}", value, None))
            rows.append(("    for the generator alone", metrics.get(f"prior/{name}"), None))
    if len(parts) == 1:
        rows += [
            (f"ACC {name.split('/')[-1]}", value, None)
            for name, value in metrics.items()
            if name.count("/") == 2 and name.startswith("acc/")
        ]
    rows += [
        (label, metrics[name], paper.get(name))
        for name, label in (("des", "DES, mean of the edits"), ("id", "ID"))
        if name in metrics
    ]
    if frechet is not None:
        rows.append(
            (
                frechet_title(frechet),
                metrics[frechet],
                None if "fid" not in paper else f"{paper['fid']:.4g}{'' if frechet == 'fid' else ' (FID)'}",
            )
        )
        rows.append(
            ("  of the generator alone", metrics.get(f"{frechet}/unconditional"), paper.get("fid/unconditional"))
        )
    rows += [(label, metrics.get(name), None) for name, label in DIAGNOSTICS]
    rows += [
        ("evaluations per sample", metrics.get("evaluations"), None),
        ("  of the energy alone", metrics.get("forward") or None, None),
        (
            "sampling, seconds per 64",
            metrics.get("seconds/sampling_batch_64", metrics.get("seconds/sampling_per_64")),
            paper.get("seconds"),
        ),
        (
            "synthesis, seconds per 64",
            metrics.get("seconds/synthesis_batch_64", metrics.get("seconds/synthesis_per_64")),
            None,
        ),
        ("training, minutes", metrics.get("minutes/training"), paper.get("minutes/training")),
    ]
    rows = [row for row in rows if row[1] is not None or row[2] is not None]
    return text_table(("", "here", "paper"), rows)


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return CSV text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()
