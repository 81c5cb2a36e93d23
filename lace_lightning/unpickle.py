"""Pickles and PyTorch checkpoints as data: a machine for pickle's opcodes that can build values and can call nothing.

`pickle` runs whatever function a file names. Here a name is looked up in a table of our own; what is in it builds numbers, texts,
containers, arrays, tensors and inert records, and every other name ends the reading. Sizes are checked before memory is taken: what is
built is bounded by the size of the file.
"""

from __future__ import annotations

import math
import mmap
import os
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import LaceError

MAX_OPCODES = 5_000_000
MAX_INTEGER_BYTES = 32
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_DTYPES = {"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
           "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool}
_TORCH_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}


class _Refused(Exception):
    """Why a file cannot be read, as the middle of a sentence."""


@dataclass(eq=False)
class Record:
    """What a file says of an object of a class of its own: the class's name, constructor arguments, and its state; nothing more."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """The state where it is a table of attributes, an empty one elsewhere."""
        return self.state if isinstance(self.state, dict) else {}


@dataclass(frozen=True)
class _Name:
    module: str
    name: str


@dataclass(eq=False)
class _Dtype:
    text: str


@dataclass(eq=False)
class _Storage:
    """Raw numbers of tensors; `data` is None while it is not known yet."""

    dtype: torch.dtype
    count: int
    data: Any = None


_MARK = object()


@dataclass
class _Budget:
    """What may still be spent on one file."""

    opcodes: int
    memory: int

    def spend(self, size: int) -> None:
        self.memory -= size
        if self.memory < 0:
            raise _Refused("it asks for far more memory than its size")


class _Stream:
    """Bytes with a position, for pickletools; never hands out more than there is."""

    def __init__(self, data: Any, position: int = 0) -> None:
        self.data, self.position = data, position

    def read(self, size: int = -1) -> bytes:
        end = len(self.data) if size < 0 else min(self.position + size, len(self.data))
        start, self.position = self.position, end
        return bytes(self.data[start:end])

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        return self.read(-1 if end < 0 else end + 1 - self.position)

    def tell(self) -> int:
        return self.position


@dataclass
class _Machine:
    """One pickle, interpreted. `persistent` turns a persistent identifier into a value."""

    budget: _Budget
    persistent: Callable[[Any], Any] | None = None
    nested: bool = True
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: _Stream) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            self.budget.opcodes -= 1
            if self.budget.opcodes < 0:
                raise _Refused(f"it has more than {MAX_OPCODES} instructions")
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self._literal(argument)
                continue
            step = _STEPS.get(name)
            if step is None:
                raise _Refused(f"it uses the instruction {name}")
            step(self, argument)
        raise _Refused("it ends in the middle")

    def _literal(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > 8 * MAX_INTEGER_BYTES:
            raise _Refused("it holds an integer of absurd size")
        self.stack.append(bytes(value) if isinstance(value, bytearray) else value)

    def to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        items.reverse()
        return items

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"it treats a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def global_name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _Refused("it names a function by something that is no name")
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module.replace("numpy._core", "numpy.core"))
        entry = _Name(module, name)
        if entry not in _CALLS and entry not in _VALUES and _storage_dtype(entry) is None:
            raise _Refused(f"it asks for {_short(f'{module}.{name}')}, which is not on the list of what is data")
        self.stack.append(entry)

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or function not in _CALLS or not isinstance(arguments, tuple):
            name = getattr(function, "name", type(function).__name__)
            raise _Refused(f"it calls {_short(name)}, which is not on the list of what is data")
        return _CALLS[function](self, *arguments)

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, _Dtype):
            target.text = _dtype_with_order(target.text, state)
        elif isinstance(target, np.ndarray):
            _fill_array(self, target, state)
        elif not isinstance(target, dict):  # attributes of an OrderedDict (_metadata) are no items
            raise _Refused(f"it gives a state to a {type(target).__name__}")

    def identified(self, identifier: Any) -> None:
        if self.persistent is None:
            raise _Refused("it refers to data outside of itself")
        self.stack.append(self.persistent(identifier))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _key(key: Any) -> Any:
    scalar = (str, int, float, bool, bytes, type(None))
    # Tuples in tuples are hashed by recursion without an end.
    if isinstance(key, scalar) or (isinstance(key, tuple) and len(key) <= 8 and all(isinstance(part, scalar) for part in key)):
        return key
    raise _Refused(f"it uses a {type(key).__name__} as a key")


# ------------------------------------------------------------------------------------------------ what names stand for


def _storage_dtype(name: _Name) -> torch.dtype | None:
    if name.module in ("torch", "torch.cuda") and name.name.endswith("Storage"):
        return _DTYPES.get(name.name.removesuffix("Storage"))
    if name == _Name("torch.storage", "UntypedStorage") or name == _Name("torch", "UntypedStorage"):
        return torch.uint8
    return None


def _set(machine: _Machine, items: Any = ()) -> set[Any]:
    return {_key(item) for item in _sequence(machine, items)}


def _sequence(machine: _Machine, items: Any) -> Any:
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise _Refused(f"it makes a container of a {type(items).__name__}")
    # What is copied again and again is small in the file and large in memory.
    machine.budget.spend(8 * len(items))
    return items


def _list(machine: _Machine, items: Any = ()) -> list[Any]:
    return list(_sequence(machine, items))


def _dict(machine: _Machine, items: Any = ()) -> dict[Any, Any]:
    """OrderedDict(pairs), EasyDict(dict)."""
    pairs = list(items.items()) if isinstance(items, dict) else [tuple(_sequence(machine, pair)) for pair in _sequence(machine, items)]
    machine.budget.spend(64 * len(pairs))
    if any(len(pair) != 2 for pair in pairs):
        raise _Refused("it makes a table of what are no pairs")
    return {_key(key): value for key, value in pairs}


def _encode(machine: _Machine, text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as protocols before 3 wrote them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise _Refused("it encodes what is no text")
    machine.budget.spend(len(text))
    return text.encode(encoding)


def _bytearray(machine: _Machine, data: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(data, str):
        return _encode(machine, data, encoding)
    if not isinstance(data, bytes):
        raise _Refused("it makes bytes of what are none")
    return data


def _persistent_object(machine: _Machine, meta: Any) -> Record:
    """NVIDIA's networks: class name and state; their source, which comes beside, is not looked at."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise _Refused("it holds a network without the name of its class")
    return Record(meta["class_name"], (), meta.get("state"))


