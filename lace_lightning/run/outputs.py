"""Outputs of a run: trainer, loggers, pictures and metrics.json."""

from __future__ import annotations

import os
import platform
import re
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
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from .. import __version__
from ..artifacts import atomic_path, write_json
from ..data.processes import say_found
from ..loggers import LastingLogger, RunIdentity
from ..loggers.lasting import note
from ..pictures.animation import save_animations
from ..report.paper import paper_row
from ..report.sweeps import SEEN
from ..report.text import results_table
from ..training.progress_line import TrainingLine
from ..wandb_service import remember, server_of, wandb_mode
from .check import launcher_plugins
from .nodes import Node
from .settings import Settings

# Seconds that W&B has for its start.
SLOW = 30


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
        frames: frames of samples.webp, and of samples.mp4 with the extra `video`; empty for none.
        summary: text that is printed in place of the figures; None for the figures.

    Raises:
        LaceError: when a file cannot be written.
    """
    out = Path(settings.paths.output)
    if grid is not None:
        with atomic_path(out / "samples.png") as temporary:
            grid.save(temporary, format="png")
    if frames:
        save_animations(out / "samples", frames)
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
    say_found()
    if summary is None and ("acc" in metrics or "holds" in metrics):
        print(f"\n{settings.name}: {protocol['query']}, {protocol['num_samples']} samples, {protocol['sampler']}")
        if protocol.get("partial"):
            print(f"partial: {protocol['partial']}")
        if protocol.get("judge_note"):
            print(f"judge=none: {protocol['judge_note']}")
        if protocol.get("reason"):
            print(f"chosen: {protocol['reason']}")
        if protocol.get("chains"):
            print(protocol["chains"])
        print(results_table(metrics, paper))
        if protocol.get("frechet"):
            print("; ".join(f"{key}: {value}" for key, value in protocol["frechet"].items()))
    else:
        print("\n" + (summary or ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())))


@rank_zero_only
def finish(settings: Settings) -> None:
    """Write the report of a run, and print where its results are.

    Args:
        settings: settings of the run.
    """
    # Jinja is imported at the end of a run alone.
    from ..report.index import report_on, whereabouts

    out = Path(settings.paths.output)
    report_on(out)
    print(whereabouts(out), flush=True)


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
    if any(isinstance(callback, ProgressBar) for callback in own):
        # Lightning takes one progress bar, and a user's comes first.
        callbacks = [callback for callback in callbacks if not isinstance(callback, TrainingLine)]
    given = {**settings.trainer, **options}
    given["plugins"] = [*(given.get("plugins") or []), *launcher_plugins(settings.trainer)]
    return pl.Trainer(**given, callbacks=callbacks, logger=loggers, default_root_dir=settings.paths.output)


@contextmanager
def loggers_of(settings: Settings, attributes: Sequence[str] = ()) -> Iterator[list[Logger]]:
    """Start the configured loggers, log the settings, and close the loggers at the end of the context.

    A logger that cannot start is left out with a note. After an error or a stop the loggers are closed as failed. The
    results have to be written inside.

    Args:
        settings: settings of the run.
        attributes: attributes of the query or of the edits, which become tags.

    Returns:
        A context manager that yields the loggers.
    """
    with open_loggers(
        settings.logger, settings.paths.output, identity_of_run(settings, attributes), settings.plain
    ) as loggers:
        yield list(loggers)


@contextmanager
def open_loggers(
    nodes: Mapping[str, Any],
    folder: str,
    identity: RunIdentity,
    plain: Mapping[str, Any],
    ends_failed: bool = False,
) -> Iterator[list[LastingLogger]]:
    """Start loggers, log settings, and close the loggers at the end of the context; see `loggers_of`.

    Args:
        nodes: the loggers by name, in plain containers.
        folder: folder of the run.
        identity: what the run is called.
        plain: settings in plain containers.
        ends_failed: whether the run is closed as failed also without an error.

    Returns:
        A context manager that yields the loggers.
    """
    loggers: list[LastingLogger] = []
    has_failed = True
    try:
        for name, node in nodes.items():
            if node is not None and (logger := _started(folder, identity, name, node)) is not None:
                loggers.append(logger)
        for logger in loggers:
            logger.log_hyperparams(dict(plain))
        yield loggers
        has_failed = ends_failed
    finally:
        for logger in loggers:
            logger.close(has_failed)


def identity_of_run(settings: Settings, attributes: Sequence[str] = ()) -> RunIdentity:
    """Return what a run is called where runs are compared.

    Args:
        settings: settings of the run.
        attributes: attributes of the query or of the edits.

    Returns:
        Name (of a job of a sweep: its overrides), group, task and tags.

    Example:
        >>> from .settings import SystemTask
        >>> identity = identity_of_run(Settings(name="mine", task=SystemTask()), ["smile"])
        >>> identity.name, identity.job_type, identity.tags
        ('mine', 'control', ('domain=cifar10', 'attribute=smile'))
    """
    folder = Path(settings.paths.output)
    short = re.sub(r"-[0-9a-f]{8}$", "", folder.name)
    name = short if (folder / SEEN).is_file() else settings.name
    system = settings.model or settings.sampler
    tags = {
        "domain": settings.dataset.name,
        "generator": None if settings.generator is None else _called(settings.generator),
        "method": settings.method or (None if system is None else system.name),
    }
    known = [f"{key}={value}" for key, value in tags.items() if value is not None]
    return RunIdentity(name, settings.name, settings.task.name, (*known, *(f"attribute={a}" for a in attributes)))


def _called(node: Node) -> str:
    """Return the name of a generator of the configuration, without the folder of a file."""
    return Path(node.name).name


def _started(folder: str, identity: RunIdentity, name: str, content: Mapping[str, Any]) -> LastingLogger | None:
    """Return a logger that has started, None for one that cannot."""
    node, begin = Node(f"logger.{name}", content), time.monotonic()
    kind = node.target.rpartition(".")[2]
    own = identity.options(kind, node.arguments)
    is_wandb = kind == "WandbLogger"
    try:
        logger = _wandb(folder, node, own) if is_wandb else node.build(**own)
        result = LastingLogger(name, logger)
        result.start()
    except Exception as error:
        note(f"the logger '{name}' cannot start and is left out ({type(error).__name__}: {error})")
        return None
    if is_wandb and time.monotonic() - begin > SLOW:
        # The other jobs of a sweep need not wait for this server.
        remember(server_of(node.arguments), False)
    return result


def _wandb(folder: str, node: Node, own: Mapping[str, Any]) -> Logger:
    """Return W&B's logger in the mode that the network allows."""
    os.environ.setdefault("WANDB_INIT_TIMEOUT", str(SLOW))
    mode = wandb_mode(node.arguments, f"{folder}/wandb/offline-run-*")
    # Lightning's own `offline` would set WANDB_MODE for all that follows.
    result: Logger = node.build("offline", **own, **({} if mode is None else {"mode": mode}))
    return result
