"""Nodes of the configuration: a class or function by name, with arguments that are checked before anything is built."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypeVar

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..artifacts import digest
from ..errors import LaceError, suggest

T = TypeVar("T")
MISSING = "???"
# Hydra's own keys of a node.
OPTIONS = ("_target_", "_convert_", "_partial_", "_recursive_", "_args_")
# Objects that were built in this process, by the digest of their node: jobs of a sweep load nothing twice.
BUILT: dict[str, Any] = {}
_PLAIN = (int, float, str, bool, type(None), Any, PathLike)


def cached(kind: str, key: Any, make: Callable[[], T]) -> T:
    """Return an object that is built once for each key in this process.

    Args:
        kind: kind of the object; keys of different kinds are different.
        key: everything that the object depends on, as `digest` takes it.
        make: builds the object.

    Example:
        >>> cached("list", [1], list) is cached("list", [1], list)
        True
    """
    name = f"{kind}-{digest(key)}"
    if name not in BUILT:
        BUILT[name] = make()
    result: T = BUILT[name]
    return result


@dataclass(frozen=True)
class Node:
    """A class or function of the configuration with its arguments.

    Args:
        key: dotted key of the node in the configuration, for messages.
        content: the node in plain containers, with `_target_`.

    Example:
        >>> node = Node("sampler", {"_target_": "lace_lightning.samplers.Langevin", "num_steps": 5})
        >>> node.name, node.arguments, node.build().num_steps
        ('Langevin', {'num_steps': 5}, 5)
    """

    key: str
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The dotted name of the class or function."""
        return str(self.content["_target_"])

    @property
    def name(self) -> str:
        """The name of the object: its setting `name`, or the name of its class."""
        return str(self.content.get("name") or self.target.rsplit(".", 1)[-1])

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments, without Hydra's own keys."""
        return {name: value for name, value in self.content.items() if name not in OPTIONS}

    def get(self, name: str, default: Any = None) -> Any:
        """Return one argument, or the default where it is not given."""
        return self.content.get(name, default)

    def object(self) -> Any:
        """Return the class or function. Raises LaceError where it cannot be imported."""
        try:
            return get_object(self.target)
        except Exception as error:
            raise LaceError(
                f"The setting {self.key}._target_ must name a class or function that can be imported, and "
                f"'{self.target}' cannot ({' '.join(str(error).split())[:200]}): correct it, or put its folder on "
                "PYTHONPATH."
            ) from error

    def build(self, *without: str, **more: Any) -> Any:
        """Return a new object.

        Args:
            without: names of arguments that are left out.
            more: further arguments, which replace those of the node.

        Raises:
            LaceError: when the constructor fails; its own LaceError is raised unchanged.
        """
        content = {name: value for name, value in {**self.content, **more}.items() if name not in without}
        try:
            return instantiate(OmegaConf.create(content))
        except HydraException as error:
            if isinstance(error.__cause__, LaceError):
                raise error.__cause__ from None
            raise LaceError(f"The setting '{self.key}': {' '.join(str(error).split())}") from error

    def check(self, given_later: tuple[str, ...] = (), also: tuple[str, ...] = ()) -> None:
        """Check the arguments against the signature of the class, also of nodes inside of them.

        Args:
            given_later: arguments that the program adds.
            also: further keys that the node may have.

        Raises:
            LaceError: for an unknown, missing or wrongly typed argument.
        """
        check_arguments(self.key, self.object(), self.arguments, given_later, also, bool(self.get("_partial_")))
        for name, value in self.arguments.items():
            if isinstance(value, Mapping) and "_target_" in value:
                Node(f"{self.key}.{name}", value).check()


def check_arguments(
    key: str,
    target: Any,
    arguments: Mapping[str, Any],
    given_later: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    is_partial: bool = False,
) -> None:
    """Check arguments against the signature of a class or function.

    Args:
        key: dotted key of the node in the configuration, for messages.
        target: the class or function.
        arguments: values by name.
        given_later: arguments that the program adds.
        also: further keys that the node may have.
        is_partial: accept missing arguments, because a later call adds them.

    Raises:
        LaceError: for an unknown, missing or wrongly typed argument.

    Example:
        >>> from lace_lightning.numerics.precision import check_precision
        >>> check_arguments("net", check_precision, {})
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The setting 'net.precision' is required and not given: add net.precision=...
    """
    parameters, is_open = parameters_of(target)
    names = [name for name in parameters if name not in given_later]
    for name in arguments:
        if name not in parameters and name not in also and not is_open:
            raise LaceError(
                f"There is no setting '{key}.{name}': {key} takes {', '.join([*names, *also]) or 'nothing'}."
                f"{suggest(name, [*names, *also])}"
            )
    for name, value in arguments.items():
        if value == MISSING:
            raise LaceError(f"The setting '{key}.{name}' needs a value and has none: give {key}.{name}=...")
        if name in parameters and not (isinstance(value, Mapping) and "_target_" in value):
            check_type(f"{key}.{name}", parameters[name][1], value)
    for name, (parameter, _) in parameters.items():
        required = parameter.default is parameter.empty and name not in given_later
        if required and name not in arguments and not is_partial:
            raise LaceError(f"The setting '{key}.{name}' is required and not given: add {key}.{name}=...")


