"""Pictures of a sweep as W&B's panels show it: scatter, parallel coordinates, importance of settings."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..artifacts import atomic_path
from ..errors import LaceError
from ..metrics.names import figure_of, frechet_name
from .paper import paper_entries
from .sweeps import SEED_KEYS, _pyplot

Row = dict[str, Any]
# Columns of results.csv that are neither settings nor figures of a sample.
STATE, REASON = "state", "reason"
EVALUATIONS, SECONDS = "evaluations", "seconds/sampling_per_64"


def read_results(path: Path) -> list[Row]:
    """Return the finished jobs of a sweep.

    Args:
        path: its results.csv, or the folder of it.

    Returns:
        Settings and figures by name, numbers where they are numbers; empty cells are left out.

    Raises:
        LaceError: for a file that is missing or no table of a sweep.
    """
    file = path / "results.csv" if path.is_dir() else path
    if not file.is_file():
        raise LaceError(f"There is no '{file}': give the folder of a sweep, or its results.csv.")
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if rows and STATE not in rows[0]:
        raise LaceError(f"The file '{file}' has no column '{STATE}': give the results.csv of a sweep.")
    return [
        {name: _number(text) for name, text in row.items() if text != ""}
        for row in rows
        if row[STATE] in ("done", "skipped")
    ]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def settings_of(rows: Sequence[Row]) -> list[str]:
    """Return the settings that take several values in a sweep: the columns before `state`.

    Args:
        rows: jobs, as `read_results` returns them.

    Example:
        >>> settings_of([{"sampler.atol": 0.1, "state": "done", "acc": 0.9}])
        ['sampler.atol']
    """
    names = list(rows[0]) if rows else []
    return names[: names.index(STATE)] if STATE in names else []


def paper_points(domain: str) -> list[tuple[str, float, float]]:
    """Return the paper's points of ACC against FID.

    Args:
        domain: first word of the names of entries in conf/paper.yaml, such as cifar10.

    Returns:
        Name, FID and ACC of every entry of the domain that has both.

    Example:
        >>> ("LACE-ODE", 6.63, 0.972) in paper_points("cifar10")
        True
    """
    return [
        (entry["name"].partition(" ")[2], float(entry["fid"]), float(entry["acc"]))
        for entry in paper_entries()
        if entry["name"].partition(" ")[0] == domain and {"fid", "acc"} <= entry.keys()
    ]


def draw_scatter(sweeps: Mapping[str, Sequence[Row]], paper: Sequence[tuple[str, float, float]], path: Path) -> None:
    """Draw ACC against the Fréchet distance: a colour for each sweep, and the paper's points with their names.

    Args:
        sweeps: jobs by the name of the sweep.
        paper: name, FID and ACC of each point of the paper.
        path: the PNG file.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 4.8), layout="constrained")
    names = list(dict.fromkeys(name for rows in sweeps.values() for row in rows for name in row))
    distance = frechet_name(names)
    for (name, rows), marker in zip(sweeps.items(), "osD^v<>", strict=False):
        points = [(row[distance], row["acc"]) for row in rows if distance in row and "acc" in row]
        axes.scatter(*np.array(points).T, s=22, alpha=0.55, marker=marker, label=f"{name} ({len(points)} runs)")
    if paper:
        places = [(x, y) for _, x, y in paper]
        axes.scatter(*np.array(places).T, s=70, marker="*", color="black", label="paper (FID), by number")
        _number_points(axes, places)
        text = "\n".join(f"{number}  {name}" for number, (name, _, _) in enumerate(paper, 1))
        axes.text(1.02, 1.0, text, transform=axes.transAxes, fontsize=7.5, va="top")
    axes.set(xlabel=figure_of(distance or "fid").title, ylabel=figure_of("acc").title, xscale="log")
    axes.xaxis.set_major_formatter(pyplot.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(pyplot.NullFormatter())
    ticks = [2, 3, 5, 7, 10, 20, 30, 50, 100, 200]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    _save(figure, path)


def _number_points(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """Write numbers beside points, those of points that lie together in one text."""
    groups: list[tuple[tuple[float, float], list[int]]] = []
    for number, (x, y) in enumerate(points, 1):
        near = next((group for (a, b), group in groups if abs(np.log(x / a)) < 0.1 and abs(y - b) < 0.03), None)
        if near is None:
            groups.append(((x, y), [number]))
        else:
            near.append(number)
    for place, numbers in groups:
        text = ", ".join(map(str, numbers))
        axes.annotate(text, place, textcoords="offset points", xytext=(4, 5), fontsize=7.5)


def draw_parallel(rows: Sequence[Row], columns: Sequence[str], colour: str, path: Path, title: str = "") -> None:
    """Draw parallel coordinates: an axis for each column, logarithmic where it spans more than a factor of 5.

    Args:
        rows: jobs; those that lack a column are left out.
        columns: settings and figures, from left to right.
        colour: the column that colours the lines.
        path: the PNG file.
        title: title of the picture.
    """
    pyplot = _pyplot()
    whole = [row for row in rows if all(isinstance(row.get(name), float) for name in (*columns, colour))]
    figure, axes = pyplot.subplots(figsize=(1.7 * len(columns) + 1, 4.2), layout="constrained")
    scaled = [_scaled(np.array([row[name] for row in whole])) for name in columns]
    values = np.array([row[colour] for row in whole])
    low, high = float(values.min()), float(values.max())
    shades = pyplot.get_cmap("viridis")((values - low) / (high - low or 1.0))
    lines = np.stack([places for places, _ in scaled], 1)
    for line, shade in zip(lines, shades, strict=True):
        axes.plot(range(len(columns)), line, color=shade, alpha=0.6, linewidth=0.9)
    for x, (_, ticks) in enumerate(scaled):
        axes.axvline(x, color="black", linewidth=0.8)
        for place, text in ticks:
            axes.annotate(text, (x, place), textcoords="offset points", xytext=(3, 0), fontsize=7, va="center")
    axes.set_xticks(range(len(columns)), [_label(name) for name in columns], fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 1 + 0.45)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, fontsize=10)
    norm = pyplot.Normalize(low, high)
    figure.colorbar(pyplot.cm.ScalarMappable(norm, "viridis"), ax=axes, label=_label(colour), pad=0.01, fraction=0.03)
    _save(figure, path)


def _label(name: str) -> str:
    figure = figure_of(name)
    short = {EVALUATIONS: "evaluations", SECONDS: "seconds\nper 64"}
    return short.get(name) or (figure.column if figure.known else name.rpartition(".")[2])


def _scaled(values: NDArray[Any]) -> tuple[NDArray[Any], list[tuple[float, str]]]:
    """Return places of values between 0 and 1, and places and texts of ticks; a zero on a logarithmic axis is below."""
    positive = values[values > 0]
    is_log = len(positive) > 0 and values.min() >= 0 and positive.max() / positive.min() > 5

    def moved(numbers: NDArray[Any]) -> NDArray[Any]:
        return np.log10(np.where(numbers > 0, numbers, positive.min() / 10)) if is_log else numbers

    low, high = float(moved(values).min()), float(moved(values).max())
    width = high - low or 1.0
    levels = np.unique(values)
    if len(levels) > 9:
        between = np.geomspace if is_log else np.linspace
        start = positive.min() if is_log else values.min()
        levels = np.unique([start, *(float(f"{v:.2g}") for v in between(start, values.max(), 6)[1:-1]), values.max()])
    return (moved(values) - low) / width, [
        (float((moved(np.array(level)) - low) / width), f"{level:.3g}") for level in levels
    ]


def importance(rows: Sequence[Row], settings: Sequence[str], figure: str) -> dict[str, float]:
    """Return the share of a figure's variance that the levels of each setting explain alone (η²).

    Args:
        rows: jobs; those that lack the figure are left out.
        settings: names of settings.
        figure: name of the figure.

    Returns:
        Shares from 0 to 1 by setting; 0 for a figure that is the same in all jobs.

    Example:
        >>> rows = [{"a": a, "b": b, "acc": 2.0 * a + b} for a in (0.0, 1.0) for b in (0.0, 1.0)]
        >>> importance(rows, ["a", "b"], "acc")
        {'a': 0.8, 'b': 0.2}
    """
    whole = [row for row in rows if isinstance(row.get(figure), float)]
    values = np.array([row[figure] for row in whole])
    total = float(((values - values.mean()) ** 2).sum()) if len(whole) else 0.0
    result = {}
    for name in settings:
        levels = [row.get(name) for row in whole]
        between = 0.0
        for level in dict.fromkeys(levels):
            part = values[[other == level for other in levels]]
            between += len(part) * float(part.mean() - values.mean()) ** 2
        result[name] = round(between / total, 6) if total else 0.0
    return result


def draw_importance(
    rows: Sequence[Row], settings: Sequence[str], figures: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw for each figure the share of its variance that each setting explains.

    Args:
        rows: jobs.
        settings: names of settings.
        figures: names of figures.
        path: the PNG file.
        title: title of the picture.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(figures), figsize=(3.6 * len(figures), 2.6), layout="constrained", squeeze=False
    )
    for cell, name in zip(axes[0], figures, strict=True):
        shares = importance(rows, settings, name)
        bars = cell.barh([_label(key) for key in shares], list(shares.values()), color="#3b6fb6")
        cell.bar_label(bars, [f"{share:.2f}" for share in shares.values()], padding=3, fontsize=8)
        cell.set(xlim=(0, 1.15), title=_label(name).replace("\n", " "))
        cell.invert_yaxis()
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Write a plot as a PNG of 128 colours, which is a third as large, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    _pyplot().close(figure)
    with atomic_path(path) as temporary:
        Image.open(buffer).convert("RGB").quantize(128).save(temporary, format="png", optimize=True)


def draw_panels(sweeps: Mapping[str, Sequence[Row]], folder: Path, domain: str | None = None) -> list[Path]:
    """Draw the panels of sweeps: a scatter of all, and parallel coordinates and importance of each.

    Args:
        sweeps: jobs by the name of the sweep, as `read_results` returns them.
        folder: folder of the pictures.
        domain: first word of entries in conf/paper.yaml whose points are shown too; None: that of the first sweep.

    Returns:
        The PNG files: `scatter.png`, `parallel_<sweep>.png` and `importance_<sweep>.png`.
    """
    made: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)

    def place(name: str) -> Path:
        made.append(folder / name)
        return made[-1]

    names = list(dict.fromkeys(name for rows in sweeps.values() for row in rows for name in row))
    distance = frechet_name(names)
    if distance is not None and "acc" in names:
        first = next(iter(sweeps)).partition("_")[0]
        draw_scatter(sweeps, paper_points(domain or first), place("scatter.png"))
    for sweep, rows in sweeps.items():
        names = [name for name in settings_of(rows) if name not in SEED_KEYS]
        settings = [name for name in names if all(isinstance(row.get(name), float) for row in rows)]
        figures = [
            n for n in (EVALUATIONS, SECONDS, "acc", distance) if n is not None and all(n in row for row in rows)
        ]
        targets = [name for name in ("acc", distance) if name in figures]
        if len(rows) < 2 or not settings or not targets:
            continue
        # Langevin dynamics takes one evaluation a step.
        figures = [name for name in figures if name != EVALUATIONS or len({row[name] for row in rows}) > 3]
        columns = [*settings, *figures]
        draw_parallel(rows, columns, targets[0], place(f"parallel_{sweep}.png"), sweep)
        title = f"{sweep}: share of the variance that a setting explains"
        draw_importance(rows, settings, [str(name) for name in targets], place(f"importance_{sweep}.png"), title)
    return made