def _record(name: str) -> Callable[..., Record]:
    return lambda machine, *arguments: Record(name, arguments)


def _reconstructor(machine: _Machine, cls: Any, base: Any = None, state: Any = None) -> Any:
    # Protocols 0 and 1: the content of a subclass of a container comes as its state.
    return machine.call(cls, () if state is None else (state,))


def _defaultdict(machine: _Machine, factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return _dict(machine, items)


# ------------------------------------------------------------------------------------------------ NumPy


def _dtype(machine: _Machine, text: Any, *_: Any) -> _Dtype:
    text = text.decode("ascii") if isinstance(text, bytes) else text
    if not isinstance(text, str) or re.fullmatch(r"[<>|=]?([biufcO]\d{1,2}|[SU]\d{1,6}|bool|\?)", text) is None:
        raise _Refused("it has an array of a kind that is neither numbers nor text")
    return _Dtype(text)


def _dtype_with_order(text: str, state: Any) -> str:
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    if order not in ("<", ">", "|", "=") or (isinstance(state, tuple) and any(part is not None for part in state[2:5])):
        raise _Refused("it has an array of a kind that is neither numbers nor text")
    return order + text.lstrip("<>|=")


def _real_dtype(dtype: Any) -> np.dtype:
    if isinstance(dtype, str):
        dtype = _dtype(None, dtype)  # type: ignore[arg-type]
    if not isinstance(dtype, _Dtype):
        raise _Refused("it has an array without a kind")
    return np.dtype(dtype.text)


def _size(shape: Any) -> int:
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(isinstance(n, int) and 0 <= n < 2**40 for n in shape):
        raise _Refused("it has an array of an impossible shape")
    return math.prod(shape)


def _new_array(machine: _Machine, *_: Any) -> np.ndarray:
    return np.empty(0, np.int8)


def _fill_array(machine: _Machine, target: np.ndarray, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) != 5:
        raise _Refused("it has an array whose state is none")
    _, shape, dtype, fortran, raw = state
    real, count = _real_dtype(dtype), _size(shape)
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if real.hasobject:
        # What is in it was built here: it is data like the rest.
        if not isinstance(raw, list) or len(raw) != count:
            raise _Refused("it has an array that does not fit its shape")
    elif not isinstance(raw, bytes) or len(raw) != count * real.itemsize:
        raise _Refused("it has an array that does not fit its shape")
    machine.budget.spend(count * real.itemsize)
    target.__setstate__((1, shape, real, bool(fortran), raw))  # type: ignore[arg-type]


def _scalar(machine: _Machine, dtype: Any, raw: Any) -> Any:
    real = _real_dtype(dtype)
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if real.hasobject or not isinstance(raw, bytes) or len(raw) != real.itemsize:
        raise _Refused("it has a number that does not fit its kind")
    return np.frombuffer(raw, real)[0].item()


def _array_of_buffer(machine: _Machine, raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    real = _real_dtype(dtype)
    if real.hasobject or not isinstance(raw, bytes) or len(raw) != _size(shape) * real.itemsize or order not in ("C", "F"):
        raise _Refused("it has an array that does not fit its shape")
    return np.frombuffer(raw, real).reshape(shape, order=order)


# ------------------------------------------------------------------------------------------------ PyTorch


def _tensor(machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of the storage, checked: no element outside, none twice."""
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise _Refused("it has a tensor without numbers")
    numbers = (offset, *size, *stride)
    if len(size) > 16 or not all(isinstance(n, int) and 0 <= n < 2**40 for n in numbers):
        raise _Refused("it has a tensor of an impossible shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if count > storage.count or (count and last >= storage.count) or offset > storage.count:
        raise _Refused("it has a tensor that does not fit its storage")
    machine.budget.spend(count * storage.dtype.itemsize)
    if storage.data is None or not count:
        return torch.empty(size if not count else 0, dtype=storage.dtype)
    with warnings.catch_warnings():
        # The bytes are the file's and are only read.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        flat = torch.frombuffer(storage.data, dtype=storage.dtype, count=storage.count)
    return flat.as_strided(size, stride, offset)


def _tensor_v3(machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Tensor:
    real = _TORCH_DTYPES.get(dtype.name) if isinstance(dtype, _Name) else None
    if not isinstance(storage, _Storage) or real is None:
        raise _Refused("it has a tensor without numbers")
    typed = _Storage(real, storage.count * storage.dtype.itemsize // real.itemsize, storage.data)
    return _tensor(machine, typed, offset, size, stride)


def _parameter(machine: _Machine, data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _Refused("it has a parameter that is no tensor")
    return data


def _of_type(machine: _Machine, function: Any, cls: Any, arguments: Any, state: Any = None) -> Any:
    return machine.call(function, arguments)


def _storage_from_bytes(machine: _Machine, raw: Any) -> Any:
    """A storage that was saved into bytes, inside of a pickle; once, not again inside of those."""
    if not machine.nested or not isinstance(raw, bytes):
        raise _Refused("it has pickles inside of pickles inside of pickles")
    return _read_legacy(raw, machine.budget)


def _torch_size(machine: _Machine, items: Any = ()) -> tuple[Any, ...]:
    return tuple(_sequence(machine, items))


def _text(machine: _Machine, *parts: Any) -> str:
    return ":".join(str(part) for part in parts if isinstance(part, (str, int)) and len(str(part)) < 100)


_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name("collections", "OrderedDict"): _dict, _Name("builtins", "dict"): _dict, _Name("collections", "defaultdict"): _defaultdict,
    _Name("dnnlib.util", "EasyDict"): _dict, _Name("dnnlib", "EasyDict"): _dict,
    _Name("builtins", "set"): _set, _Name("builtins", "frozenset"): _set, _Name("builtins", "bytearray"): _bytearray,
    _Name("builtins", "bytes"): _bytearray, _Name("builtins", "list"): _list, _Name("_codecs", "encode"): _encode,
    _Name("copyreg", "_reconstructor"): _reconstructor,
    _Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
    _Name("dnnlib.tflib.network", "Network"): _record("tensorflow.Network"), _Name("argparse", "Namespace"): _record("Namespace"),
    _Name("numpy", "dtype"): _dtype, _Name("numpy.core.multiarray", "_reconstruct"): _new_array,
    _Name("numpy.core.multiarray", "scalar"): _scalar, _Name("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
    _Name("torch._utils", "_rebuild_tensor"): _tensor, _Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Name("torch._utils", "_rebuild_tensor_v3"): _tensor_v3, _Name("torch._utils", "_rebuild_parameter"): _parameter,
    _Name("torch._utils", "_rebuild_parameter_with_state"): _parameter, _Name("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    _Name("torch.storage", "_load_from_bytes"): _storage_from_bytes, _Name("torch", "Size"): _torch_size, _Name("torch", "device"): _text,
}
# Names that stand for themselves and cannot be called.
_VALUES = {_Name("numpy", "ndarray"), *(_Name("builtins", name) for name in ("object", "int", "long", "float", "str", "bool")),
           _Name("torch", "Tensor"), _Name("torch.nn.parameter", "Parameter"), _Name("torch.storage", "TypedStorage"),
           *(_Name("torch", name) for name in _TORCH_DTYPES)}


# ------------------------------------------------------------------------------------------------ opcodes


def _pop(machine: _Machine, _: Any) -> None:
    machine.stack.pop()


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.to_mark()


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count or any(item is _MARK for item in machine.stack[-count:]):
            raise _Refused("its stack does not hold what it wants")
        items = tuple(machine.stack[-count:])
        del machine.stack[-count:]
        machine.stack.append(items)
    return step


def _append(machine: _Machine, _: Any) -> None:
    item = machine.stack.pop()
    machine.top(list).append(item)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.to_mark()
    machine.top(list).extend(items)


def _add_items(machine: _Machine, _: Any) -> None:
    items = machine.to_mark()
    machine.top(set).update(_key(item) for item in items)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _set_items(machine: _Machine, _: Any) -> None:
    machine.set_items(machine.to_mark())


def _dict_of_mark(machine: _Machine, _: Any) -> None:
    items = machine.to_mark()
    machine.stack.append({})
    machine.set_items(items)


def _put(machine: _Machine, index: Any) -> None:
    machine.memo[int(index)] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, index: Any) -> None:
    machine.stack.append(machine.memo[int(index)])


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.global_name(module, name)


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.global_name(module, name)


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(function, arguments))


def _new_object_ex(machine: _Machine, _: Any) -> None:
    keywords, arguments, cls = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if keywords:
        raise _Refused("it constructs an object by keywords")
    machine.stack.append(machine.call(cls, arguments))


def _instance(machine: _Machine, argument: Any) -> None:
    arguments = tuple(machine.to_mark())
    _global(machine, argument)
    machine.stack.append(machine.call(machine.stack.pop(), arguments))


def _object(machine: _Machine, _: Any) -> None:
    cls, *arguments = machine.to_mark()
    machine.stack.append(machine.call(cls, tuple(arguments)))


_LITERALS = {opcode.name for opcode in pickletools.opcodes if opcode.name in (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT")}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None, "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.stack.append(None), "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False), "MARK": lambda machine, _: machine.stack.append(_MARK),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]), "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()), "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "LIST": lambda machine, _: machine.stack.append(machine.to_mark()), "DICT": _dict_of_mark,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.to_mark())), "TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3), "FROZENSET": lambda machine, _: machine.stack.append(_set(machine, machine.to_mark())),
    "APPEND": _append, "APPENDS": _appends, "ADDITEMS": _add_items, "SETITEM": _set_item, "SETITEMS": _set_items,
    "POP": _pop, "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "POP_MARK": _pop_mark, "PUT": _put, "BINPUT": _put, "LONG_BINPUT": _put, "MEMOIZE": _memoize, "GET": _get, "BINGET": _get,
    "LONG_BINGET": _get, "GLOBAL": _global, "STACK_GLOBAL": _stack_global, "REDUCE": _reduce, "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_ex, "INST": _instance, "OBJ": _object, "BUILD": lambda machine, _: machine.build(machine.stack.pop()),
    "PERSID": lambda machine, text: machine.identified(text), "BINPERSID": lambda machine, _: machine.identified(machine.stack.pop()),
    "READONLY_BUFFER": lambda machine, _: None,
}


# ------------------------------------------------------------------------------------------------ files


def _identified_storage(identifier: Any) -> tuple[str, torch.dtype, int]:
    """Return (key, dtype, count) of ('storage', type, key, location, count, ...)."""
    if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage" or not isinstance(identifier[1], _Name):
        raise _Refused("it refers to data outside of itself")
    dtype, key, count = _storage_dtype(identifier[1]), identifier[2], identifier[4]
    if dtype is None or not isinstance(key, (str, int)) or not isinstance(count, int) or not 0 <= count < 2**40:
        raise _Refused("it has a storage of an unknown kind")
    return str(key), dtype, count


def _read_legacy(data: Any, budget: _Budget, position: int = 0) -> Any:
    """torch.save before 1.6: magic, version, machine, the object, the keys of its storages, their numbers.

    The numbers come after the object: it is read once to learn which storages there are, and once more with them.
    """
    stream = _Stream(data, position)
    found: dict[str, _Storage] = {}

    def learn(identifier: Any) -> _Storage:
        key, dtype, count = _identified_storage(identifier)
        if len(identifier) > 5 and identifier[5] is not None:
            raise _Refused("it has a view of a storage, which PyTorch 0.3 wrote")
        return found.setdefault(key, _Storage(dtype, count))

    if _Machine(budget, nested=False).run(stream) != 0x1950A86A20F9469CFC6C:
        raise _Refused("its storage does not begin as one")
    for _ in range(2):
        _Machine(budget, nested=False).run(stream)
    start = stream.position
    _Machine(_Budget(budget.opcodes, budget.memory), learn, nested=False).run(stream)
    keys = _Machine(budget, nested=False).run(stream)
    if not isinstance(keys, list):
        raise _Refused("it does not say which storages follow")
    for key in keys:
        storage = found.get(str(key) if isinstance(key, (str, int)) else "")
        if storage is None:
            raise _Refused("it has a storage that nothing refers to")
        (count,) = struct.unpack("<q", stream.read(8))
        size = count * storage.dtype.itemsize
        if storage.data is not None or count != storage.count or stream.position + size > len(data):
            raise _Refused("a storage is shorter than it says")
        # A copy: in the file, numbers lie at odd addresses.
        budget.spend(size)
        storage.data = stream.read(size)
    if any(storage.data is None for storage in found.values()):
        raise _Refused("the numbers of a storage are missing")
    return _Machine(budget, lambda identifier: found[_identified_storage(identifier)[0]], nested=False).run(_Stream(data, start))


def _read_zip(path: Path, budget: _Budget) -> Any:
    """torch.save since 1.6: an archive without compression, `<name>/data.pkl` and `<name>/data/<key>`."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        roots = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(roots) != 1:
            raise _Refused("it is an archive, and not of PyTorch")
        root, known = roots[0].removesuffix("data.pkl"), {}

        def read(name: str) -> bytes:
            info = members.get(name)
            if info is None:
                raise _Refused("the numbers of a storage are missing")
            if info.compress_type != zipfile.ZIP_STORED:
                raise _Refused("it is a compressed archive, which PyTorch does not write")
            budget.spend(info.file_size)
            return archive.read(info)

        if f"{root}byteorder" in members and read(f"{root}byteorder") != b"little":
            raise _Refused("its numbers are big-endian")

        def load(identifier: Any) -> _Storage:
            key, dtype, count = _identified_storage(identifier)
            if key not in known:
                raw = read(f"{root}data/{key}")
                if len(raw) < count * dtype.itemsize:
                    raise _Refused("a storage is shorter than it says")
                known[key] = _Storage(dtype, count, raw)
            return known[key]

        return _Machine(budget, load).run(_Stream(read(roots[0])))


def safe_unpickle(path: str | os.PathLike[str]) -> Any:
    """Return what a pickle or a PyTorch checkpoint holds, as data; nothing in it is run.

    Containers, texts, numbers, NumPy arrays, tensors on the CPU (read-only views), and `Record` for NVIDIA's networks, TensorFlow
    networks and argparse namespaces. Memory is bounded by a few times the file's size. Raises LaceError, in one sentence, for a file that
    is none, is damaged, or asks for anything else.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        budget = _Budget(MAX_OPCODES, 4 * size + 2**24)
        if zipfile.is_zipfile(path):
            return _read_zip(path, budget)
        with open(path, "rb") as stream:
            if size == 0:
                raise _Refused("it is empty")
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        legacy = data[: len(_LEGACY_MAGIC)] == _LEGACY_MAGIC
        return _read_legacy(data, budget) if legacy else _Machine(budget).run(_Stream(data))
    except FileNotFoundError as error:
        raise LaceError(f"The file '{path}' was required and does not exist: check the path.") from error
    except _Refused as refused:
        raise LaceError(f"The file '{path}' must hold data alone and was not read: {refused}. Nothing in it was run; ask its author for "
                        "a safetensors file or a plain state dict.") from None
    except Exception as error:
        # The machine meets damage in many ways (an empty stack, half a number, no UTF-8), and all of them mean the same.
        raise LaceError(f"The file '{path}' must be a pickle or a PyTorch checkpoint and is damaged or something else "
                        f"({type(error).__name__}): get it again.") from None


def tensors_of(record: Record) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of every parameter and buffer of one of NVIDIA's networks, as its state dict would name them."""
    yield from _tensors_of(record, "", 0)


def _tensors_of(record: Record, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    state = record.attributes
    if depth > 16:
        raise LaceError("The network in the file contains itself: get the file again.")
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, module in (state.get("_modules") or {}).items():
        if isinstance(module, Record):
            yield from _tensors_of(module, f"{prefix}{name}.", depth + 1)
