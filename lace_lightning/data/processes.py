"""Which of several processes writes, waits and speaks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from pytorch_lightning.utilities import rank_zero_only

_IS_SILENT = ContextVar("_IS_SILENT", default=False)
# What was found in the cache and has not been said.
_FOUND: list[str] = []


def is_rank_zero() -> bool:
    """Return whether this process is the first of several, or the only one."""
    return getattr(rank_zero_only, "rank", 0) == 0


def in_first(context: AbstractContextManager[None]) -> AbstractContextManager[None]:
    """Return a context for the first of several processes, and one that does nothing for the others.

    Args:
        context: the context of the first process.
    """
    return context if is_rank_zero() else nullcontext()


@rank_zero_only
def say(text: str, reason: str = "") -> None:
    """Print a line on stderr, in the first process, outside of `silent`.

    Args:
        text: the line.
        reason: text behind a colon; empty for none.
    """
    if not _IS_SILENT.get():
        print(f"{text}: {reason}" if reason else text, file=sys.stderr, flush=True)


@rank_zero_only
def note_found(text: str) -> None:
    """Remember something that was found in the cache, for the one line of `say_found`.

    Args:
        text: what was found, and its key.
    """
    if not _IS_SILENT.get():
        _FOUND.append(text)


@rank_zero_only
def say_found() -> None:
    """Print what was found in the cache since the last time, in one line on stderr; nothing where nothing was.

    Example:
        >>> from contextlib import redirect_stderr
        >>> with redirect_stderr(sys.stdout):
        ...     note_found("200 pairs ab12")
        ...     note_found("LACE cd34")
        ...     say_found()
        found 200 pairs ab12, LACE cd34
    """
    if _FOUND:
        print(f"found {', '.join(_FOUND)}", file=sys.stderr, flush=True)
        _FOUND.clear()


@contextmanager
def silent() -> Iterator[None]:
    """Let `say` print nothing inside of the context.

    Returns:
        A context manager.

    Example:
        >>> with silent():
        ...     say("not printed")
    """
    token = _IS_SILENT.set(True)
    try:
        yield
    finally:
        _IS_SILENT.reset(token)
