"""Sweeps: stable folders, resuming, a table and pictures at the end."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ..folders import new_folder
from ..metrics.names import figure_of, frechet_name, main_figures
from ..streams import PASSED_ON
from ..wandb_service import wandb_mode
from .files import config_of
from .text import Table

if TYPE_CHECKING:
    from .sweep_progress import SweepProgress

# Arrays, pictures, plots and files of tensors are imported where they are used: the command line imports this module
# for every command.

# States of the jobs of this process, by folder: done, skipped or failed.
OUTCOMES: dict[str, str] = {}
SEEN = ".seen"
FAILED = "failed.json"
# What a job of a sweep prints, in its folder.
OUTPUT = "output.txt"
# Seconds between two questions to Slurm, and for the result of a job that has left its queue to be seen.
QUEUE_PAUSE, QUEUE_GRACE = 10.0, 30.0
# Settings that repeat an experiment rather than change it.
SEED_KEYS = ("seed", "metrics.seed", "pairs.seed")


def job_folder(overrides: Sequence[str]) -> str:
    """Return the name of a job's folder: its overrides in readable form, and a hash of them.

    Args:
        overrides: Overrides of the job, as `key=value`.

    Example:
        >>> job_folder(["+experiment=cifar10_ode", "sampler.atol=0.1"])
        'atol=0.1-e5cb4e48'
    """
    chosen = sorted(
        _short(text)
        for text in overrides
        if not re.match(r"\+?(experiment|debug|hydra|logger|paths|callbacks)\b", text)
    )
    slug = re.sub(r"[^\w.=-]+", "_", ",".join(chosen))
    code = hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:8]
    return f"{slug[:80]}-{code}" if slug else code


def _short(text: str) -> str:
    """Return an override with the last word of its key alone."""
    key, _, value = text.partition("=")
    return f"{key.lstrip('+').split('.')[-1]}={value}"


def register_resolvers() -> None:
    """Register `${lace.job:<overrides>}`, the name of a job's folder, and `${lace.new:<path>}`, a new folder."""
    OmegaConf.register_new_resolver("lace.job", lambda overrides: job_folder(list(overrides)), replace=True)
    OmegaConf.register_new_resolver("lace.new", new_folder, replace=True)


def mark(folder: Path) -> None:
    """Mark a job's folder at the start of the job.

    The report of a sweep contains the marked jobs. The record of an earlier failure is removed, so that a record of a
    failure belongs to the latest attempt.

    Args:
        folder: The job's folder; one that does not exist is not created.
    """
    if folder.is_dir():
        (folder / SEEN).touch()
        (folder / FAILED).unlink(missing_ok=True)


def reason_of(error: BaseException) -> str:
    r"""Return the first paragraph of an error without the logs that launchers add, or its class where it has no words.

    Args:
        error: the error.

    Example:
        >>> reason_of(RuntimeError("Job 7\nis gone\nError stream produced:\n----\nlog"))
        'Job 7 is gone'
    """
    paragraph = re.split(r"\n\s*\n|\n-{3,}|\n.*stream produced", str(error).strip())[0]
    return " ".join(paragraph.split()) or type(error).__name__


def record_failure(folder: Path, error: BaseException, overrides: Sequence[str] = ()) -> None:
    """Record that a job failed, and why.

    Args:
        folder: The job's folder.
        error: What ended the job.
        overrides: Overrides of the job, for the table of a job that ended before it wrote its configuration.
    """
    from ..artifacts import write_json

    OUTCOMES[folder.name] = "failed"
    reason = {"error": str(error), "kind": type(error).__name__, "overrides": list(overrides)}
    write_json(folder / FAILED, reason)
    (folder / SEEN).touch()


def is_done(job: Path) -> bool:
    """Return whether a job's figures are those of its latest attempt.

    A run writes its configuration first and its figures last. Figures that are older than the configuration, or beside
    the record of a failure, belong to an earlier attempt.

    Args:
        job: The job's folder.
    """
    metrics, config = job / "metrics.json", job / "config.yaml"
    if not metrics.is_file() or (job / FAILED).is_file():
        return False
    return not config.is_file() or config.stat().st_mtime_ns <= metrics.stat().st_mtime_ns


