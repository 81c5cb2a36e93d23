"""Outputs of a run: trainer, loggers, pictures and metrics.json."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only

from .. import __version__
from ..artifacts import atomic_path, write_json
from ..data.processes import say_found
from ..pictures.animation import save_animations
from ..report.paper import paper_row
from ..report.text import results_table
from ..training.progress_line import TrainingLine
from ..wandb_service import remember, server_of, start_anew, wandb_mode
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


class LastingLogger(Logger):
    """Logger that is left out, with one note, from the first error inside it on.

    Args:
        name: what the logger is called in notes.
        logger: the logger that everything is handed to.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> LastingLogger("csv", CSVLogger("folder", name="csv", version="")).save_dir
        'folder'
    """

    def __init__(self, name: str, logger: Logger) -> None:
        super().__init__()
        self._called, self._logger, self._works, self._opened = name, logger, True, None

    def _hand(self, action: Callable[[], Any]) -> Any:
        """Return what an action gives, None from the first error on."""
        if not self._works:
            return None
        try:
            return action()
        except Exception as error:
            self._leave_out(error)
            return None

    def _leave_out(self, error: Exception) -> None:
        if self._works:
            self._works = False
            text = " ".join(str(error).split()) or type(error).__name__
            _note(f"the logger '{self._called}' failed and is left out from here on, the run goes on ({text[:300]})")

    @property
    def name(self) -> str | None:
        """Name of the logger's experiment."""
        result: str | None = self._hand(lambda: self._logger.name)
        return result

    @property
    def version(self) -> int | str | None:
        """Version of the logger's experiment."""
        result: int | str | None = self._hand(lambda: self._logger.version)
        return result

    @property
    def save_dir(self) -> str | None:
        """Folder of the logger."""
        result: str | None = self._hand(lambda: self._logger.save_dir)
        return result

    @property
    def root_dir(self) -> str | None:
        """Folder of all versions of the logger's experiment."""
        result: str | None = self._hand(lambda: self._logger.root_dir)
        return result

    @property
    def experiment(self) -> Any:
        """Experiment object of the logger; one that takes everything where the logger is left out."""
        found = self._hand(lambda: getattr(self._logger, "experiment", None))
        return DummyLogger().experiment if found is None else found

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log figures."""
        self._hand(lambda: self._logger.log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log settings."""
        self._hand(lambda: self._logger.log_hyperparams(params, *args, **kwargs))

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Log the graph of a model."""
        self._hand(lambda: self._logger.log_graph(*args, **kwargs))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Take note of a checkpoint."""
        self._hand(lambda: self._logger.after_save_checkpoint(checkpoint_callback))

    def save(self) -> None:
        """Write what was logged."""
        self._hand(lambda: self._logger.save())

    def finalize(self, status: str) -> None:
        """Write what was logged at the end of a part of a run."""
        self._hand(lambda: self._logger.finalize(status))

    def start(self) -> None:
        """Open the logger's experiment, on the first process."""
        if getattr(rank_zero_only, "rank", 0) == 0:
            self._opened = self._hand(lambda: getattr(self._logger, "experiment", None))

    def close(self, has_failed: bool) -> None:
        """End the logger's run, in W&B with exit code 1 after a failure: the next job must not write into this one's.

        Args:
            has_failed: whether the run has failed or was stopped.
        """
        self.finalize("failed" if has_failed else "success")
        is_wandb = isinstance(self._logger, WandbLogger)
        is_lost = self._opened is None and not self._works
        try:
            # A logger that was left out is closed too.
            if callable(finish := getattr(self._opened, "finish", None)):
                finish(**({"exit_code": 1} if has_failed and is_wandb else {}))
        except Exception as error:
            self._leave_out(error)
            is_lost = True
        if is_wandb and is_lost:
            start_anew()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Class of the logger, for callbacks that ask with isinstance which one it is."""
        return type(self._logger) if "_logger" in self.__dict__ else LastingLogger

    def __getattr__(self, name: str) -> Any:
        # What Lightning does not know: log_image, log_table, watch.
        if name.startswith("__") or "_logger" not in self.__dict__:
            raise AttributeError(name)
        try:
            found = getattr(self._logger, name)
        except Exception as error:
            if not isinstance(error, AttributeError):
                self._leave_out(error)
            raise AttributeError(name) from error
        if not callable(found):
            return found
        return lambda *args, **kwargs: self._hand(lambda: found(*args, **kwargs))


@rank_zero_only
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


@contextmanager
def loggers_of(settings: Settings) -> Iterator[list[Logger]]:
    """Start the configured loggers, log the settings, and close the loggers at the end of the context.

    A logger that cannot start is left out with a note. After an error the loggers are closed as failed. The results
    have to be written inside.

    Args:
        settings: settings of the run.

    Returns:
        A context manager that yields the loggers.
    """
    loggers: list[LastingLogger] = []
    has_failed = True
    try:
        for name, node in settings.logger.items():
            if node is not None and (logger := _started(settings, name, node)) is not None:
                loggers.append(logger)
        for logger in loggers:
            logger.log_hyperparams(settings.plain)
        yield list(loggers)
        has_failed = False
    finally:
        for logger in loggers:
            logger.close(has_failed)


def _started(settings: Settings, name: str, content: Mapping[str, Any]) -> LastingLogger | None:
    """Return a logger that has started, None for one that cannot."""
    node, begin = Node(f"logger.{name}", content), time.monotonic()
    is_wandb = str(content.get("_target_")).endswith("WandbLogger")
    try:
        logger = _wandb(settings, node) if is_wandb else node.build()
        result = LastingLogger(name, logger)
        result.start()
    except Exception as error:
        _note(f"the logger '{name}' cannot start and is left out ({type(error).__name__}: {error})")
        return None
    if is_wandb and time.monotonic() - begin > SLOW:
        # The other jobs of a sweep need not wait for this server.
        remember(server_of(node.arguments), False)
    return result


def _wandb(settings: Settings, node: Node) -> Logger:
    """Return W&B's logger in the mode that the network allows."""
    os.environ.setdefault("WANDB_INIT_TIMEOUT", str(SLOW))
    mode = wandb_mode(node.arguments, f"{settings.paths.output}/wandb/offline-run-*")
    # Lightning's own `offline` would set WANDB_MODE for all that follows.
    result: Logger = node.build("offline", **({} if mode is None else {"mode": mode}))
    return result
