"""Types that the reader of pickles shares: its exception, names, records, and limits of memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_OPCODES = 5_000_000
MAX_INTEGER_BYTES = 32
AGAIN = "download it again"
_ELSE = "nothing in it was run; ask its author for a safetensors file or a plain state dict"


class Refused(Exception):
    """The exception of content that is not read; `opened` makes one sentence of it.

    Args:
        reason: why the file cannot be read, the middle of a sentence.
        fix: what to do, the end of a sentence.

    Example:
        >>> Refused("it is empty", "download it again").fix
        'download it again'
    """

    def __init__(self, reason: str, fix: str = _ELSE) -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclass(eq=False)
class Record:
    """An object of a class that is not built: the class's name, constructor arguments and state.

    Args:
        name: name of the class.
        arguments: arguments of its constructor, as data.
        state: state of the object, as data; None where the file has none.

    Example:
        >>> Record("Layer", (), {"training": False}).attributes
        {'training': False}
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """The state where it is a table of attributes, else an empty table."""
        return self.state if isinstance(self.state, dict) else {}


@dataclass(frozen=True)
class Name:
    """The name of a class or a function in a file, which cannot be called.

    Args:
        module: dotted name of the module.
        name: name inside of the module.

    Example:
        >>> Name("collections", "OrderedDict").name
        'OrderedDict'
    """

    module: str
    name: str


@dataclass(frozen=True)
class Names:
    """A table of allowed names; `a | b` has the names of both, and b's functions where both have a name.

    Args:
        calls: functions (machine, *arguments) -> value that build a value, by name.
        values: names that are values themselves.
        states: functions (machine, value, state) -> None that set the state of a value, by the type of the value.

    Example:
        >>> tensor, size = (Names(values=frozenset({Name("torch", name)})) for name in ("Tensor", "Size"))
        >>> len((tensor | size).values)
        2
    """

    calls: Mapping[Name, Callable[..., Any]] = field(default_factory=dict)
    values: frozenset[Name] = frozenset()
    states: Mapping[type, Callable[[Any, Any, Any], None]] = field(default_factory=dict)

    def __or__(self, other: Names) -> Names:
        return Names({**self.calls, **other.calls}, self.values | other.values, {**self.states, **other.states})


@dataclass
class Budget:
    """Limits that are left for the reading of one file.

    Args:
        opcodes: number of instructions.
        memory: bytes.

    Example:
        >>> budget = Budget(opcodes=10, memory=100)
        >>> budget.spend(60)
        >>> budget.memory
        40
    """

    opcodes: int
    memory: int

    def spend(self, size: int) -> None:
        """Subtract bytes from the memory that is left. Raises Refused when too few are left."""
        self.memory -= size
        if self.memory < 0:
            raise Refused("it asks for far more memory than its size")


def short(text: str) -> str:
    """Return a text in quotes, cut to 60 characters.

    Args:
        text: any text.

    Example:
        >>> short("os.system"), len(short("a" * 100))
        ("'os.system'", 62)
    """
    return repr(text if len(text) <= 60 else text[:57] + "...")


def checked_key(key: Any) -> Any:
    """Return a key of a table or a member of a set after a check that it can be hashed quickly.

    Args:
        key: a plain value, or a tuple of at most 8 plain values.

    Returns:
        The same key.

    Raises:
        Refused: for any other key.

    Example:
        >>> checked_key(("conv", 1))
        ('conv', 1)
    """
    scalar = (str, int, float, bool, bytes, type(None))
    # Nested tuples are hashed by a recursion of unlimited depth.
    if isinstance(key, scalar) or (
        isinstance(key, tuple) and len(key) <= 8 and all(isinstance(part, scalar) for part in key)
    ):
        return key
    raise Refused(f"it uses a {type(key).__name__} as a key")
