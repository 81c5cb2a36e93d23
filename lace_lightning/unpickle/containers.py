"""Containers, bytes, and records of objects whose classes are not built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .machine import Machine
from .values import Name, Names, Record, Refused, checked_key


def _set(machine: Machine, items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in sequence(machine, items)}


def sequence(machine: Machine, items: Any) -> Any:
    """Return items that a container is built from, and count their memory.

    Args:
        machine: the machine that builds the container; its budget is charged 8 bytes for each item.
        items: a list, tuple or set.

    Returns:
        The same items.

    Raises:
        Refused: for items of another type, and when the budget is spent.

    Example:
        >>> from lace_lightning.unpickle.values import Budget
        >>> machine = Machine(Names(), Budget(opcodes=10, memory=100))
        >>> sequence(machine, [1, 2]), machine.budget.memory
        ([1, 2], 84)
    """
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise Refused(f"it builds a container from a {type(items).__name__}")
    # A list that is copied many times is small in the file and large in memory.
    machine.budget.spend(8 * len(items))
    return items


def _list(machine: Machine, items: Any = ()) -> list[Any]:
    return list(sequence(machine, items))


def _dict(machine: Machine, items: Any = ()) -> dict[Any, Any]:
    """Return the table of an OrderedDict (pairs) or an EasyDict (table)."""
    pairs = (
        list(items.items())
        if isinstance(items, dict)
        else [tuple(sequence(machine, pair)) for pair in sequence(machine, items)]
    )
    machine.budget.spend(64 * len(pairs))
    if any(len(pair) != 2 for pair in pairs):
        raise Refused("it builds a table from items that are not pairs")
    return {checked_key(key): value for key, value in pairs}


def _encode(machine: Machine, text: Any, encoding: Any = "latin1") -> bytes:
    """Return bytes that protocols before 3 wrote as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise Refused("it encodes a value that is not text")
    machine.budget.spend(len(text))
    return text.encode(encoding)


def _bytearray(machine: Machine, data: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(data, str):
        return _encode(machine, data, encoding)
    if not isinstance(data, bytes):
        raise Refused("it builds bytes from a value of another type")
    return data


def _persistent_object(machine: Machine, meta: Any) -> Record:
    """Return one of NVIDIA's networks with its class name and state; its source code is ignored."""
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
