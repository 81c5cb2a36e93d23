"""Progress of work on files, on stderr: silent below a second, and where nobody watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OPTIONS: dict[str, Any] = {"leave": False, "delay": 1, "disable": None}


def byte_bar(title: str, total: int) -> Any:
    """Return a bar over `total` bytes, whose `update` is told how many more are done; a context manager."""
    from tqdm import tqdm

    return tqdm(desc=title, total=total, unit="B", unit_scale=True, unit_divisor=1024, **_OPTIONS)


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Show how long something takes that does not say how far it is."""
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