class SweepReport(Callback):
    """Hydra callback that writes the report of a sweep at its end.

    It writes results.csv and seeds.csv, draws ACC against the Fréchet distance, curves over hyper-parameters and
    pictures side by side, and prints the table of the main figures.

    Example:
        >>> SweepReport().start
        0.0
    """

    # The sweep that runs in this process, for `end_early`.
    running: ClassVar[tuple[SweepReport, DictConfig] | None] = None

    def __init__(self) -> None:
        self.start = 0.0
        self.progress: SweepProgress | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Store the time at which the sweep began; the report contains the jobs that were marked since."""
        from .sweep_progress import SweepProgress

        PASSED_ON.clear()
        self.start = time.time()
        SweepReport.running = self, config
        folder = Path(config.hydra.sweep.dir)
        if not os.environ.get("LACE_VERBOSE"):
            self.progress = SweepProgress(folder, str(config.name), job_count(config), varied_keys(config), self.start)
            self.progress.begin()
        _look_for_wandb(config)
        if "submitit" in str(OmegaConf.select(config, "hydra.launcher._target_")):
            _wait_for_every_job(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the report."""
        end_progress()
        SweepReport.running = None
        folder = Path(config.hydra.sweep.dir)
        # A second of grace for file systems with coarse clocks.
        text = summarize(folder, varied_keys(config), list(config.sweep.curves), str(config.name), self.start - 1)
        draw_together(folder, [folder.parent / name for name in config.sweep.beside])
        draw_side_by_side(folder, list(config.sweep.side_by_side), self.start - 1)
        # Jinja is imported at the end of a sweep alone.
        from .index import report_on, whereabouts

        report_on(folder, self.start - 1)
        print(f"\n{text}\n{whereabouts(folder)}", file=sys.stdout, flush=True)


def end_progress() -> None:
    """Take away the line of progress of the sweep that runs in this process."""
    if SweepReport.running is not None and (progress := SweepReport.running[0].progress) is not None:
        progress.end()
        SweepReport.running[0].progress = None


def end_early(error: Exception) -> bool:
    """Write the report of a sweep whose launcher has failed; jobs without figures are failed for its reason.

    Args:
        error: What the launcher raised.

    Returns:
        Whether jobs of a sweep had been started.
    """
    if SweepReport.running is None:
        return False
    report, config = SweepReport.running
    folder = Path(config.hydra.sweep.dir)
    started = [path.parent for path in folder.glob(f"*/{SEEN}") if path.stat().st_mtime >= report.start - 1]
    for job in started:
        if not is_done(job) and not (job / FAILED).is_file():
            record_failure(job, RuntimeError(reason_of(error)))
    if started:
        report.on_multirun_end(config)
        # Jobs that have not been started are not in the report.
        OUTCOMES[str(folder)] = "failed"
    return bool(started)


def _look_for_wandb(config: DictConfig) -> None:
    """Ask once for all jobs whether the server of W&B answers."""
    for node in (OmegaConf.select(config, "logger") or {}).values():
        if isinstance(node, DictConfig) and str(node.get("_target_")).endswith("WandbLogger"):
            plain = {str(name): node.get(name) for name in ("offline", "mode", "settings")}
            with suppress(ImportError):  # Jobs leave a logger out that is not installed.
                wandb_mode(plain, f"{config.hydra.sweep.dir}/*/wandb/offline-run-*")


def _wait_for_every_job(folder: Path) -> None:
    """Let submitit's launcher wait for every job and record those that were killed: it leaves at the first of them."""
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job

    given = getattr(Job.results, "__wrapped__", Job.results)

    @wraps(given)
    def results(self: Any) -> list[Any]:
        try:
            if type(self).__name__ == "SlurmJob":
                _wait_for_slurm(self)
            return list(given(self))
        except Exception as error:
            overrides = list(self.submission().args[0])
            record_failure(folder / job_folder(overrides), RuntimeError(reason_of(error)), overrides)
            return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED)]

    Job.results = results


