"""Identity of code that is not of this package: names, sources of modules, and attributes of networks."""

from __future__ import annotations

import ast
import dis
import hashlib
import importlib
import importlib.metadata
import inspect
import linecache
import os
import sys
import sysconfig
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from .artifacts import digest
from .errors import LaceError, in_one_line, printable

PACKAGE = __name__.partition(".")[0]
_PLAIN = (int, float, complex, str, bytes, bool, type(None))
# Attributes that every module of torch has; they say nothing of what it computes in evaluation.
_STATE = (*vars(nn.Module()), "dump_patches", "call_super_init")


def code_of(target: Any) -> dict[str, Any]:
    """Return what identifies the code of a class or function.

    Code of this package is identified by the package's version and counts as nothing here. Code of an installed
    library counts by its name and version. Any other code counts by its name and by the source of its module and of
    the modules that it imports, except installed ones.

    Args:
        target: a class, a function or another object, which stands for its class.

    Returns:
        Plain values; none for code of this package.

    Example:
        >>> code_of(nn.Linear)["name"], code_of(digest)
        ('torch.nn.modules.linear.Linear', {})
    """
    if isinstance(target, partial):
        return {**code_of(target.func), "arguments": _Description()([target.args, target.keywords])}
    if not (inspect.isclass(target) or inspect.isroutine(target)):
        target = type(target)
    name = str(getattr(target, "__module__", None) or "builtins")
    top = name.partition(".")[0]
    if top == PACKAGE:
        return {}
    result: dict[str, Any] = {"name": f"{name}.{getattr(target, '__qualname__', target)}"}
    module = sys.modules.get(name)
    file = _file(module)
    if file is None:
        return result if top in sys.stdlib_module_names else {**result, "code": _bytecode(target), **_values(target)}
    if not _is_own(file):
        return result if top in sys.stdlib_module_names or top == "torch" else {**result, "version": _version(top)}
    assert module is not None
    return {**result, "source": sources_of(module), **_values(target)}


def sources_of(module: ModuleType) -> str:
    """Return the digest of the source of a module and of those that it imports, except installed ones and this package.

    Args:
        module: an imported module with a file.

    Returns:
        16 hexadecimal digits.
    """
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        file = _file(current)
        # A checkout of this package is not installed, and counts by its version all the same.
        is_ours = current.__name__.partition(".")[0] == PACKAGE
        if current.__name__ in seen or is_ours or file is None or not _is_own(file):
            continue
        is_package = bool(getattr(current, "__path__", None))
        seen[current.__name__], names = _parsed(file.read_bytes(), current.__name__, is_package)
        for name in names:
            found = sys.modules.get(name) or _beside(name, file, current.__name__)
            if found is not None:
                waiting.append(found)
    return digest(seen)


def identity_of(module: Any) -> str:
    """Return the digest of a network with a `digest` of its own, and of code and attributes of its foreign parts.

    A network of this package says by its own digest all that it computes. Others are described from outside: the
    code of their classes, and every plain attribute of their modules.

    Args:
        module: a Generator, Labeler or another module with a `digest`.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> slopes = [nn.LeakyReLU(0.1), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)]
        >>> for module in slopes:
        ...     module.digest = "no weights"
        >>> identity_of(slopes[0]) == identity_of(slopes[1]), identity_of(slopes[0]) == identity_of(slopes[2])
        (True, False)
    """
    foreign = {}
    described = _Description()
    described.seen |= {id(part): part for part in module.modules()}
    for name, part in module.named_modules():
        for key, value in _attributes(part, described, has_digest=True):
            foreign[f"{name}.{key}"] = value
    return digest({"digest": module.digest, "foreign": foreign}) if foreign else str(module.digest)


def description_of(value: Any) -> Any:
    """Return a description of any object in plain values: of its content, its code, and all that it holds.

    Args:
        value: the object, such as an energy.

    Example:
        >>> description_of(nn.LeakyReLU(0.1)) == description_of(nn.LeakyReLU(0.2))
        False
    """
    return _Description()(value)


def user_line(error: BaseException) -> str:
    """Return the line of the user's own code in which an error was raised, for a message.

    It is the innermost line that is neither of this package nor installed.

    Args:
        error: the error, with its traceback.

    Returns:
        A text such as ", in decoder.py:12 `return self.net(z)`"; an empty text where no line is the user's.

    Example:
        >>> user_line(ValueError())
        ''
    """
    for frame, number in reversed(list(user_frames(error))):
        name = frame.f_code.co_filename
        text = linecache.getline(name, number, frame.f_globals).strip()
        place = printable(f"{name if name.startswith('<') else Path(name).name}:{number}")
        return f", in {place}" + (f" `{printable(text[:100])}`" if text else "")
    return ""


