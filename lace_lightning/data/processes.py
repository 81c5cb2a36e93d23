"""Which of several processes writes, waits and speaks."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

from pytorch_lightning.utilities import rank_zero_only


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
    """Print a line on stderr, in the first process.

    Args:
        text: the line.
        reason: text behind a colon; empty for none.
    """
    print(f"{text}: {reason}" if reason else text, file=sys.stderr, flush=True)
