"""Containers, bytes, and records of what is not built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .machine import Machine
from .values import Name, Names, Record, Refused, checked_key


def _set(machine: Machine, items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in sequence(machine, items)}


def sequence(machine: Machine, items: Any) -> Any:
    """Return `items`, which are to be copied. Raises Refused for what is no sequence."""
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise Refused(f"it makes a container of a {type(items).__name__}")
    # What is copied again and again is small in the file and large in memory.
    machine.budget.spend(8 * len(items))
    return items


def _list(machine: Machine, items: Any = ()) -> list[Any]:
    return list(sequence(machine, items))


def _dict(machine: Machine, items: Any = ()) -> dict[Any, Any]:
    """OrderedDict(pairs), EasyDict(dict)."""
    pairs = (
        list(items.items())
        if isinstance(items, dict)
        else [tuple(sequence(machine, pair)) for pair in sequence(machine, items)]
    )
    machine.budget.spend(64 * len(pairs))
    if any(len(pair) != 2 for pair in pairs):
        raise Refused("it makes a table of what are no pairs")
    return {checked_key(key): value for key, value in pairs}


def _encode(machine: Machine, text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as protocols before 3 wrote them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise Refused("it encodes what is no text")
    machine.budget.spend(len(text))
    return text.encode(encoding)


def _bytearray(machine: Machine, data: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(data, str):
        return _encode(machine, data, encoding)
    if not isinstance(data, bytes):
        raise Refused("it makes bytes of what are none")
    return data


def _persistent_object(machine: Machine, meta: Any) -> Record:
    """NVIDIA's networks: class name and state; their source, which comes beside, is not looked at."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise Refused("it holds a network without the name of its class")
    return Record(meta["class_name"], (), meta.get("state"))


def _record(name: str) -> Callable[..., Record]:
    return lambda machine, *arguments: Record(name, arguments)


def _reconstructor(machine: Machine, cls: Any, base: Any = None, state: Any = None) -> Any:
    # Protocols 0 and 1: the content of a subclass of a container comes as its state.
    return machine.call(cls, () if state is None else (state,))


def _defaultdict(machine: Machine, factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return _dict(machine, items)


def _record_state(machine: Machine, target: Record, state: Any) -> None:
    target.state = state


NAMES = Names(
    {
        Name("collections", "OrderedDict"): _dict,
        Name("builtins", "dict"): _dict,
        Name("collections", "defaultdict"): _defaultdict,
        Name("collections", "Counter"): _dict,
        Name("dnnlib.util", "EasyDict"): _dict,
        Name("dnnlib", "EasyDict"): _dict,
        Name("builtins", "set"): _set,
        Name("builtins", "frozenset"): _set,
        Name("builtins", "bytearray"): _bytearray,
        Name("builtins", "bytes"): _bytearray,
        Name("builtins", "list"): _list,
        Name("_codecs", "encode"): _encode,
        Name("copyreg", "_reconstructor"): _reconstructor,
        Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
        Name("dnnlib.tflib.network", "Network"): _record("tensorflow.Network"),
        Name("argparse", "Namespace"): _record("Namespace"),
    },
    frozenset(Name("builtins", name) for name in ("object", "int", "long", "float", "str", "bool")),
    # Attributes of an OrderedDict (_metadata) are no items.
    {Record: _record_state, dict: lambda machine, target, state: None},
)
