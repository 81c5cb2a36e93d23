"""Outputs of a run: trainer, loggers, pictures and metrics.json."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from .. import __version__
from ..artifacts import atomic_path, write_json
from ..pictures.animation import save_animation
from ..report.paper import paper_row
from ..report.text import results_table
from .nodes import Node
from .settings import Settings


def command_line() -> str:
    """Return the command that was typed, as it can be typed again."""
    program = "python -m lace_lightning" if sys.argv[0].endswith("__main__.py") else Path(sys.argv[0]).name
    return " ".join([program, *(shlex.quote(argument) for argument in sys.argv[1:])])


def training_minutes(seconds: float | None) -> dict[str, float]:
    """Return the figure of the time of a training.

    Args:
        seconds: time of the training; None where it is not known.

    Returns:
        `minutes/training`, or no figure.

    Example:
        >>> training_minutes(90.0), training_minutes(None)
        ({'minutes/training': 1.5}, {})
    """
    return {} if seconds is None else {"minutes/training": seconds / 60}


@rank_zero_only
def write_inputs(settings: Settings) -> None:
    """Write config.yaml and command.txt, and delete the figures of an earlier attempt.

    Args:
        settings: settings of the run.

    Raises:
        LaceError: when a file cannot be written.
    """
    out = Path(settings.paths.output)
    (out / "metrics.json").unlink(missing_ok=True)
    text = yaml.safe_dump(settings.plain, sort_keys=False, allow_unicode=True)
    for name, content in (("config.yaml", text), ("command.txt", command_line() + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


@rank_zero_only
def write_results(
    settings: Settings,
    metrics: Mapping[str, float],
    protocol: Mapping[str, Any],
    grid: Any,
    frames: Sequence[Any] = (),
    summary: str | None = None,
) -> None:
    """Write the pictures and metrics.json of a run, and print its figures.

    metrics.json is written last, so that the run is complete where the file exists.

    Args:
        settings: settings of the run.
        metrics: figures by name.
        protocol: how the figures were measured, in plain containers.
        grid: the picture for samples.png, None for none.
        frames: frames of samples.gif, empty for none.
        summary: text that is printed in place of the figures of a task without samples; None for the figures.

    Raises:
        LaceError: when a file cannot be written.
    """
    out = Path(settings.paths.output)
    if grid is not None:
        with atomic_path(out / "samples.png") as temporary:
            grid.save(temporary, format="png")
    if frames:
        save_animation(out / "samples.gif", frames)
    paper = paper_row(settings.plain)
    write_json(
        out / "metrics.json",
        {
            "name": settings.name,
            "metrics": dict(metrics),
            "paper": paper,
            "protocol": dict(protocol),
            "config_digest": settings.digest,
            "command": command_line(),
            "date": time.strftime("%Y-%m-%d"),
            "versions": {
                "lace_lightning": __version__,
                "torch": torch.__version__,
                "lightning": version("pytorch_lightning"),
                "python": platform.python_version(),
            },
        },
    )
    if "acc" in metrics or "holds" in metrics:
        print(f"\n{settings.name}: {protocol['query']}, {protocol['num_samples']} samples, {protocol['sampler']}")
        if protocol.get("partial"):
            print(f"partial: {protocol['partial']}")
        if protocol.get("reason"):
            print(f"chosen: {protocol['reason']}")
        if protocol.get("chains"):
            print(protocol["chains"])
        print(results_table(metrics, paper))
        if protocol.get("frechet"):
            print("; ".join(f"{key}: {value}" for key, value in protocol["frechet"].items()))
    else:
        print("\n" + (summary or ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())))
    print(f"results in {out}")


def trainer_of(settings: Settings, loggers: list[Logger], **options: Any) -> pl.Trainer:
    """Return a Trainer of the settings.

    Args:
        settings: settings of the run.
        loggers: loggers of the Trainer.
        options: further arguments of the Trainer, which replace those of the settings; the callbacks of the settings
            are added to `callbacks`.
    """
    own = [Node(f"callbacks.{name}", node).build() for name, node in settings.callbacks.items() if node is not None]
    callbacks = [*options.pop("callbacks", []), *own]
    given = {**settings.trainer, **options}
    return pl.Trainer(**given, callbacks=callbacks, logger=loggers, default_root_dir=settings.paths.output)


@contextmanager
def loggers_of(settings: Settings) -> Iterator[list[Logger]]:
    """Start the configured loggers, log the settings, and close the loggers at the end of the context.

    A logger that cannot start is left out with a warning, except csv.

    Args:
        settings: settings of the run.

    Returns:
        A context manager that yields the loggers.
    """
    loggers: list[Logger] = []
    for name, node in settings.logger.items():
        if node is None:
            continue
        try:
            logger: Logger = Node(f"logger.{name}", node).build()
            if getattr(rank_zero_only, "rank", 0) == 0:
                _ = logger.experiment  # type: ignore[attr-defined]
            loggers.append(logger)
        except Exception as error:
            if name == "csv":
                raise
            rank_zero_warn(f"The logger '{name}' could not start and is left out ({type(error).__name__}: {error}).")
    try:
        for logger in loggers:
            logger.log_hyperparams(settings.plain)
        yield loggers
    finally:
        _finish(loggers)


def _finish(loggers: list[Logger]) -> None:
    """Close every W&B run, so that the next job of a sweep starts its own."""
    for logger in loggers:
        try:
            logger.finalize("success")
            finish = getattr(getattr(logger, "experiment", None), "finish", None)
            if callable(finish):
                finish()
        except Exception as error:
            rank_zero_warn(f"The logger {type(logger).__name__} did not close ({error}).")
