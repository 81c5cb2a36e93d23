"""The report of one run: a page that is made of the files of its folder alone."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..artifacts import read_json
from ..configuration import describe
from ..metrics.names import figure_of, frechet_name, in_order
from .diagnoses import accuracy_findings, sampler_findings
from .files import config_of, date_of, named, query_of, results_of, text_of
from .html import REPORT, Picture, embedded, relative_link, write_page
from .paper import class_name
from .text import format_value, result_rows

if TYPE_CHECKING:
    from markupsafe import Markup

# Pictures of a run: the file, and what it shows.
PICTURES = {"samples.png": "Samples", "contact.png": "Contact sheet", "samples/contact.png": "First samples"}
ANIMATIONS = {"samples.webp": "The way from edit to edit", "walk.webp": "Walk"}
# Charts of a training, at most, and points that make a curve.
CHARTS, LEAST = 12, 2
# Figures of the heading of a page.
TILES = 5
# Beginnings of columns of metrics.csv that are measured once, after a training.
MEASURED = ("sampling/", "classifier/", "calibration/", "model/", "test")
# Files whose links say nothing to a reader.
HIDDEN = (REPORT, "multirun.yaml")


def write_run_report(folder: Path) -> Path:
    """Write report.html of a run from the files of its folder.

    Args:
        folder: the folder of the run; one that has no figures yet has a report of its settings.

    Returns:
        The file.

    Raises:
        LaceError: when the file cannot be written.
    """
    return write_page(folder / REPORT, "run", run_page(folder))


def run_page(folder: Path) -> dict[str, Any]:
    """Return the values of the template of a run.

    Args:
        folder: the folder of the run.
    """
    results, config = results_of(folder), config_of(folder)
    metrics, paper, protocol = (dict(results.get(name) or {}) for name in ("metrics", "paper", "protocol"))
    failure = read_json(folder / "failed.json") if (folder / "failed.json").is_file() else {}
    curves = list(training_curves(folder / "csv" / "metrics.csv"))
    has_trained = "minutes/training" in metrics
    findings = (
        ("Is this sampler right here?", sampler_findings(metrics, protocol)),
        ("What limits ACC?", accuracy_findings(metrics, protocol, config)),
    )
    is_sampled = bool({"acc", "holds"} & set(metrics))
    command = results.get("command") or text_of(folder / "command.txt").strip()
    return {
        "title": str(results.get("name") or config.get("name") or folder.name),
        "status": "done" if results else "failed" if failure else "unfinished",
        "reason": failure.get("error", ""),
        "date": date_of(folder, results),
        "about": dict(describe("experiment")).get(str(config.get("name")), ""),
        "tiles": _tiles(metrics, paper),
        "asked": [(name, value) for name, value in _asked(config, protocol) if value not in (None, "", [])],
        "pictures": list(_pictures(folder)),
        "linked": [
            (name, relative_link(folder / name, folder))
            for name in ANIMATIONS
            if (folder / name).is_file() and embedded(folder / name, "", folder) is None
        ],
        "rows": [
            {"title": row.title, "depth": row.depth, "here": format_value(row.here), "paper": format_value(row.paper)}
            for row in (result_rows(metrics, paper) if is_sampled else _plain_rows(metrics))
        ],
        "has_paper": bool(paper),
        "distance": "; ".join(f"{key}: {value}" for key, value in (protocol.get("frechet") or {}).items()),
        "steps": _steps(metrics, config),
        "diagnoses": [(title, found) for title, found in findings if found] if is_sampled else [],
        "curves": curves,
        "curves_note": ""
        if curves or not has_trained
        else "This run logged no training: the trained state came from the cache, or the training was shorter than "
        "trainer.log_every_n_steps.",
        "command": command,
        "versions": results.get("versions") or {},
        "settings": text_of(folder / "config.yaml"),
        "protocol": yaml.safe_dump(protocol, sort_keys=False, allow_unicode=True, width=110) if protocol else "",
        "all_figures": [(name, format_value(value)) for name, value in metrics.items()],
        "files": [
            (path.name + "/" * path.is_dir(), relative_link(path, folder))
            for path in sorted(folder.iterdir())
            if not path.name.startswith(".") and path.name not in HIDDEN and (path.is_dir() or path.stat().st_size)
        ],
    }


def _asked(config: Mapping[str, Any], protocol: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and values of what a run was asked for."""
    task = config.get("task") if isinstance(config.get("task"), Mapping) else {}
    query = config.get("query") if isinstance(config.get("query"), Mapping) else {}
    is_of_query = bool(protocol.get("query")) or bool(task.get("edits"))  # type: ignore[union-attr]
    yield "Task", dict(describe("task")).get(str(task.get("name")), task.get("name"))  # type: ignore[union-attr]
    if is_of_query or not protocol:
        yield "Edits" if task.get("edits") else "Query", query_of(config, protocol)  # type: ignore[union-attr]
        energy = protocol.get("energy") or {}
        strength = energy.get("gamma") or query.get("weight")  # type: ignore[union-attr]
        yield "Strength γ", None if strength is None else format_value(strength)
    yield "Experiment", config.get("name")
    yield "Method", config.get("method")
    yield "Generator", named(config.get("generator"))
    yield "Labeler", named(config.get("labeler"))
    yield "System", class_name(config.get("model")) or ("LACE" if is_of_query else None)
    yield "Sampler", protocol.get("sampler") or named(config.get("sampler"))
    yield "Judge", protocol.get("judge") or named(config.get("judge"))
    yield "Samples", protocol.get("num_samples")
    yield "Seeds", protocol.get("seeds")
    yield "Seed", config.get("seed")
    yield "Device", protocol.get("device")
    yield "Partial", protocol.get("partial")


