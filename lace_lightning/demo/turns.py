"""A lock that is given in the order in which it was asked for."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock for work of several visitors, in the order in which they ask.

    Example:
        >>> turns = Turns()
        >>> with turns:
        ...     turns.let_others()
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    def __enter__(self) -> Turns:
        with self._guard:
            if not self._taken:
                self._taken = True
                return self
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()
        return self

    def __exit__(self, *error: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False

    def let_others(self) -> None:
        """Let those who wait go first, in the middle of long work of the one who has the lock."""
        if self._waiting:
            self.__exit__()
            self.__enter__()