def parameters_of(target: Any) -> tuple[dict[str, tuple[inspect.Parameter, Any]], bool]:
    """Return the parameters of a class or function with their types, and whether it accepts other names.

    A class whose constructor has `**options` takes the parameters of its base classes too.

    Args:
        target: the class or function.

    Returns:
        Pairs (parameter, type) by name, and whether any other name is accepted.

    Example:
        >>> from lace_lightning.samplers import Langevin
        >>> parameters, is_open = parameters_of(Langevin)
        >>> list(parameters), is_open
        (['num_steps', 'step_size', 'noise_std'], False)
    """
    found: dict[str, tuple[inspect.Parameter, Any]] = {}
    is_open, is_own = False, True
    for one in target.__mro__ if inspect.isclass(target) else [target]:
        function = one.__dict__.get("__init__") if inspect.isclass(one) else one
        if function is None or one is object:
            continue
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return found, True
        try:
            hints = typing.get_type_hints(function)
        except Exception:
            hints = {}
        is_open = False
        for name, parameter in signature.parameters.items():
            if parameter.kind == parameter.VAR_KEYWORD:
                is_open = True
            elif name != "self" and parameter.kind != parameter.VAR_POSITIONAL:
                # A base class may get what it requires from the constructor of its subclass.
                own = (
                    parameter if is_own or parameter.default is not parameter.empty else parameter.replace(default=None)
                )
                found.setdefault(name, (own, hints.get(name, Any)))
        is_own = False
        if not is_open:
            break
    return found, is_open


def check_type(key: str, hint: Any, value: Any) -> None:
    """Check that a value has the type of a hint.

    Args:
        key: dotted key of the value in the configuration, for messages.
        hint: the type; only types of numbers, texts, None and containers of them are checked.
        value: the value.

    Raises:
        LaceError: for a value of another type.

    Example:
        >>> check_type("sampler.num_steps", int, "many")
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The setting 'sampler.num_steps' must be a whole number, received 'many'.
    """
    if not _is_plain(hint):
        return
    try:
        if isinstance(value, str) and not _takes(hint, str):
            raise ValueError("text")
        if isinstance(value, bool) and not _takes(hint, bool):
            raise ValueError("true or false")
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except (ValidationError, ValueError):
        raise LaceError(f"The setting '{key}' must be {describe_type(hint)}, received {value!r}.") from None


def _parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint)


def _is_plain(hint: Any) -> bool:
    """Return whether a type consists of numbers, text, None and containers of them."""
    if hint in _PLAIN or typing.get_origin(hint) is PathLike:
        return True
    if typing.get_origin(hint) is typing.Literal:
        return True
    arguments = [part for part in _parts(hint) if part is not Ellipsis]
    return bool(arguments) and typing.get_origin(hint) is not typing.Annotated and all(map(_is_plain, arguments))


def _takes(hint: Any, kind: type) -> bool:
    if hint in (kind, Any) or (kind is str and (hint is PathLike or typing.get_origin(hint) is PathLike)):
        return True
    if typing.get_origin(hint) is typing.Literal:
        return any(isinstance(option, kind) for option in _parts(hint))
    return "Union" in str(typing.get_origin(hint)) and any(_takes(part, kind) for part in _parts(hint))


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


def describe_type(hint: Any) -> str:
    """Return a type in plain words.

    Args:
        hint: the type.

    Example:
        >>> describe_type(list[float] | None)
        'a list of a number or null'
    """
    if isinstance(hint, type) and hint in _NAMES:
        return _NAMES[hint]
    if hint is Any:
        return "anything"
    if typing.get_origin(hint) is Callable:
        return "a function"
    origin, arguments = typing.get_origin(hint), _parts(hint)
    if origin is typing.Annotated:
        return describe_type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(str(option) for option in arguments)
    if origin is PathLike or hint is PathLike:
        return "a path"
    if "Union" in str(origin):
        return " or ".join(dict.fromkeys(describe_type(part) for part in arguments))
    if origin is not None and issubclass(origin, Mapping):
        return f"a table of {describe_type(arguments[1])}" if len(arguments) > 1 else "a table"
    if origin in (tuple,) or (origin is not None and inspect.isclass(origin)):
        inner = [part for part in arguments if part is not Ellipsis]
        return f"a list of {' and '.join(dict.fromkeys(map(describe_type, inner)))}" if inner else "a list"
    return str(getattr(hint, "__name__", hint))
