"""The report of a sweep: sortable tables, two charts, pictures of jobs; made of the files of its folder alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ..configuration import describe
from ..metrics.names import figure_of, frechet_name, main_figures
from .charts import Job, parallel, scatter
from .files import date_of, results_of
from .html import REPORT, embedded, relative_link, write_page
from .paper import paper_row
from .record import flatten
from .sweeps import collect, seed_groups, setting_of, varied_keys
from .text import format_value

# Hydra's file of a sweep, which holds its configuration and is written before its first job.
MULTIRUN = "multirun.yaml"
# Pictures of jobs in a report, their longest side in pixels and the most bytes of one.
GALLERY, THUMB, THUMB_BYTES = 12, 480, 60_000
PLOTS = {
    "curves.png": "ACC and the Fréchet distance against single settings",
    "together.png": "ACC against the Fréchet distance, several sweeps",
    "side_by_side.png": "Methods side by side",
}
# Figures beside the settings in the chart of parallel axes.
COSTS = ("evaluations", "seconds/sampling_batch_64", "seconds/sampling_per_64")


def write_sweep_report(folder: Path, since: float = 0.0) -> Path:
    """Write report.html of a sweep from the files of its folder.

    Args:
        folder: the folder of the sweep.
        since: seconds since the epoch; jobs that were started before are left out.

    Returns:
        The file.

    Raises:
        LaceError: when the file cannot be written.
    """
    return write_page(folder / REPORT, "sweep", sweep_page(folder, since))


def sweep_page(folder: Path, since: float = 0.0) -> dict[str, Any]:
    """Return the values of the template of a sweep.

    Args:
        folder: the folder of the sweep.
        since: seconds since the epoch; jobs that were started before are left out.
    """
    multirun = OmegaConf.create(_yaml(folder / MULTIRUN))
    name = str(OmegaConf.select(multirun, "name") or folder.name)
    keys = varied_keys(multirun) if "hydra" in multirun else []
    records = sorted(collect(folder, since), key=lambda record: [_place(record, key) for key in keys])
    names = list(dict.fromkeys(figure for record in records for figure in record["metrics"]))
    frechet, main = frechet_name(names), [name for name in main_figures(names) if not _repeats(name, records)]
    jobs = [_job(folder, record, keys, main) for record in records]
    states = [record["state"] for record in records]
    with_acc = [record for record in records if "acc" in record["metrics"]]
    best = max(with_acc, key=lambda record: float(record["metrics"]["acc"])) if with_acc else None
    first = next((folder / r["folder"] for r in records if r["metrics"]), None)
    results = {} if first is None else results_of(first)
    others, groups = seed_groups(records, keys)
    return {
        "title": name,
        "counts": ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
        "date": "" if first is None else date_of(first, results),
        "about": dict(describe("experiment")).get(name, ""),
        "tiles": _tiles(records, keys, frechet),
        "best": best["folder"] if best is not None and len(records) > 1 else "",
        "columns": [
            *({"title": key, "is_number": _all_numbers(records, key)} for key in keys),
            {"title": "state", "is_number": False},
            *({"title": figure_of(figure).column, "is_number": True} for figure in main),
        ],
        "jobs": jobs,
        "failures": [(record["folder"], record["reason"]) for record in records if record["state"] == "failed"],
        "seeds": _seeds(others, groups, main) if groups else None,
        "scatter": _scatter(folder, records, keys, frechet) if frechet else None,
        "parallel": _parallel(folder, records, keys, frechet) if keys else None,
        "coloured": "ACC" if with_acc else "last figure",
        "pictures": list(_pictures(folder, records, keys)),
        "plots": [plot for file, alt in PLOTS.items() if (plot := embedded(folder / file, alt, folder)) is not None],
        "command": _command(folder, multirun, results),
        "versions": results.get("versions") or {},
        "settings": _shared(records),
        "files": [
            (path.name, relative_link(path, folder))
            for path in sorted(folder.iterdir())
            if path.is_file() and not path.name.startswith(".") and path.name != REPORT
        ],
    }


def _place(record: dict[str, Any], key: str) -> tuple[bool, float, str]:
    """Return the place of a job in the order of a setting: numbers by size, then texts."""
    value = setting_of(record["config"], key)
    is_number = isinstance(value, (int, float))
    return not is_number, float(value) if is_number else 0.0, "" if is_number else str(value)


def _repeats(name: str, records: Sequence[dict[str, Any]]) -> bool:
    """Return whether a figure has the values of the one that replaces it, in all jobs, or is hidden where it is 0."""
    figure = figure_of(name)
    values = [record["metrics"] for record in records if name in record["metrics"]]
    return (figure.hide_zero and not any(one[name] for one in values)) or (
        bool(figure.unless_equal) and all(one.get(figure.unless_equal) == one[name] for one in values)
    )


def _yaml(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except yaml.YAMLError:
        return {}


def _link(folder: Path, job: str) -> str:
    """Return the address of the report of a job, or of its folder where there is none."""
    path = folder / job / REPORT
    return relative_link(path if path.is_file() else path.parent, folder)


def _all_numbers(records: Sequence[dict[str, Any]], key: str) -> bool:
    return all(isinstance(setting_of(record["config"], key), (int, float)) for record in records)


def _job(folder: Path, record: dict[str, Any], keys: Sequence[str], main: Sequence[str]) -> dict[str, Any]:
    """Return the row of a job in the table."""
    cells: list[dict[str, Any]] = [_cell(setting_of(record["config"], key)) for key in keys]
    state = record["state"]
    cells.append({"value": state, "text": state, "is_number": False, "is_state": True})
    for name in main:
        value = record["metrics"].get(name)
        text = figure_of(name).text(value)
        cells.append({"value": "" if value is None else value, "text": text, "is_number": True, "is_state": False})
    return {"name": record["folder"], "link": _link(folder, record["folder"]), "cells": cells}


def _cell(value: Any) -> dict[str, Any]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"value": value, "text": format_value(value), "is_number": is_number, "is_state": False}


def settings_text(record: dict[str, Any], keys: Sequence[str]) -> str:
    """Return the settings of a job that are varied, a comma between them.

    Args:
        record: the job, as `sweeps.collect` returns it.
        keys: settings that take several values.

    Example:
        >>> settings_text({"config": {"sampler": {"atol": 0.1}}}, ["sampler.atol"])
        'atol 0.1'
    """
    return ", ".join(f"{key.split('.')[-1]} {format_value(setting_of(record['config'], key))}" for key in keys)


def _told(record: dict[str, Any], keys: Sequence[str], names: Sequence[str]) -> str:
    """Return the settings and figures of a job, a line each."""
    lines = [f"{key} = {format_value(setting_of(record['config'], key))}" for key in keys]
    metrics = record["metrics"]
    figures = [f"{figure_of(name).title}: {figure_of(name).text(metrics[name])}" for name in names if name in metrics]
    return "\n".join([*lines, *figures])


def _tiles(records: Sequence[dict[str, Any]], keys: Sequence[str], frechet: str | None) -> list[dict[str, str]]:
    tiles = []
    for name, best, word in (("acc", max, "highest"), (frechet, min, "lowest"), ("holds", max, "highest")):
        having = [record for record in records if name in record["metrics"]] if name else []
        if having and not (name == "holds" and any("acc" in record["metrics"] for record in having)):
            record = best(having, key=lambda one: float(one["metrics"][name]))
            figure = figure_of(str(name))
            text = figure.text(float(record["metrics"][name]))
            tiles.append({"name": f"{word} {figure.title}", "value": text, "paper": settings_text(record, keys)})
    return tiles


def _seeds(others: Sequence[str], groups: Sequence[Any], main: Sequence[str]) -> dict[str, Any]:
    rows = []
    for setting, count, spread in groups:
        cells = [_cell(value) for value in setting] + [_cell(count)]
        for name in main:
            values = [value for value in spread.get(name, ()) if value != ""]
            text = " ± ".join(figure_of(name).text(value) for value in values)
            cells.append({"value": values[0] if values else "", "text": text or "-"})
        rows.append(cells)
    return {"columns": [*others, "seeds", *(figure_of(name).column for name in main)], "rows": rows}


def _scatter(folder: Path, records: Sequence[dict[str, Any]], keys: Sequence[str], frechet: str) -> Any:
    """Return the chart of ACC against the Fréchet distance, None for fewer than two jobs."""
    shown = [(n, record) for n, record in enumerate(records) if {"acc", frechet} <= set(record["metrics"])]
    if len(shown) < 2:
        return None
    jobs = [
        Job(
            number,
            (float(record["metrics"][frechet]), float(record["metrics"]["acc"])),
            _told(record, keys, ("acc", frechet, *COSTS)),
            _link(folder, record["folder"]),
        )
        for number, record in shown
    ]
    groups = [setting_of(record["config"], keys[0]) if keys else "" for _, record in shown]
    papers = [paper_row(record["config"]) for _, record in shown]
    both = [(float(row["fid"]), float(row["acc"])) for row in papers if {"fid", "acc"} <= set(row)]
    # Distances of other features are on another scale than the paper's FID.
    paper = both[0] if both and frechet.startswith("fid") and len(set(both)) == 1 else None
    titles = (figure_of(frechet).title, figure_of("acc").title)
    return scatter(jobs, titles, groups, keys[0].split(".")[-1] if keys else "", paper)


def _parallel(folder: Path, records: Sequence[dict[str, Any]], keys: Sequence[str], frechet: str | None) -> Any:
    """Return the chart of settings, costs, ACC and distance on parallel axes, None for fewer than two jobs."""
    shown = [(number, record) for number, record in enumerate(records) if record["metrics"]]
    wanted = [*COSTS, "acc", *([frechet] if frechet else [])]
    names = [name for name in wanted if len({record["metrics"].get(name) for _, record in shown}) > 1]
    if "seconds/sampling_batch_64" in names and "seconds/sampling_per_64" in names:
        names.remove("seconds/sampling_per_64")
    if len(shown) < 2 or not names:
        return None
    main = "acc" if "acc" in names else names[-1]
    values = [float(record["metrics"].get(main, 0.0)) for _, record in shown]
    low, high = min(values), max(values)
    jobs = [
        Job(
            number,
            (*(setting_of(record["config"], key) for key in keys), *(record["metrics"].get(name) for name in names)),
            _told(record, keys, names),
            _link(folder, record["folder"]),
        )
        for number, record in shown
    ]
    titles = [*(key.split(".")[-1] for key in keys), *(_short(figure_of(name).title) for name in names)]
    return parallel(jobs, titles, [(value - low) / (high - low) if high > low else 0.0 for value in values])


def _short(title: str) -> str:
    """Return a title without what stands in brackets and without the words on samples."""
    return re.sub(r" \(.*\)$| per sample$|^sampling, ", "", title)


def _pictures(folder: Path, records: Sequence[dict[str, Any]], keys: Sequence[str]) -> Iterator[tuple[Any, str, str]]:
    """Yield small pictures of jobs that differ in more than seeds, spread over the order of ACC."""
    seen, chosen = set(), []
    others = [key for key in keys if not key.endswith("seed")]
    for record in sorted(records, key=lambda one: -float(one["metrics"].get("acc", one["metrics"].get("holds", 0.0)))):
        setting = settings_text(record, others)
        if record["metrics"] and setting not in seen and (folder / record["folder"] / "samples.png").is_file():
            seen.add(setting)
            chosen.append(record)
    step = max(1.0, (len(chosen) - 1) / (GALLERY - 1))
    for record in [chosen[round(number * step)] for number in range(min(len(chosen), GALLERY))]:
        path, text = folder / record["folder"] / "samples.png", settings_text(record, keys)
        acc = record["metrics"].get("acc")
        if (picture := embedded(path, f"samples, {text}", folder, THUMB, THUMB_BYTES)) is not None:
            caption = text if acc is None else f"{text}: ACC {figure_of('acc').text(acc)}"
            yield picture, caption, _link(folder, record["folder"])


def _command(folder: Path, multirun: DictConfig, results: dict[str, Any]) -> str:
    """Return the command of a sweep: that of its jobs where they were started with it, else one of its overrides."""
    if command := results.get("command"):
        return str(command)
    import shlex

    overrides = OmegaConf.select(multirun, "hydra.overrides.task") or []
    return " ".join(["python -m lace_lightning -m", *(shlex.quote(str(word)) for word in overrides)])


def _shared(records: Sequence[dict[str, Any]]) -> str:
    """Return the settings that have one value in all jobs, as YAML with one line each."""
    flat = [one for one in (flatten(record["config"]) for record in records) if one]
    if not flat:
        return ""
    first = flat[0]
    shared = {key: value for key, value in first.items() if all(one.get(key) == value for one in flat[1:])}
    return str(yaml.safe_dump(shared, sort_keys=False, allow_unicode=True, width=110))
