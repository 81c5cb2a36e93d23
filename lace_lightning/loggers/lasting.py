"""A logger that never ends a run, and the names of figures in trainings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only

from ..wandb_service import start_anew
from .series import TRAINING, named_row


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
        # Whether what is logged is the curve of a training.
        self.in_training = False
        self._has_settings = False

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
            note(f"the logger '{self._called}' failed and is left out from here on, the run goes on ({text[:300]})")

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
        """Log figures; inside of a training as its curve."""
        if self.in_training:
            self.log_curve([{"step": 0 if step is None else step, **metrics}])
        else:
            self._hand(lambda: self._logger.log_metrics(metrics, step))

    def log_curve(self, rows: Iterable[Mapping[str, float]], series: str = TRAINING) -> None:
        """Log figures over the steps of a series.

        Args:
            rows: figures by name, each with `step`.
            series: name of the series, which is the first word of all names.
        """
        own = self._hand(lambda: getattr(self._logger, "log_curve", None))
        if callable(own):
            self._hand(lambda: own(rows, series))
            return
        for row in rows:
            named = named_row({name: value for name, value in row.items() if name != "step"}, series)
            self._hand(partial(self._logger.log_metrics, named, int(row["step"])))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log settings, the first time: those of a run contain what Lightning takes from its module."""
        if not self._has_settings:
            self._has_settings = True
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
def note(text: str) -> None:
    """Print a note on stderr, on the first process.

    Args:
        text: the note.
    """
    print(f"note: {text}", file=sys.stderr, flush=True)


@contextmanager
def training_names(loggers: Sequence[Any]) -> Iterator[None]:
    """Let loggers log what they are given as the curve of a training, on its own step axis, inside of the context.

    Args:
        loggers: the loggers of a run; others than `LastingLogger` are left as they are.

    Returns:
        A context manager.
    """
    own = [logger for logger in loggers if hasattr(logger, "in_training")]
    for logger in own:
        logger.in_training = True
    try:
        yield
    finally:
        for logger in own:
            logger.in_training = False
