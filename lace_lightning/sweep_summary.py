"""Summary of a sweep as a run of its own in W&B, TensorBoard and MLflow: pictures, tables, best settings, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .metrics.names import figure_of, frechet_name
from .report import sweeps

# Files of a sweep's folder that the summary shows and keeps as its artefact.
PICTURES = ("acc_against_fid.png", "curves.png", "together.png", "side_by_side.png")
TABLES = ("results.csv", "seeds.csv")
# ACC that a setting may lose against the best one where the distance decides.
TOLERANCE = 0.01


class TrackedSweepReport(sweeps.SweepReport):
    """Report of a sweep, and a run of the configured loggers that holds it.

    Example:
        >>> TrackedSweepReport().start
        0.0
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the report, then log it."""
        super().on_multirun_end(config, **kwargs)
        track_sweep(config, self.start - 1)


def track_sweep(config: DictConfig, since: float) -> None:
    """Log the report of a sweep as a run of the kind `sweep`, with exit code 1 where a job has failed.

    Nothing is logged where CSV files are the only logger. An error is a note: the report is on disk.

    Args:
        config: configuration of the multirun, with Hydra's node.
        since: seconds since the epoch; files and jobs of before are left out.
    """
    nodes = OmegaConf.select(config, "logger") or {}
    if not any(name != "csv" and nodes[name] is not None for name in nodes):
        return
    # Absolute, because the service of W&B keeps the folder that it was started in.
    folder = Path(config.hydra.sweep.dir).absolute()
    records = sweeps.collect(folder, since)
    if not records:
        return
    from .loggers import RunIdentity
    from .loggers.lasting import note
    from .run.outputs import open_loggers

    try:
        plain = _plain(config, folder)
        keys = sweeps.varied_keys(config)
        name = str(plain["name"])
        tags = [f"domain={(plain.get('dataset') or {}).get('name')}", *(f"varies={key}" for key in keys)]
        identity = RunIdentity(f"{name} summary", name, "sweep", tuple(tags))
        states = [record["state"] for record in records]
        has_failed = any(state in ("failed", "unfinished") for state in states)
        loggers = {key: node for key, node in plain["logger"].items() if key != "csv"}
        with open_loggers(loggers, str(folder), identity, plain, has_failed) as opened:
            for logger in opened:
                _log(logger, folder, records, keys, since)
    except Exception as error:
        note(f"the summary of the sweep was not logged ({' '.join(str(error).split())[:300]}); it is in {folder}")


def _plain(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Return the settings of a sweep in plain containers, with its folder as that of the results."""
    own = OmegaConf.create({name: node for name, node in config.items_ex(resolve=False) if name != "hydra"})
    OmegaConf.update(own, "paths.output", str(folder))
    result = OmegaConf.to_container(own, resolve=True, throw_on_missing=False)
    assert isinstance(result, dict)
    return {str(key): value for key, value in result.items()}


def _log(logger: Any, folder: Path, records: Sequence[dict[str, Any]], keys: Sequence[str], since: float) -> None:
    """Log pictures, tables, figures and files of a sweep."""
    from PIL import Image

    from .report.panels import draw_panels, read_results

    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    fresh = [
        path for name in (*PICTURES, *TABLES) if (path := folder / name).is_file() and path.stat().st_mtime >= since
    ]
    panels = draw_panels({folder.name: read_results(folder)}, folder / "panels")
    if hasattr(logger, "log_image"):
        for path in [*(path for path in fresh if path.suffix == ".png"), *panels]:
            with Image.open(path) as image:
                logger.log_image(f"sweep/{path.stem}", [image.convert("RGB")])
    best = best_settings(records, keys, names)
    if hasattr(logger, "log_table"):
        logger.log_table("tables/results", [*keys, "state", *names], _rows(records, keys, names))
        if best:
            logger.log_table("tables/best", list(best[0]), [list(row.values()) for row in best])
        columns, rows = seed_rows(records, keys, names)
        if rows:
            logger.log_table("tables/seeds", columns, rows)
    if hasattr(logger, "log_summary"):
        logger.log_summary(_summary(records, best))
    if hasattr(logger, "log_files"):
        logger.log_files(f"sweep-{folder.name}", [*fresh, *panels])