def user_frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of an error that are of the user's own code, with the number of the line, outermost first.

    Args:
        error: the error, with its traceback.
    """
    package = Path(__file__).parent
    for frame, number in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        # Code that was typed in has a name in brackets, which is no file.
        is_typed = name.startswith("<") and not name.startswith("<frozen")
        file = Path(name)
        if is_typed or (file.is_file() and _is_own(file) and package not in file.resolve().parents):
            yield frame, number


def imported(name: str, setting: str) -> Callable[..., Any]:
    """Return the function of a dotted name.

    Args:
        name: its name as package.module.name.
        setting: name of the setting, for messages.

    Raises:
        LaceError: when it cannot be imported, and for a value that cannot be called.

    Example:
        >>> imported("torch.tanh", "generator.function") is torch.tanh
        True
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise LaceError(
            f"{setting} must be the name of a Python function such as my_package.my_module.my_function, and '{name}' "
            f"could not be imported ({in_one_line(error)}{user_line(error)}): check the name and PYTHONPATH."
        ) from None
    if not callable(found):
        raise LaceError(
            f"{setting} must be the name of a Python function, and '{name}' is a value of type "
            f"{type(found).__name__}: name a function."
        )
    result: Callable[..., Any] = found
    return result


def source_of(function: Callable[..., Any]) -> dict[str, str]:
    """Return name and source of a function, for digests.

    Args:
        function: the function.

    Returns:
        `function` and `source`, which is empty where there is none.

    Example:
        >>> source_of(torch.tanh)["source"]
        ''
    """
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""
    name = getattr(function, "__qualname__", type(function).__name__)
    return {"function": f"{getattr(function, '__module__', '')}.{name}", "source": source}


def _attributes(part: nn.Module, described: _Description, has_digest: bool) -> Iterator[tuple[str, Any]]:
    """Yield what a module computes with besides its weights; functions alone for one that a digest describes."""
    kind = type(part)
    is_own = has_digest and kind.__module__.partition(".")[0] == PACKAGE
    if not is_own:
        yield "class", code_of(kind) or f"{kind.__module__}.{kind.__qualname__}"
        # The state of a module leaves these out.
        for key in sorted(part._non_persistent_buffers_set):
            yield key, described(part._buffers[key])
        for key in ("_forward_hooks", "_forward_pre_hooks"):
            if hooks := getattr(part, key):
                yield key, described(list(hooks.values()))
    for key, value in vars(part).items():
        is_code = callable(value) and not isinstance(value, nn.Module) and bool(code_of(value))
        if is_code or (not is_own and key not in _STATE and not key.startswith("__")):
            yield key, described(value)


