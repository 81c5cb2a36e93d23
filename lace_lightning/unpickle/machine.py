"""An interpreter of pickle's instructions that builds values and calls only the functions of a table of names."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from .values import AGAIN, MAX_INTEGER_BYTES, MAX_OPCODES, Budget, Name, Names, Refused, checked_key, short

MARK = object()


class Stream:
    """A file for pickletools that never reads beyond its size.

    Args:
        file: the open file, at any position.
        size: its size in bytes.
        advance: is called with the number of bytes after each read; None for no calls.

    Example:
        >>> import io
        >>> stream = Stream(io.BytesIO(b"abc"), 3)
        >>> stream.read(2), stream.tell()
        (b'ab', 2)
    """

    def __init__(self, file: IO[bytes], size: int, advance: Callable[[int], object] | None = None) -> None:
        self.file, self.size, self.advance, self.position = file, size, advance, file.tell()

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises Refused when fewer are left."""
        if size > self.size - self.position:
            raise Refused("it ends in the middle", AGAIN)
        return self._moved(self.file.read(size))

    def readline(self) -> bytes:
        """Return the next bytes up to the end of a line, included."""
        return self._moved(self.file.readline())

    def tell(self) -> int:
        """Return the position in bytes."""
        return self.position

    def seek(self, position: int) -> None:
        """Go to a position in bytes from the start."""
        self.position = self.file.seek(position)

    def _moved(self, data: bytes) -> bytes:
        self.position += len(data)
        if self.advance is not None:
            self.advance(len(data))
        return data


