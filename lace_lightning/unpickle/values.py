"""What the parts of the reading share: why it ends, what names stand for, what is not built, and what may be spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_OPCODES = 5_000_000
MAX_INTEGER_BYTES = 32
AGAIN = "download it again"
_ELSE = "nothing in it was run; ask its author for a safetensors file or a plain state dict"


class Refused(Exception):
    """Why a file cannot be read, as the middle of a sentence, and what to do, as its end."""

    def __init__(self, reason: str, fix: str = _ELSE) -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclass(eq=False)
class Record:
    """What a file says of an object of a class of its own: the class's name, constructor arguments, and its state;
    nothing more.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """The state where it is a table of attributes, an empty one elsewhere."""
        return self.state if isinstance(self.state, dict) else {}


@dataclass(frozen=True)
class Name:
    """What a file calls a class or a function: nothing that could be called."""

    module: str
    name: str


@dataclass(frozen=True)
class Names:
    """What names stand for: `calls` build a value, `values` stand for themselves, `states` finish a value of a type
    that was built.

    A call has the signature (machine, *arguments) -> value, a state (machine, value, state) -> None.
    """

    calls: Mapping[Name, Callable[..., Any]] = field(default_factory=dict)
    values: frozenset[Name] = frozenset()
    states: Mapping[type, Callable[[Any, Any, Any], None]] = field(default_factory=dict)

    def __or__(self, other: Names) -> Names:
        return Names({**self.calls, **other.calls}, self.values | other.values, {**self.states, **other.states})


@dataclass
class Budget:
    """What may still be spent on one file."""

    opcodes: int
    memory: int

    def spend(self, size: int) -> None:
        self.memory -= size
        if self.memory < 0:
            raise Refused("it asks for far more memory than its size")


def short(text: str) -> str:
    """Quote `text`, cut to what fits into a sentence."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def checked_key(key: Any) -> Any:
    """Return a key of a table or a member of a set. Raises Refused for what hashing could take long or forever for."""
    scalar = (str, int, float, bool, bytes, type(None))
    # Tuples in tuples are hashed by recursion without an end.
    if isinstance(key, scalar) or (
        isinstance(key, tuple) and len(key) <= 8 and all(isinstance(part, scalar) for part in key)
    ):
        return key
    raise Refused(f"it uses a {type(key).__name__} as a key")