def _tiles(metrics: Mapping[str, float], paper: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of the heading."""
    distance = frechet_name(metrics)
    names = ["acc", "holds", *([distance] if distance else []), "des", "id", "seconds/sampling_batch_64"]
    names += ["seconds/sampling_per_64", "evaluations", "minutes/training"]
    shown = [name for name in names if name in metrics and (name != "holds" or metrics.get("acc") != metrics["holds"])]
    if "seconds/sampling_batch_64" in shown and "seconds/sampling_per_64" in shown:
        shown.remove("seconds/sampling_per_64")
    figures = [figure_of(name) for name in shown[:TILES]]
    return [
        {"name": figure.title, "value": figure.text(float(metrics[figure.name])), "paper": figure.beside(paper)}
        for figure in figures
    ]


def _plain_rows(metrics: Mapping[str, float]) -> Iterator[Any]:
    """Yield rows of figures of a task without samples of a query."""
    from .text import ResultRow

    for figure in in_order(metrics):
        yield ResultRow(figure.title, 0, figure.text(metrics[figure.name]), None)


def _steps(metrics: Mapping[str, float], config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of the figures after each edit, or at each temperature; None where there are none."""
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if match := re.fullmatch(r"(edit\d+|tau[\d.e+-]+)/(.+)", name):
            found.setdefault(match[1], {})[match[2]] = value
    if not found:
        return None
    columns = in_order(name for figures in found.values() for name in figures)
    edits = list((config.get("task") or {}).get("edits") or []) if isinstance(config.get("task"), Mapping) else []
    rows = []
    for step, figures in found.items():
        number = int(step[4:]) if step.startswith("edit") else 0
        text = f"{number}. {edits[number - 1]}" if 0 < number <= len(edits) else step.replace("tau", "τ = ")
        rows.append([text, *(figure.text(figures.get(figure.name)) for figure in columns)])
    is_edit = next(iter(found)).startswith("edit")
    title = "Edit by edit" if is_edit else "By temperature"
    return {"title": title, "columns": ["edit" if is_edit else "", *(f.title for f in columns)], "rows": rows}


def _pictures(folder: Path) -> Iterator[Picture]:
    for name, alt in {**PICTURES, **ANIMATIONS}.items():
        if (folder / name).is_file() and (picture := embedded(folder / name, alt, folder)) is not None:
            yield picture


def training_curves(path: Path) -> Iterator[Markup]:
    """Yield charts of the figures that a training logged, those of one figure in one chart.

    Args:
        path: metrics.csv of the CSV logger.
    """
    from .charts import curves

    grouped: dict[str, list[tuple[str, list[tuple[float, float]]]]] = {}
    for column, points in logged(path).items():
        # train/loss, val/loss and loss are curves of one figure.
        match = re.fullmatch(r"(train|val)[/_](.+)", column)
        stage, title = (match[1], match[2]) if match else ("train", column)
        if len(points) >= LEAST:
            grouped.setdefault(title, []).append((stage, points))
    # Losses first, and figures of single attributes last.
    order = sorted(grouped, key=lambda title: ("loss" not in title, "/" in title))
    for title in order[:CHARTS]:
        yield curves(title, grouped[title])


def logged(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the points (step, value) of every figure of a training.

    Args:
        path: metrics.csv of the CSV logger; a missing or damaged file has no points.

    Returns:
        Points by name of the column; figures that are measured after a training are left out.
    """
    result: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream)):
                step = _number(row.get("step"))
                for column, text in row.items():
                    if column in ("step", "epoch", None) or column.startswith(MEASURED):
                        continue
                    if (value := _number(text)) is not None:
                        result.setdefault(column, []).append((number if step is None else step, value))
    except (OSError, ValueError, csv.Error):
        return result
    return result


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
