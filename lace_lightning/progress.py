"""Progress on stderr: one line for every long phase, with rate and time left.

On a terminal the line is renewed in place and disappears at its end. Elsewhere, as in the log of a cluster, a long
phase writes a plain line now and then. Quick phases show nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
# Seconds before a phase is shown on a terminal, and between two plain lines elsewhere.
DELAY, PAUSE = 1.0, 10.0
# Forms of a line with a known and with an unknown end.
KNOWN = "{desc}: {percentage:3.0f}%, {n_fmt}/{total_fmt}{unit}, {rate_fmt}, {remaining} left{postfix}"
UNKNOWN = "{desc}: {n_fmt}{unit}, {rate_fmt}, {elapsed} so far{postfix}"

# Where lines go: stderr of the moment, or the stream of `progress_on`.
_STREAMS: list[Any] = []


@cache
def _plain_bar() -> Any:
    """Return the class of bars that write plain lines."""
    from tqdm import tqdm

    class PlainBar(tqdm):  # type: ignore[misc]
        """Bar for a stream that is no terminal: a line each time, and nothing to clear at the end."""

        @staticmethod
        def status_printer(file: Any) -> Any:
            def write(text: str) -> None:
                if text.strip():
                    file.write(f"{text.strip()}\n")
                    file.flush()

            return write

        def moveto(self, n: int) -> None:
            """Stay where the next line begins."""

        def close(self) -> None:
            if not getattr(self, "disable", True):
                self.disable = True
                self._decr_instances(self)

    return PlainBar


def bar(title: str, total: float | None = None, unit: str = "", shown: bool = True, initial: int = 0) -> Any:
    """Return a line of progress for a phase; quick phases show nothing.

    Args:
        title: name of the phase.
        total: number of units at the end; None where it is not known.
        unit: name of a unit, such as `batch`; empty for a number alone, `B` for bytes.
        shown: whether to show the line.
        initial: number of units that were done before.

    Returns:
        A context manager; its `update(count)` adds units that are done, and `set_postfix_str(text)` adds a text.

    Example:
        >>> with bar("labelling", total=10) as line:
        ...     line.update(5)
    """
    from tqdm import tqdm

    stream = _STREAMS[-1] if _STREAMS else sys.stderr
    options: dict[str, Any] = {"desc": title, "total": total, "initial": initial, "file": stream, "disable": not shown}
    options["unit"] = unit if unit in ("", "B") else f" {unit}"
    if unit == "B":
        options |= {"unit_scale": True, "unit_divisor": 1024}
    if is_terminal(stream):
        return tqdm(**options, **_size(stream), leave=False, delay=DELAY, mininterval=0.2)
    form = UNKNOWN if total is None else KNOWN
    return _plain_bar()(**options, leave=False, delay=PAUSE, mininterval=PAUSE, bar_format=form)


def _size(stream: Any) -> dict[str, Any]:
    """Return the arguments of a bar for the size of a terminal; some terminals say that they have no lines."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        columns = lines = 0
    return {"dynamic_ncols": True} if min(columns, lines) > 0 else {"ncols": 80, "nrows": 24}


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal.

    Args:
        stream: an output stream.

    Example:
        >>> import io
        >>> is_terminal(io.StringIO())
        False
    """
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def steps(items: Iterable[T], title: str, unit: str = "", shown: bool = True, total: int | None = None) -> Iterator[T]:
    """Yield items, with a line of progress.

    Args:
        items: the items.
        title: name of the phase.
        unit: name of an item, such as `batch`.
        shown: whether to show the line.
        total: number of items; None where `items` has a length, or it is not known.

    Example:
        >>> list(steps(range(3), "counting"))
        [0, 1, 2]
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    with bar(title, count, unit, shown) as line:
        for item in items:
            yield item
            line.update(1)


def byte_bar(title: str, total: int | None, initial: int = 0) -> Any:
    """Return a line of progress over bytes.

    Args:
        title: name of the phase.
        total: number of bytes, at least 0; None where it is not known.
        initial: number of bytes that were done before.

    Returns:
        A context manager; its `update(count)` adds bytes that are done.

    Example:
        >>> with byte_bar("hashing", 10) as line:
        ...     _ = line.update(10)
    """
    return bar(title, total, "B", initial=initial)


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Show the seconds that pass while work without a known length is done.

    Args:
        title: text beside the time.

    Returns:
        A context manager around the work.

    Example:
        >>> with waiting("loading"):
        ...     pass
    """
    done = threading.Event()
    with bar(title) as line:
        line.bar_format = "{desc}: {elapsed}"

        def tick() -> None:
            while not done.wait(0.5):
                line.update(0)

        thread = threading.Thread(target=tick, daemon=True)
        if is_terminal(line.fp):
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread.ident is not None:
                thread.join()


@contextmanager
def progress_on(stream: Any) -> Iterator[None]:
    """Write lines of progress to a stream, also where stderr is another one inside of the context.

    Args:
        stream: the stream.

    Returns:
        A context manager.

    Example:
        >>> with progress_on(sys.stderr):
        ...     list(steps([1], "counting"))
        [1]
    """
    _STREAMS.append(stream)
    try:
        yield
    finally:
        _STREAMS.pop()


def print_beside(text: str, stream: Any) -> None:
    """Print a line without damage to lines of progress on the same terminal.

    Args:
        text: the line.
        stream: where it is printed.

    Example:
        >>> print_beside("note", sys.stdout)
        note
    """
    from tqdm import tqdm

    tqdm.write(text, file=stream)
    stream.flush()