@dataclass
class Machine:
    """Interpreter of one pickle.

    Args:
        names: the names that the pickle may use.
        budget: limits of instructions and memory, which the run reduces.
        persistent: function that turns a persistent identifier into a value; None where none may occur.
        stack: the stack of values, empty at first.
        memo: values that the pickle refers to again, by number; empty at first.

    Example:
        >>> import io, pickle
        >>> data = pickle.dumps({"a": (1, 2)})
        >>> Machine(Names(), Budget(opcodes=100, memory=1000)).run(Stream(io.BytesIO(data), len(data)))
        {'a': (1, 2)}
    """

    names: Names
    budget: Budget
    persistent: Callable[[Any], Any] | None = None
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: Stream) -> Any:
        """Return the value of the pickle that begins at the position of a stream. Raises Refused for anything else."""
        for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            self.budget.opcodes -= 1
            if self.budget.opcodes < 0:
                raise Refused(f"it has more than {MAX_OPCODES} instructions")
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self._literal(argument)
                continue
            step = _STEPS.get(name)
            if step is None:
                raise Refused(f"it uses the instruction {name}")
            step(self, argument)
        raise Refused("it ends in the middle", AGAIN)

    def _literal(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > 8 * MAX_INTEGER_BYTES:
            raise Refused(f"it has an integer of more than {MAX_INTEGER_BYTES} bytes")
        self.stack.append(bytes(value) if isinstance(value, bytearray) else value)

    def to_mark(self) -> list[Any]:
        """Remove the last mark and the values above it from the stack, and return these values."""
        items: list[Any] = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        items.reverse()
        return items

    def top(self, kind: type) -> Any:
        """Return the uppermost value of the stack. Raises Refused for one of another type than `kind`."""
        if not isinstance(self.stack[-1], kind):
            raise Refused(f"it uses a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        """Set items of the uppermost table from keys and values in turn."""
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def global_name(self, module: Any, name: Any) -> None:
        """Put the name of a class or function on the stack. Raises Refused for one that is not allowed."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("it names a function by a value that is not text")
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(
            module, module.replace("numpy._core", "numpy.core")
        )
        entry = Name(module, name)
        if entry not in self.names.calls and entry not in self.names.values:
            raise Refused(f"it asks for {short(f'{module}.{name}')}, which is not on the list of allowed names")
        self.stack.append(entry)

    def call(self, function: Any, arguments: Any) -> Any:
        """Return the value that an allowed name builds from arguments. Raises Refused for any other name."""
        if not isinstance(function, Name) or function not in self.names.calls or not isinstance(arguments, tuple):
            name = getattr(function, "name", type(function).__name__)
            raise Refused(f"it calls {short(name)}, which is not on the list of allowed names")
        return self.names.calls[function](self, *arguments)

    def build(self, state: Any) -> None:
        """Give a state to the uppermost value. Raises Refused for a type that takes none."""
        finish = self.names.states.get(type(self.stack[-1]))
        if finish is None:
            raise Refused(f"it gives a state to a {type(self.stack[-1]).__name__}")
        finish(self, self.stack[-1], state)

    def identified(self, identifier: Any) -> None:
        """Put the value of a persistent identifier on the stack. Raises Refused where none may occur."""
        if self.persistent is None:
            raise Refused("it refers to data outside of itself")
        self.stack.append(self.persistent(identifier))


def _pop(machine: Machine, _: Any) -> None:
    machine.stack.pop()


def _pop_mark(machine: Machine, _: Any) -> None:
    machine.to_mark()


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    def step(machine: Machine, _: Any) -> None:
        if len(machine.stack) < count or any(item is MARK for item in machine.stack[-count:]):
            raise Refused("an instruction needs more values than its stack has")
        items = tuple(machine.stack[-count:])
        del machine.stack[-count:]
        machine.stack.append(items)

    return step


def _append(machine: Machine, _: Any) -> None:
    item = machine.stack.pop()
    machine.top(list).append(item)


def _appends(machine: Machine, _: Any) -> None:
    items = machine.to_mark()
    machine.top(list).extend(items)


def _add_items(machine: Machine, _: Any) -> None:
    items = machine.to_mark()
    machine.top(set).update(checked_key(item) for item in items)


def _frozen_set(machine: Machine, _: Any) -> None:
    machine.stack.append({checked_key(item) for item in machine.to_mark()})


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _set_items(machine: Machine, _: Any) -> None:
    machine.set_items(machine.to_mark())


def _dict_of_mark(machine: Machine, _: Any) -> None:
    items = machine.to_mark()
    machine.stack.append({})
    machine.set_items(items)


def _put(machine: Machine, index: Any) -> None:
    machine.memo[int(index)] = machine.stack[-1]


def _memoize(machine: Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: Machine, index: Any) -> None:
    machine.stack.append(machine.memo[int(index)])


def _global(machine: Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.global_name(module, name)


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.global_name(module, name)


def _reduce(machine: Machine, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(function, arguments))


def _new_object_ex(machine: Machine, _: Any) -> None:
    keywords, arguments, cls = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if keywords:
        raise Refused("it constructs an object by keywords")
    machine.stack.append(machine.call(cls, arguments))


def _instance(machine: Machine, argument: Any) -> None:
    arguments = tuple(machine.to_mark())
    _global(machine, argument)
    machine.stack.append(machine.call(machine.stack.pop(), arguments))


def _object(machine: Machine, _: Any) -> None:
    cls, *arguments = machine.to_mark()
    machine.stack.append(machine.call(cls, tuple(arguments)))


_LITERALS = {
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.name
    in (
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "FLOAT",
        "BINFLOAT",
    )
}
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.stack.append(MARK),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "LIST": lambda machine, _: machine.stack.append(machine.to_mark()),
    "DICT": _dict_of_mark,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "FROZENSET": _frozen_set,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _add_items,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "POP": _pop,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "POP_MARK": _pop_mark,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_ex,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda machine, _: machine.build(machine.stack.pop()),
    "PERSID": lambda machine, text: machine.identified(text),
    "BINPERSID": lambda machine, _: machine.identified(machine.stack.pop()),
    "READONLY_BUFFER": lambda machine, _: None,
}