def _wait_for_slurm(job: Any) -> None:
    """Wait until a job of submitit has left Slurm's queue, and has a result or is lost.

    submitit takes the result of the first attempt, also where Slurm runs the job again. It asks sacct alone for lost
    jobs, which knows nothing where Slurm keeps no accounts: it would wait for them without end.

    Args:
        job: the job.

    Raises:
        RuntimeError: for a job that has left the queue without a result, where submitit does not know of it.
    """
    gone_since: float | None = None
    while True:
        has_result, is_queued = job.paths.result_pickle.exists(), _is_queued(job.job_id)
        if has_result and not is_queued:
            return
        if is_queued is not False:
            gone_since = None
        elif gone_since is None:
            gone_since = time.monotonic()
        elif time.monotonic() - gone_since >= QUEUE_GRACE:
            if job.watcher.is_done(job.job_id, mode="force"):
                return  # submitit gives the reason.
            raise RuntimeError(f"Job {job.job_id} left the queue of Slurm without a result: it was cancelled or killed")
        time.sleep(QUEUE_PAUSE)


def _is_queued(job_id: str) -> bool | None:
    """Return whether a job waits, runs or ends in Slurm; None where Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--jobs", job_id, "--format", "%i"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return False if "Invalid job id" in done.stderr else None
    return bool(done.stdout.strip())


def job_count(config: DictConfig) -> int | None:
    """Return the number of jobs of a sweep over all combinations of its values; None for one that chooses them.

    Args:
        config: Configuration of a multirun, with Hydra's node.
    """
    if str(config.hydra.sweeper._target_).rpartition(".")[2] != "BasicSweeper":
        return None
    return math.prod(len(list(override.sweep_string_iterator())) for override in _sweep_overrides(config))


def varied_keys(config: DictConfig) -> list[str]:
    """Return the keys of the sweep that take several values.

    Args:
        config: Configuration of a multirun, with Hydra's node.
    """
    return list(dict.fromkeys(override.key_or_group for override in _sweep_overrides(config)))


def _sweep_overrides(config: DictConfig) -> list[Any]:
    """Return the parsed overrides of a multirun that take several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = list(config.hydra.overrides.task)
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parse = OverridesParser.create().parse_overrides
    # What is typed comes before what the experiment gives.
    chosen = {override.key_or_group: override for override in parse([*given, *typed])}
    order = dict.fromkeys(override.key_or_group for override in parse([*typed, *given]))
    return [chosen[key] for key in order if chosen[key].is_sweep_override()]


def collect(folder: Path, since: float = 0.0) -> list[dict[str, Any]]:
    """Return one record for each job of a sweep that was marked after `since`.

    Args:
        folder: The sweep's folder, with one folder a job.
        since: Seconds since the epoch.

    Returns:
        Records with `folder` (name), `config` in plain containers, `metrics` (empty where the latest attempt gave
        none), `state` (done, skipped, failed or unfinished) and `reason` (of a failure).
    """
    from ..artifacts import read_json

    records = []
    for job in sorted(path.parent for path in folder.glob(f"*/{SEEN}") if path.stat().st_mtime >= since):
        config = config_of(job)
        record: dict[str, Any] = {
            "folder": job.name,
            "config": config,
            "metrics": {},
            "state": "unfinished",
            "reason": "",
        }
        outcome = OUTCOMES.get(job.name)
        if (job / FAILED).is_file():
            failure = read_json(job / FAILED)
            record["state"], record["reason"] = "failed", failure["error"]
            if not config:
                given = OmegaConf.from_dotlist([text.lstrip("+~") for text in failure.get("overrides", ())])
                record["config"] = OmegaConf.to_container(given)
        elif outcome == "failed":
            record["state"] = "failed"
        elif (outcome is not None and (job / "metrics.json").is_file()) or is_done(job):
            record["metrics"] = read_json(job / "metrics.json")["metrics"]
            record["state"] = outcome or "done"
        records.append(record)
    return records


