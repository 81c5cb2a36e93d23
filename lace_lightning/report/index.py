"""Reports of a whole folder of outputs: the page over all runs, and reports that are written again from files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import LaceError
from ..metrics.names import figure_of, frechet_name
from .files import config_of, date_of, query_of, results_of
from .html import INDEX, REPORT, relative_link, write_page
from .run_report import write_run_report
from .sweep_report import MULTIRUN, write_sweep_report
from .sweeps import FAILED, SEEN, is_done

# Folder of all runs where a run or a sweep names no other, in the folder that the program is started in.
OUTPUTS = "outputs"
# Files that the end of a run or a sweep names.
SHOWN = (
    REPORT,
    "samples.png",
    "contact.png",
    "acc_against_fid.png",
    "side_by_side.png",
    "samples.csv",
    "edits.csv",
    "labels.csv",
    "results.csv",
    "seeds.csv",
    "metrics.json",
    "csv/metrics.csv",
)
# Files of which each makes a folder that of a run.
RUN_FILES = ("config.yaml", "metrics.json", FAILED)


def kind_of(folder: Path) -> str:
    """Return what a folder is: sweep, run, or an empty text for any other.

    Args:
        folder: the folder.

    Example:
        >>> kind_of(Path("no_such_folder"))
        ''
    """
    if (folder / MULTIRUN).is_file():
        return "sweep"
    return "run" if any((folder / name).is_file() for name in RUN_FILES) else ""


def folders_of(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders of runs and sweeps inside of a folder with their kinds; jobs of a sweep are not yielded.

    Args:
        root: the folder; one that is a run or a sweep itself is the only one.
    """
    for place, folders, _ in os.walk(root):
        folder = Path(place)
        if kind := kind_of(folder):
            folders.clear()
            yield folder, kind
        else:
            folders[:] = sorted(name for name in folders if not name.startswith("."))


def write_index(root: Path) -> Path:
    """Write index.html over all runs and sweeps of a folder.

    Args:
        root: the folder.

    Returns:
        The file.

    Raises:
        LaceError: when the file cannot be written.
    """
    entries: dict[str, list[dict[str, Any]]] = {"sweep": [], "run": []}
    for folder, kind in folders_of(root):
        entries[kind].append(_sweep_entry(folder, root) if kind == "sweep" else _run_entry(folder, root))
    for listed in entries.values():
        listed.sort(key=lambda entry: entry["date"], reverse=True)
    values = {"title": "All runs", "folder": root.name, "sweeps": entries["sweep"], "runs": entries["run"]}
    return write_page(root / INDEX, "index", values)


def report_on(folder: Path, since: float | None = None) -> Path | None:
    """Write the report of a run or a sweep and the page over all runs, or say why that is not possible.

    Args:
        folder: the folder of the run or the sweep.
        since: for a sweep, seconds since the epoch; jobs that were started before are left out. None for a run.

    Returns:
        The report; None where it could not be written, which takes no results away.
    """
    try:
        if since is None:
            path = write_run_report(folder)
        else:
            # Of jobs that were done before reports were written.
            for job in sorted(path.parent for path in folder.glob(f"*/{SEEN}") if is_done(path.parent)):
                if not (job / REPORT).is_file():
                    write_run_report(job)
            path = write_sweep_report(folder, since)
        # The page over all runs shows a sweep at its end.
        if not (folder.parent / MULTIRUN).is_file():
            update_index(folder)
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"The report of '{folder}' could not be written ({text}); the results are there, and "
            f"'lace-lightning report {folder}' tries again.",
            stacklevel=2,
        )
        return None
    return path


def whereabouts(folder: Path) -> str:
    """Return where the results of a run or a sweep are: the folder, and the files that readers look for first.

    Args:
        folder: the folder of the run or the sweep.
    """
    names = [name for name in SHOWN if (folder / name).is_file()]
    return f"results in {folder}" + (f": {', '.join(names)}" if names else "")


