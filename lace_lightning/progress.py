"""Progress bars on stderr, which are hidden in the first second, and where stderr is no terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OPTIONS: dict[str, Any] = {"leave": False, "delay": 1, "disable": None}


def byte_bar(title: str, total: int) -> Any:
    """Return a progress bar over bytes, hidden in the first second, and where stderr is no terminal.

    Args:
        title: text beside the bar.
        total: number of bytes, at least 0.

    Returns:
        A context manager; its `update(count)` adds bytes that are done.

    Example:
        >>> with byte_bar("hashing", 10) as bar:
        ...     _ = bar.update(10)
    """
    from tqdm import tqdm

    return tqdm(desc=title, total=total, unit="B", unit_scale=True, unit_divisor=1024, **_OPTIONS)


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
    from tqdm import tqdm

    done = threading.Event()
    with tqdm(desc=title, bar_format="{desc}: {elapsed}", **_OPTIONS) as bar:

        def tick() -> None:
            while not done.wait(0.5):
                bar.update(0)

        thread = threading.Thread(target=tick, daemon=True)
        if not bar.disable:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread.ident is not None:
                thread.join()