class _Description:
    """Descriptions of any objects in plain values, without addresses; an object that holds itself ends.

    Containers, arrays and networks count by their content, functions by their code and by the values that it uses,
    other objects by their class and attributes. Objects of the standard library that show an address count by class.
    """

    def __init__(self) -> None:
        # The objects are kept: another one must not get the address of one that was seen.
        self.seen: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return repr(value)
        if id(value) in self.seen:
            return "seen"
        self.seen[id(value)] = value
        try:
            return self._content(value)
        # Objects of others may refuse to be read, or be nested without end.
        except Exception:
            return type(value).__qualname__

    def _content(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            return self(value.tolist())
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return digest(value)
        if value is os.environ or isinstance(value, ModuleType):
            return getattr(value, "__name__", "environ")
        if isinstance(value, Mapping):
            return {str(key): self(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted(digest(self(item)) for item in value)
        if isinstance(value, nn.Module):
            self.seen |= {id(part): part for part in value.modules()}
            parts = {name: dict(_attributes(part, self, has_digest=False)) for name, part in value.named_modules()}
            return {"state": digest(dict(value.state_dict())), "parts": parts}
        if isinstance(value, partial):
            return [self(value.func), self(value.args), self(value.keywords)]
        if inspect.isclass(value) or inspect.isroutine(value):
            return [code_of(value), self(getattr(value, "__self__", None))]
        return self._object(value)

    def _object(self, value: Any) -> Any:
        kind = type(value)
        code = code_of(kind) or f"{kind.__module__}.{kind.__qualname__}"
        slots = [name for base in kind.__mro__ for name in _names(getattr(base, "__slots__", ()))]
        inside = {**{name: getattr(value, name, None) for name in slots}, **getattr(value, "__dict__", {})}
        is_library = kind.__module__.partition(".")[0] in sys.stdlib_module_names
        if not inside or (is_library and not isinstance(value, (Namespace, SimpleNamespace))):
            text = repr(value)
            return [code, "" if " at 0x" in text else text]
        return [code, {name: self(item) for name, item in inside.items() if not name.startswith("__")}]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


# Values that functions and classes use, as they were when they were first asked for: code may keep something there.
_VALUES: dict[Any, dict[str, Any]] = {}


def _values(target: Any) -> dict[str, Any]:
    """Return the values from outside that a user's function, or the methods of a class, compute with; none for none.

    These are defaults, enclosed values, and global ones that the code does not set itself, also those of functions that
    it calls. The source of functions and classes is counted elsewhere.
    """
    target = getattr(target, "__func__", target)
    if target not in _VALUES:
        # It may hold itself.
        _VALUES[target] = {}
        classes = target.__mro__ if inspect.isclass(target) else ()
        members = {
            f"{one.__qualname__}.{name}": member
            for one in classes
            if one is target or _is_users(one.__module__)
            for name, member in vars(one).items()
            if not name.startswith("__") or _function_of(member)
        } or {"": target}
        functions = [function for member in members.values() if (function := _function_of(member))]
        others = {name: member for name, member in members.items() if not _function_of(member)}
        _VALUES[target] = _values_of(functions) | {name: _Description()(member) for name, member in others.items()}
    return {"values": _VALUES[target]} if _VALUES[target] else {}


def _values_of(functions: list[FunctionType]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    described, done = _Description(), set()
    while functions:
        function = functions.pop()
        if function in done:
            continue
        done.add(function)
        for name, value in _uses(function).items():
            inner = _function_of(value)
            if inner is None and not inspect.isclass(value) and not isinstance(value, ModuleType):
                found[f"{function.__module__}.{function.__qualname__}.{name}"] = described(value)
            elif inner is not None and _is_users(inner.__module__):
                functions.append(inner)
    return found


def _is_users(name: str) -> bool:
    """Return whether a module is the user's: neither of this package nor installed."""
    file = _file(sys.modules.get(name))
    return name.partition(".")[0] != PACKAGE and file is not None and _is_own(file)


def _uses(function: FunctionType) -> dict[str, Any]:
    uses: dict[str, Any] = {}
    if function.__defaults__ or function.__kwdefaults__:
        uses["()"] = [function.__defaults__, function.__kwdefaults__]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        # A cell is empty where the name was not set.
        with suppress(ValueError):
            uses[name] = cell.cell_contents
    names = _global_names(function.__code__)
    return uses | {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}


def _function_of(value: Any) -> Any:
    """Return the Python function behind a function, a method or a property, None for anything else."""
    value = getattr(value, "fget", None) or getattr(value, "__func__", value)
    value = inspect.unwrap(value) if callable(value) else value
    return value if inspect.isfunction(value) else None


def _global_names(code: CodeType) -> set[str]:
    """Return the global names that code reads and does not set, also in functions inside of it."""
    instructions = list(dis.get_instructions(code))
    read = {str(one.argval) for one in instructions if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    written = {str(one.argval) for one in instructions if one.opname == "STORE_GLOBAL"}
    for part in code.co_consts:
        if isinstance(part, CodeType):
            read |= _global_names(part)
    return read - written


def _file(module: ModuleType | None) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name) if name and name.endswith(".py") and Path(name).is_file() else None


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(path).resolve() for name in names if (path := sysconfig.get_paths().get(name))})


def _is_own(file: Path) -> bool:
    """Return whether a file is the user's: neither of the standard library nor installed."""
    file = file.resolve()
    return not any(folder in file.parents for folder in _installed()) and "site-packages" not in file.parts


@cache
def _version(top: str) -> str:
    names = importlib.metadata.packages_distributions().get(top, [])
    return ", ".join(sorted(f"{name} {importlib.metadata.version(name)}" for name in set(names)))


def _bytecode(target: Any) -> str:
    """Return the digest of compiled code, for classes and functions that were typed in and have no file."""

    def described(code: CodeType) -> list[Any]:
        inner = [described(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
        return [code.co_code.hex(), list(code.co_names), inner]

    members = vars(target).values() if inspect.isclass(target) else [target]
    codes = [getattr(getattr(member, "__func__", member), "__code__", None) for member in members]
    return digest([described(code) for code in codes if isinstance(code, CodeType)])


@lru_cache(maxsize=1000)
def _parsed(content: bytes, name: str, is_package: bool) -> tuple[str, list[str]]:
    """Return the checksum of a source and its imports; a network has many modules of one source."""
    return hashlib.sha256(content).hexdigest(), _imports(content, name, is_package)


def _imports(content: bytes, name: str, is_package: bool) -> list[str]:
    """Return the names of the modules that a source imports, wherever in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            found += [whole, *(f"{whole}.{alias.name}" for alias in node.names)]
    # A package is executed before the modules in it.
    return [".".join(one.split(".")[:end]) for one in found if one for end in range(1, one.count(".") + 2)]


def _beside(name: str, file: Path, importer: str) -> ModuleType | None:
    """Return a stand-in for a module that is not imported yet and lies beside its importer; None where it does not."""
    relative = Path(*name.split("."))
    # The folder of a script, and the folder of the importer's outermost package.
    depth = importer.count(".") + (file.name == "__init__.py")
    for folder in (file.parent, file.parents[min(depth, len(file.parents) - 1)]):
        for candidate in (folder / relative.with_suffix(".py"), folder / relative / "__init__.py"):
            if candidate.is_file():
                module = ModuleType(name)
                module.__file__ = str(candidate)
                if candidate.name == "__init__.py":
                    module.__path__ = [str(candidate.parent)]
                return module
    return None