def update_index(folder: Path) -> Path | None:
    """Write the page over all runs again, where a run or a sweep lies in the folder of all runs.

    Args:
        folder: the folder of the run or the sweep.

    Returns:
        The file; None where the folder lies elsewhere.

    Raises:
        LaceError: when the file cannot be written.
    """
    root = Path(OUTPUTS).resolve()
    return write_index(root) if folder.resolve().is_relative_to(root) and folder.resolve() != root else None


def rebuild(folder: Path) -> list[Path]:
    """Write the reports of a run, a sweep or all that a folder holds again, from their files.

    Args:
        folder: the folder.

    Returns:
        The reports, of sweeps without those of their jobs; the page over all runs comes last where there is one.

    Raises:
        LaceError: for a folder that does not exist or has no runs, or when a file cannot be written.
    """
    if not folder.is_dir():
        raise LaceError(f"report needs a folder of runs, received '{folder}', which is none: check the path.")
    found = list(folders_of(folder))
    if not found:
        raise LaceError(
            f"The folder '{folder}' has no run in it (no config.yaml, metrics.json or {MULTIRUN}): give the folder of "
            f"a run, a sweep, or of all of them, such as {OUTPUTS}."
        )
    written = []
    for place, kind in found:
        if kind == "sweep":
            for job in sorted(path for path in place.iterdir() if kind_of(path) == "run"):
                write_run_report(job)
            written.append(write_sweep_report(place))
        else:
            written.append(write_run_report(place))
    if kind_of(folder):
        index = update_index(folder)
        return written if index is None else [*written, index]
    return [*written, write_index(folder)]


def _figure(name: str | None, metrics: Any) -> dict[str, Any]:
    value = metrics.get(name)
    return {"value": "", "text": "-"} if value is None else {"value": value, "text": figure_of(str(name)).text(value)}


def _entry(folder: Path, root: Path, **values: Any) -> dict[str, Any]:
    report, picture = folder / REPORT, folder / "samples.png"
    return {
        "link": relative_link(report, root) if report.is_file() else "",
        "picture": relative_link(picture, root) if picture.is_file() else "",
        "counts": "",
        **values,
    }


def _run_entry(folder: Path, root: Path) -> dict[str, Any]:
    results = results_of(folder)
    metrics, config = results.get("metrics") or {}, config_of(folder)
    return _entry(
        folder,
        root,
        name=str(results.get("name") or config.get("name") or folder.name),
        date=date_of(folder, results),
        asked=query_of(config, results.get("protocol") or {}),
        state="done" if results else "failed" if (folder / FAILED).is_file() else "unfinished",
        acc=_figure("acc", metrics),
        distance=_figure(frechet_name(metrics), metrics),
    )


def _sweep_entry(folder: Path, root: Path) -> dict[str, Any]:
    jobs = [path.parent for path in folder.glob(f"*/{SEEN}")]
    states = ["done" if is_done(job) else "failed" if (job / FAILED).is_file() else "unfinished" for job in jobs]
    results = [results_of(job) for job, state in zip(jobs, states, strict=True) if state == "done"]
    figures = [result.get("metrics") or {} for result in results]
    distance = frechet_name(name for metrics in figures for name in metrics)
    acc = [metrics["acc"] for metrics in figures if "acc" in metrics]
    low = [metrics[distance] for metrics in figures if distance in metrics]
    pictures = [job / "samples.png" for job in jobs if (job / "samples.png").is_file()]
    queries = dict.fromkeys(str((result.get("protocol") or {}).get("query", "")) for result in results)
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return _entry(
        folder,
        root,
        name=folder.name,
        date=max((date_of(job, {}) for job in jobs), default=""),
        asked="; ".join(list(queries)[:4]) + (" …" if len(queries) > 4 else ""),
        state=next((state for state in ("failed", "unfinished") if state in states), "done"),
        counts=counts,
        acc=_figure("acc", {"acc": max(acc)} if acc else {}),
        distance=_figure(distance, {distance: min(low)} if low else {}),
        **({"picture": relative_link(pictures[0], root)} if pictures else {}),
    )
