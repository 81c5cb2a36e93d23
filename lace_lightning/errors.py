"""The one exception that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LaceError(ValueError):
    """Bad input, in one sentence: what was required, what was received, what to do."""


def suggest(name: str, options: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the option nearest to `name`, or an empty string when none is near."""
    near = difflib.get_close_matches(str(name), [str(option) for option in options], n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
