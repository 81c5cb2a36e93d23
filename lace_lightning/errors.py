"""The exception for input that a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LaceError(ValueError):
    """The error for wrong input; its message says what was required, what was received and what to do.

    Example:
        >>> raise LaceError("A batch needs 1 sample or more, received 0: give seeds.")
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: A batch needs 1 sample or more, received 0: give seeds.
    """


def suggest(name: str, options: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the option nearest to `name`, or an empty string when none is near.

    Args:
        name: the name that was given.
        options: the names that there are.

    Example:
        >>> suggest("glases", ["smile", "glasses"])
        " Did you mean 'glasses'?"
    """
    near = difflib.get_close_matches(str(name), [str(option) for option in options], n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
