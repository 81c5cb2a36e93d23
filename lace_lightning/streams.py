"""Output streams that raise no error for an encoding, a closed pipe or a full disk."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .progress import is_terminal, print_beside, progress_on

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
    r".*is smaller than the logging interval.*",
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


class JobStream:
    r"""Output stream of one job of a sweep: everything goes to a file, and notes and errors to the sweep's stream too.

    Args:
        path: the file, which is begun anew at the first text.
        outside: the sweep's stream; None where nothing is passed on.
        passed: notes that were passed on before; each is passed on once.

    Example:
        >>> import io, tempfile
        >>> outside, passed = io.StringIO(), set()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stream = JobStream(f"{folder}/output.txt", outside, passed)
        ...     for _ in range(2):
        ...         print("note: biased", file=stream)
        ...     print("making 200 pairs", file=stream)
        ...     stream.close()
        ...     open(f"{folder}/output.txt").read().count("biased"), outside.getvalue()
        (2, 'note: biased\n')
    """

    # Beginnings of lines that are passed on.
    PASSED = ("note: ", "error: ")

    def __init__(self, path: str | os.PathLike[str], outside: Any, passed: set[str]) -> None:
        self.path, self.outside, self.passed = path, outside, passed
        self._file: Any = None
        self._line = ""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write text; return its length."""
        if self._file is None:
            self._file = open(self.path, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
        # A full disk is found by what the run has to keep.
        with suppress(OSError):
            self._file.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.startswith(self.PASSED) and line not in self.passed:
                self.passed.add(line)
                if self.outside is not None:
                    print_beside(line, self.outside)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._file is not None:
            with suppress(OSError):
                self._file.flush()

    def isatty(self) -> bool:
        """Return False: a file is no terminal."""
        return False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


# Notes and errors that were passed on since the sweep was started.
PASSED_ON: set[str] = set()


@contextmanager
def job_streams(path: str | os.PathLike[str]) -> Iterator[None]:
    """Write stdout and stderr to a file inside of the context; notes and errors go to stderr too, each once.

    Lines of progress stay on stderr where it is a terminal. Elsewhere they go to the file.

    Args:
        path: the file.

    Returns:
        A context manager.
    """
    before = sys.stdout, sys.stderr
    stream = JobStream(path, sys.stderr, PASSED_ON)
    sys.stdout = sys.stderr = stream
    try:
        with progress_on(before[1] if is_terminal(before[1]) else stream):
            yield
    finally:
        sys.stdout, sys.stderr = before
        stream.close()


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
