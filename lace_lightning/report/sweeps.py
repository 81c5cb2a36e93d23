"""Sweeps: stable folders, resuming, a table and pictures at the end."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from .text import frechet_name, frechet_title, main_figures, text_table, to_csv

# What became of the jobs of this process, by folder: done, skipped or failed.
OUTCOMES: dict[str, str] = {}
SEEN = ".seen"
# Settings that repeat an experiment rather than change it.
SEED_KEYS = ("seed", "metrics.seed", "task.pairs_seed")


def job_folder(overrides: Sequence[str]) -> str:
    """Return a folder name for a job: its overrides in readable form, and a hash of them."""
    chosen = sorted(
        _short(text)
        for text in overrides
        if not re.match(r"\+?(experiment|debug|hydra|logger|paths|callbacks)\b", text)
    )
    slug = re.sub(r"[^\w.=-]+", "_", ",".join(chosen))
    code = hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:8]
    return f"{slug[:80]}-{code}" if slug else code


def _short(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key.lstrip('+').split('.')[-1]}={value}"


def register_resolvers() -> None:
    """Make `${lace.job:...}` known to configurations."""
    OmegaConf.register_new_resolver("lace.job", lambda overrides: job_folder(list(overrides)), replace=True)


def mark(folder: Path) -> None:
    """Leave a mark in a job's folder that this sweep came by, done or not: the report is about these jobs."""
    if folder.is_dir():
        (folder / SEEN).touch()


class SweepReport(Callback):
    """At the end of a sweep.

    Results.csv, a table, ACC against the Fréchet distance, and curves over hyper-parameters.
    """

    def __init__(self) -> None:
        self.start = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.start = time.time()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        # A second of grace for file systems with coarse clocks.
        text = summarize(folder, varied_keys(config), list(config.sweep.curves), str(config.name), self.start - 1)
        draw_together(folder, [folder.parent / name for name in config.sweep.beside])
        draw_side_by_side(folder, list(config.sweep.side_by_side), self.start - 1)
        print(f"\n{text}", file=sys.stdout, flush=True)