def _settings(record: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: sweeps.setting_of(record["config"], key) for key in keys}


def _rows(records: Sequence[dict[str, Any]], keys: Sequence[str], names: Sequence[str]) -> list[list[Any]]:
    return [
        [*_settings(record, keys).values(), record["state"], *(record["metrics"].get(name) for name in names)]
        for record in records
    ]


def best_settings(records: Sequence[dict[str, Any]], keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the best jobs of a sweep: by ACC, by the Fréchet distance, and by the distance at nearly the best ACC.

    Args:
        records: jobs, as `collect` returns them; those without figures are left out.
        keys: settings that take several values.
        names: names of all figures.

    Returns:
        A row for each kind of best: `best`, `job`, the settings, ACC and the distance.

    Example:
        >>> jobs = [{"folder": "a", "config": {"x": 1}, "metrics": {"acc": 0.9, "fid": 5.0}},
        ...         {"folder": "b", "config": {"x": 2}, "metrics": {"acc": 0.895, "fid": 4.0}}]
        >>> [(row["best"], row["job"]) for row in best_settings(jobs, [], ["acc", "fid"])]
        [('ACC', 'a'), ('Fréchet distance', 'b'), ('Fréchet distance at ACC within 0.01', 'b')]
    """
    distance = frechet_name(names)
    done = [record for record in records if "acc" in record["metrics"]]
    if not done:
        return []
    top = max(done, key=lambda record: record["metrics"]["acc"])
    chosen = {"ACC": top}
    measured = [record for record in done if distance in record["metrics"]]
    if distance is not None and measured:
        near = [r for r in measured if r["metrics"]["acc"] >= top["metrics"]["acc"] - TOLERANCE]
        chosen["Fréchet distance"] = min(measured, key=lambda record: record["metrics"][distance])
        if near:
            chosen[f"Fréchet distance at ACC within {TOLERANCE:g}"] = min(near, key=lambda r: r["metrics"][distance])
    figures = [name for name in ("acc", distance) if name is not None]
    return [
        {
            "best": best,
            "job": record["folder"],
            **_settings(record, keys),
            **{figure_of(name).name: record["metrics"].get(name) for name in figures},
        }
        for best, record in chosen.items()
    ]


def seed_rows(
    records: Sequence[dict[str, Any]], keys: Sequence[str], names: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
    """Return mean and standard deviation (n - 1) over the seeds of each setting.

    Args:
        records: jobs, as `collect` returns them; those without figures are left out.
        keys: settings that take several values.
        names: names of all figures.

    Returns:
        Names of the columns, and a row for each setting; no row where no seed is varied.

    Example:
        >>> jobs = [{"config": {"seed": s}, "metrics": {"acc": a}} for s, a in ((1, 0.8), (2, 0.9))]
        >>> columns, rows = seed_rows(jobs, ["seed"], ["acc"])
        >>> columns, [round(value, 3) for value in rows[0]]
        (['seeds', 'acc mean', 'acc sd'], [2, 0.85, 0.071])
    """
    from statistics import mean, stdev

    others = [key for key in keys if key not in sweeps.SEED_KEYS]
    if len(others) == len(keys):
        return [], []
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        if record["metrics"]:
            groups.setdefault(tuple(map(str, _settings(record, others).values())), []).append(record)
    rows = []
    for members in groups.values():
        row = [*_settings(members[0], others).values(), len(members)]
        for name in names:
            values = [float(r["metrics"][name]) for r in members if name in r["metrics"]]
            row += [mean(values) if values else None, stdev(values) if len(values) > 1 else None]
        rows.append(row)
    return [*others, "seeds", *(f"{name} {end}" for name in names for end in ("mean", "sd"))], rows


def _summary(records: Sequence[dict[str, Any]], best: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of jobs in each state, and the best figures."""
    states = [record["state"] for record in records]
    result: dict[str, Any] = {f"jobs/{state}": states.count(state) for state in dict.fromkeys(states)}
    for row, word in zip(best, ("acc", "distance", "both"), strict=False):
        result |= {f"best/{word}/{name}": value for name, value in row.items() if name != "best" and value is not None}
    return result