def summarize(folder: Path, keys: Sequence[str], curves: Sequence[str], title: str, since: float = 0.0) -> str:
    """Write results.csv and the pictures of a sweep into its folder.

    Args:
        folder: The sweep's folder.
        keys: Settings that take several values.
        curves: Settings that ACC and the Fréchet distance are drawn against.
        title: Title of the table and the pictures.
        since: Seconds since the epoch; jobs that were marked before are left out.

    Returns:
        The table of the main figures as text, with the reasons of failures.
    """
    from ..artifacts import atomic_path

    records = collect(folder, since)
    # Jobs of other processes (joblib, submitit) are known by their files.
    OUTCOMES.update({record["folder"]: "failed" for record in records if record["state"] == "failed"})
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    frechet = frechet_name(names)
    values = [[setting_of(record["config"], key) for key in keys] for record in records]
    everything = Table(
        [*keys, "state", *names, "reason"],
        [
            [*value, record["state"], *(record["metrics"].get(name, "") for name in names), record["reason"]]
            for value, record in zip(values, records, strict=True)
        ],
    )
    with atomic_path(folder / "results.csv") as temporary:
        temporary.write_text(everything.csv(), encoding="utf-8")
    main = [figure_of(name) for name in main_figures(names)]
    table = Table(
        [*keys, "state", *(figure.name for figure in main)],
        [
            [*value, record["state"], *(figure.text(record["metrics"].get(figure.name)) for figure in main)]
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
    repeated = over_seeds(folder, records, keys, names)
    return "\n".join([f"{title}: {counts}", table.text(), *([repeated] if repeated else []), *failures])


def over_seeds(folder: Path, records: Sequence[dict[str, Any]], keys: Sequence[str], names: Sequence[str]) -> str:
    """Write seeds.csv: mean and standard deviation (n - 1) over the seeds of each setting.

    Args:
        folder: The sweep's folder.
        records: Jobs, as `collect` returns them; those without figures are left out.
        keys: Settings that take several values.
        names: Names of all figures.

    Returns:
        The table of the main figures as text, empty where no seed is varied.
    """
    from ..artifacts import atomic_path

    others, groups = seed_groups(records, keys)
    if not groups:
        return ""
    main = main_figures(names)
    everything, short = [], []
    for setting, count, spread in groups:
        everything.append([*setting, count, *(value for name in names for value in spread.get(name, ("", "")))])
        texts = (
            " ± ".join(figure_of(name).text(value) for value in spread.get(name, ()) if value != "") for name in main
        )
        short.append([*setting, count, *texts])
    table = Table([*others, "seeds", *(f"{name}{end}" for name in names for end in ("", " sd"))], everything)
    with atomic_path(folder / "seeds.csv") as temporary:
        temporary.write_text(table.csv(), encoding="utf-8")
    return Table([*others, "seeds", *main], short).text()


def seed_groups(
    records: Sequence[dict[str, Any]], keys: Sequence[str]
) -> tuple[list[str], list[tuple[tuple[Any, ...], int, dict[str, tuple[float, Any]]]]]:
    """Return mean and standard deviation (n - 1) of every figure over the jobs that differ in seeds alone.

    Args:
        records: Jobs, as `collect` returns them; those without figures are left out.
        keys: Settings that take several values.

    Returns:
        The settings that are no seeds; and for each setting its values, its number of jobs, and mean and standard
        deviation (empty for one job) of the figures by name. There are none where no seed is varied.
    """
    import numpy as np

    others = [key for key in keys if key not in SEED_KEYS]
    if len(others) == len(keys):
        return others, []
    groups: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for record in records:
        if record["metrics"]:
            groups.setdefault(tuple(setting_of(record["config"], key) for key in others), []).append(record["metrics"])
    result = []
    for setting, metrics in groups.items():
        names = dict.fromkeys(name for figures in metrics for name in figures)
        columns = {name: np.array([m[name] for m in metrics if name in m]) for name in names}
        spread: dict[str, tuple[float, Any]] = {
            name: (float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else "") for name, v in columns.items()
        }
        result.append((setting, len(metrics), spread))
    return others, result


def setting_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a setting, or the name of a group of settings.

    Args:
        config: Configuration of a job in plain containers.
        key: Path of the setting.

    Returns:
        The value; None where there is none.

    Example:
        >>> setting_of({"sampler": {"atol": 0.1, "_target_": "ODE"}}, "sampler.atol")
        0.1
    """
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return next((value[name] for name in ("name", "space", "_target_") if name in value), "?")
    return str(value) if isinstance(value, list) else value


def draw_acc_against_fid(
    records: Sequence[dict[str, Any]], keys: Sequence[str], frechet: str, path: Path, title: str
) -> None:
    """Draw ACC against the Fréchet distance: a point for each job, coloured by the first setting that is varied.

    Args:
        records: Jobs, as `collect` returns them; those without both figures are left out.
        keys: Settings that take several values.
        frechet: Name of the distance.
        path: File of the picture, PNG.
        title: Title of the picture.
    """
    import numpy as np

    pyplot = _pyplot()
    done = _with_figures(records, "acc", frechet)
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    groups = list(dict.fromkeys(setting_of(record["config"], keys[0]) if keys else "" for record in done))
    groups.sort(
        key=lambda value: (
            not isinstance(value, (int, float)),
            value if isinstance(value, (int, float)) else str(value),
        )
    )
    colours = pyplot.get_cmap("viridis")(np.linspace(0, 0.9, max(len(groups), 1)))
    for group, colour in zip(groups, colours, strict=True):
        points = [r["metrics"] for r in done if not keys or setting_of(r["config"], keys[0]) == group]
        label = f"{keys[0].split('.')[-1]} {group:g}" if keys and isinstance(group, (int, float)) else str(group)
        axes.scatter([p[frechet] for p in points], [p["acc"] for p in points], color=colour, label=label, s=24)
    axes.set(xlabel=figure_of(frechet).title, ylabel=figure_of("acc").title, title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def _with_figures(records: Sequence[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Return the jobs that have all of these figures."""
    return [record for record in records if set(names) <= set(record["metrics"])]


def draw_together(folder: Path, others: Sequence[Path]) -> None:
    """Draw ACC against the Fréchet distance of several sweeps in one picture, together.png.

    Args:
        folder: The folder of this sweep, into which the picture is written.
        others: Folders of sweeps of other samplers; those that have not been run are left out.
    """
    from ..artifacts import read_json

    sweeps = {
        path.name: [read_json(job)["metrics"] for job in path.glob("*/metrics.json") if is_done(job.parent)]
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
    axes.set(xlabel=figure_of(frechet).title, ylabel=figure_of("acc").title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, folder / "together.png")


def draw_side_by_side(folder: Path, methods: Sequence[str], since: float = 0.0) -> None:
    """Put the pictures of several methods next to each other, a row for every query, into side_by_side.png.

    Args:
        folder: The sweep's folder.
        methods: Names of methods, from left to right.
        since: Seconds since the epoch; jobs that were marked before are left out.
    """
    from PIL import Image

    from ..artifacts import atomic_path

    found: dict[str, dict[str, Path]] = {}
    for record in collect(folder, since):
        path, method = folder / record["folder"] / "samples.png", setting_of(record["config"], "method")
        if record["metrics"] and method in methods and path.is_file():
            found.setdefault(str(setting_of(record["config"], "query.text")), {}).setdefault(method, path)
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
    """Draw ACC and the Fréchet distance against each hyper-parameter: every job as a point, the mean as a line.

    Args:
        records: Jobs, as `collect` returns them; those without both figures are left out.
        curves: The hyper-parameters, a column each.
        frechet: Name of the distance.
        path: File of the picture, PNG.
        title: Title of the picture.
    """
    import numpy as np

    pyplot = _pyplot()
    done = _with_figures(records, "acc", frechet)
    figure, axes = pyplot.subplots(
        2, len(curves), figsize=(4 * len(curves), 6), layout="constrained", squeeze=False, sharey="row"
    )
    for column, key in enumerate(curves):
        x = np.array([float(setting_of(record["config"], key)) for record in done])
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
            cell.set_ylabel(figure_of(metric).title if column == 0 else "")
            cell.grid(alpha=0.3)
    figure.suptitle(title)
    _save(figure, path)


def _pyplot() -> Any:
    """Return pyplot on a backend that needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    """Write a plot as PNG, atomically, and close it."""
    from ..artifacts import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    _pyplot().close(figure)
