"""Output streams that raise no error for an encoding, a closed pipe or a full disk."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Loggers and warnings of libraries that say nothing of use to users of this program.
LOGGERS = ("pytorch_lightning", "lightning.pytorch", "torch.distributed", "wandb")
MESSAGES = (
    r".*isinstance\(treespec.*",
    r".*does not have many workers.*",
    r".*`weights_only` was not set.*",
    r".*Found \d+ module\(s\) in eval mode.*",
    r".*Checkpoint directory .* exists.*",
    r".*lr_scheduler.step\(\).*",
    r".*You have overridden `on_after_batch_transfer`.*",
    r".*You passed in a `val_dataloader` but.*",
    # Also where no job of Slurm is wanted.
    r"The `srun` command is available.*",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what libraries log below a warning, and their warnings of `MESSAGES`, inside of the context.

    Returns:
        A context manager.

    Example:
        >>> with quiet_libraries():
        ...     logging.getLogger("pytorch_lightning").info("not shown")
    """
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    try:
        with warnings.catch_warnings():
            for message in MESSAGES:
                warnings.filterwarnings("ignore", message=message)
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.WARNING)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class LastingStream:
    """Text stream that drops its output from the first error on, so that a run continues after a pipe was closed.

    Args:
        stream: the stream that is written to.

    Example:
        >>> reading, writing = os.pipe()
        >>> os.close(reading)
        >>> stream = LastingStream(open(writing, "w"))
        >>> _ = stream.write("text")
        >>> stream.flush()
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text; return its length."""
        try:
            return int(self.stream.write(text))
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self.stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Put the null device in the place of the file; what is still buffered goes there too."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stream"], name)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Make stdout and stderr print letters that the encoding lacks as `?`, and drop output after an error.

    Streams that are closed are opened on the null device.

    Inside another block of this kind nothing is changed.

    Returns:
        A context manager.
    """
    if isinstance(sys.stdout, LastingStream):
        yield
        return
    _open_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = LastingStream(sys.stdout), LastingStream(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Open the null device for streams that were closed at the start: their numbers would go to the next files."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