def varied_keys(config: DictConfig) -> list[str]:
    """Return the keys of the sweep that take several values."""
    overrides = list(config.hydra.overrides.task)
    overrides += [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides(overrides)
    return list(dict.fromkeys(override.key_or_group for override in parsed if override.is_sweep_override()))


def collect(folder: Path, since: float = 0.0) -> list[dict[str, Any]]:
    """Return one record for each job marked after `since`.

    Settings, metrics, state (done, skipped, failed) and reason.
    """
    from ..artifacts import read_json

    records = []
    for job in sorted(path.parent for path in folder.glob(f"*/{SEEN}") if path.stat().st_mtime >= since):
        config = OmegaConf.load(job / "config.yaml") if (job / "config.yaml").is_file() else OmegaConf.create()
        record: dict[str, Any] = {
            "folder": job.name,
            "config": config,
            "metrics": {},
            "state": "unfinished",
            "reason": "",
        }
        if (job / "metrics.json").is_file():
            record["metrics"] = read_json(job / "metrics.json")["metrics"]
            record["state"] = OUTCOMES.get(job.name, "done")
        elif (job / "failed.json").is_file():
            record["state"], record["reason"] = "failed", read_json(job / "failed.json")["error"]
        records.append(record)
    return records


def summarize(folder: Path, keys: Sequence[str], curves: Sequence[str], title: str, since: float = 0.0) -> str:
    """Write results.csv and the pictures of a sweep into its folder; return the table as text."""
    from ..artifacts import atomic_path

    records = collect(folder, since)
    # Jobs of other processes (joblib, submitit) are known by what they left.
    OUTCOMES.update({record["folder"]: "failed" for record in records if record["state"] == "failed"})
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    frechet = frechet_name(names)
    values = [[_setting(record["config"], key) for key in keys] for record in records]
    rows = [
        [*value, record["state"], *(record["metrics"].get(name, "") for name in names), record["reason"]]
        for value, record in zip(values, records, strict=True)
    ]
    with atomic_path(folder / "results.csv") as temporary:
        temporary.write_text(to_csv([*keys, "state", *names, "reason"], rows), encoding="utf-8")
    main = main_figures(names)
    table = text_table(
        [*keys, "state", *main],
        [
            [*value, record["state"], *(record["metrics"].get(name) for name in main)]
            for value, record in zip(values, records, strict=True)
        ],
    )
    states = [record["state"] for record in records]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    failures = [f"{record['folder']}: {record['reason']}" for record in records if record["state"] == "failed"]
    if frechet is not None and sum("acc" in record["metrics"] for record in records) > 1:
        draw_acc_against_fid(records, keys, frechet, folder / "acc_against_fid.png", title)
        if curves:
            draw_curves(records, curves, frechet, folder / "curves.png", title)
    repeated = over_seeds(folder, records, keys, names, main)
    return "\n".join(
        [f"{title}: {counts}", table, *([repeated] if repeated else []), *failures, f"results in {folder}"]
    )


def over_seeds(
    folder: Path, records: Sequence[dict[str, Any]], keys: Sequence[str], names: Sequence[str], main: Sequence[str]
) -> str:
    """Write seeds.csv, mean and standard deviation (n - 1) over the seeds of each setting; return the table of the main
    figures.

    Empty where no seed is varied.
    """
    import numpy as np

    from ..artifacts import atomic_path

    others = [key for key in keys if key not in SEED_KEYS]
    if len(others) == len(keys):
        return ""
    groups: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for record in records:
        if record["metrics"]:
            groups.setdefault(tuple(_setting(record["config"], key) for key in others), []).append(record["metrics"])
    rows, shown = [], []
    for setting, metrics in groups.items():
        columns = {name: np.array([m[name] for m in metrics if name in m]) for name in names}
        spread = {
            name: (float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else "") for name, v in columns.items() if len(v)
        }
        rows.append([*setting, len(metrics), *(value for name in names for value in spread.get(name, ("", "")))])
        texts = (" ± ".join(f"{value:.4g}" for value in spread.get(name, ()) if value != "") for name in main)
        shown.append([*setting, len(metrics), *texts])
    with atomic_path(folder / "seeds.csv") as temporary:
        temporary.write_text(
            to_csv([*others, "seeds", *(f"{name}{end}" for name in names for end in ("", " sd"))], rows),
            encoding="utf-8",
        )
    return text_table([*others, "seeds", *main], shown) if shown else ""


def _setting(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    if isinstance(value, DictConfig):
        return next((value[name] for name in ("name", "space", "_target_") if name in value), "?")
    if OmegaConf.is_config(value):
        return str(value)
    return value


def draw_acc_against_fid(
    records: Sequence[dict[str, Any]], keys: Sequence[str], frechet: str, path: Path, title: str
) -> None:
    """Draw one point a setting, coloured by the first varied hyper-parameter."""
    import numpy as np

    pyplot = _pyplot()
    done = [record for record in records if "acc" in record["metrics"]]
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    groups = list(dict.fromkeys(_setting(record["config"], keys[0]) if keys else "" for record in done))
    groups.sort(
        key=lambda value: (
            not isinstance(value, (int, float)),
            value if isinstance(value, (int, float)) else str(value),
        )
    )
    colours = pyplot.get_cmap("viridis")(np.linspace(0, 0.9, max(len(groups), 1)))
    for group, colour in zip(groups, colours, strict=True):
        points = [r["metrics"] for r in done if not keys or _setting(r["config"], keys[0]) == group]
        label = f"{keys[0].split('.')[-1]} {group:g}" if keys and isinstance(group, (int, float)) else str(group)
        axes.scatter([p[frechet] for p in points], [p["acc"] for p in points], color=colour, label=label, s=24)
    axes.set(xlabel=frechet_title(frechet), ylabel="ACC", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def draw_together(folder: Path, others: Sequence[Path]) -> None:
    """Draw this sweep and those of other samplers that have been run in one picture.

    ACC against the Fréchet distance.
    """
    from ..artifacts import read_json

    sweeps = {
        path.name: [read_json(job)["metrics"] for job in path.glob("*/metrics.json")]
        for path in sorted((folder, *others))
    }
    sweeps = {name: points for name, points in sweeps.items() if points}
    shared = set.intersection(*(set(point) for points in sweeps.values() for point in points)) if sweeps else set()
    frechet = frechet_name(sorted(shared))
    if len(sweeps) < 2 or frechet is None or "acc" not in shared:
        return
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    for (name, points), marker in zip(sweeps.items(), "osD^v<>", strict=False):
        axes.scatter(
            [p[frechet] for p in points],
            [p["acc"] for p in points],
            s=20,
            alpha=0.6,
            marker=marker,
            label=f"{name} ({len(points)} settings)",
        )
    axes.set(xlabel=frechet_title(frechet), ylabel="ACC")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, folder / "together.png")


def draw_side_by_side(folder: Path, methods: Sequence[str], since: float = 0.0) -> None:
    """Put the pictures of these methods next to each other, a row for every query: the same condition, the same
    starting points.
    """
    from PIL import Image

    from ..artifacts import atomic_path

    found: dict[str, dict[str, Path]] = {}
    for record in collect(folder, since):
        path, method = folder / record["folder"] / "samples.png", OmegaConf.select(record["config"], "method")
        if method in methods and path.is_file():
            found.setdefault(str(record["config"].query.text), {}).setdefault(method, path)
    rows = [
        {method: Image.open(paths[method]) for method in methods if method in paths}
        for paths in found.values()
        if len(paths) > 1
    ]
    if not rows:
        return
    widths = [max((row[method].width for row in rows if method in row), default=0) for method in methods]
    heights = [max(image.height for image in row.values()) for row in rows]
    canvas = Image.new("RGB", (sum(widths), sum(heights)), "white")
    for number, row in enumerate(rows):
        for column, method in enumerate(methods):
            if method in row:
                canvas.paste(row[method], (sum(widths[:column]), sum(heights[:number])))
    with atomic_path(folder / "side_by_side.png") as temporary:
        canvas.save(temporary, format="png")


def draw_curves(records: Sequence[dict[str, Any]], curves: Sequence[str], frechet: str, path: Path, title: str) -> None:
    """Draw ACC and the Fréchet distance against each hyper-parameter: every setting as a point, the mean as a line."""
    import numpy as np

    pyplot = _pyplot()
    done = [record for record in records if "acc" in record["metrics"]]
    figure, axes = pyplot.subplots(
        2, len(curves), figsize=(4 * len(curves), 6), layout="constrained", squeeze=False, sharey="row"
    )
    for column, key in enumerate(curves):
        x = np.array([float(_setting(record["config"], key)) for record in done])
        for row, metric in enumerate(("acc", frechet)):
            y = np.array([record["metrics"][metric] for record in done])
            cell, levels = axes[row][column], np.unique(x)
            cell.scatter(x, y, s=12, alpha=0.4)
            cell.plot(levels, [y[x == level].mean() for level in levels], marker="o")
            if (levels > 0).all() and levels.max() / levels.min() > 5:
                cell.set_xscale("log")
            elif levels.max() > 0 and levels.min() == 0:
                cell.set_xscale("symlog", linthresh=float(levels[levels > 0].min()))
            cell.set_xlabel(key.split(".")[-1])
            cell.set_ylabel(("ACC" if row == 0 else frechet_title(frechet)) if column == 0 else "")
            cell.grid(alpha=0.3)
    figure.suptitle(title)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    from ..artifacts import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    _pyplot().close(figure)
