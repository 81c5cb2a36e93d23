"""Identity of code that is not of this package: names, sources of modules, and attributes of networks."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from .artifacts import digest

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
        given = {"arguments": repr(target.args), "keywords": repr(sorted(target.keywords.items()))}
        return {**code_of(target.func), **given}
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
        return result if top in sys.stdlib_module_names else {**result, "code": _bytecode(target)}
    if not _is_own(file):
        return result if top in sys.stdlib_module_names or top == "torch" else {**result, "version": _version(top)}
    assert module is not None
    return {**result, "source": sources_of(module)}


def sources_of(module: ModuleType) -> str:
    """Return the digest of the source of a module and of the modules that it imports, except installed ones.

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
        if current.__name__ in seen or file is None or not _is_own(file):
            continue
        content = file.read_bytes()
        seen[current.__name__] = hashlib.sha256(content).hexdigest()
        for name in _imports(content, current.__name__, bool(getattr(current, "__path__", None))):
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
    for name, part in module.named_modules():
        for key, value in _attributes(part):
            foreign[f"{name}.{key}"] = value
    return digest({"digest": module.digest, "foreign": foreign}) if foreign else str(module.digest)


def _attributes(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a module of another package computes with besides its weights, and functions it holds."""
    is_own = type(part).__module__.partition(".")[0] == PACKAGE
    if not is_own:
        yield "class", code_of(type(part))
    for key, value in vars(part).items():
        if callable(value) and not isinstance(value, nn.Module) and code_of(value):
            yield key, code_of(value)
        elif not is_own and key not in _STATE and not key.startswith("__") and (plain := _plain(value)) is not None:
            yield key, plain


def _plain(value: Any) -> Any:
    """Return a plain value or container of them in a form that can be digested, None for anything else."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, _PLAIN) for item in value):
        return [repr(item) for item in value]
    if isinstance(value, Mapping) and value and all(isinstance(item, _PLAIN) for item in value.values()):
        return {str(key): repr(item) for key, item in value.items()}
    return None


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
