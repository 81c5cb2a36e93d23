"""Checks of the arguments of generators, which may come from files: kinds, bounds and names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np

from ..errors import LaceError, in_one_line, quoted, suggest

# Side of the largest pictures.
MAX_RESOLUTION = 4096
# Layers of a mapping or synthesis network. Published networks have at most 18.
MAX_LAYERS = 128
# Channels, latents and conditions: what a matrix of this many rows and columns has is still counted in 64 bits.
MAX_WIDTH = 2**20


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a value is a whole number, of Python or NumPy, and not true or false.

    Args:
        value: anything.

    Example:
        >>> is_whole(2), is_whole(2.0), is_whole(True)
        (True, False, False)
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, of Python or NumPy, and not true or false.

    Args:
        value: anything.

    Example:
        >>> is_number(2), is_number(0.5), is_number("0.5"), is_number(float("nan"))
        (True, True, False, False)
    """
    return (is_whole(value) or isinstance(value, (float, np.floating))) and bool(-1e300 < value < 1e300)


def require_whole(name: str, value: Any, low: int, high: int = MAX_WIDTH) -> int:
    """Return an argument that must be a whole number between two bounds.

    Args:
        name: name of the argument, for messages.
        value: what was given.
        low: smallest value.
        high: largest value.

    Raises:
        LaceError: for anything else.

    Example:
        >>> require_whole("num_layers", 8, 1)
        8
    """
    if not is_whole(value) or not low <= value <= high:
        _refuse(name, f"a whole number from {low} to {high}", value)
    return int(value)


def require_number(name: str, value: Any, above: float | None = None, optional: bool = False) -> float | None:
    """Return an argument that must be a finite number.

    Args:
        name: name of the argument, for messages.
        value: what was given.
        above: bound that the number must exceed; None for none.
        optional: whether None is allowed.

    Raises:
        LaceError: for anything else.

    Example:
        >>> require_number("conv_clamp", 256, above=0)
        256.0
    """
    if value is None and optional:
        return None
    if not is_number(value) or (above is not None and not value > above):
        _refuse(name, "a finite number" + ("" if above is None else f" above {above:g}"), value, optional)
    return float(value)


def require_resolution(value: Any) -> int:
    """Return the side of pictures, which must be a power of two from 4 to 4096.

    Args:
        value: what was given.

    Raises:
        LaceError: for anything else.

    Example:
        >>> require_resolution(32)
        32
    """
    if not is_whole(value) or not 4 <= value <= MAX_RESOLUTION or value & (value - 1):
        _refuse("img_resolution", f"a power of two from 4 to {MAX_RESOLUTION}", value)
    return int(value)


def require_choice(name: str, value: Any, choices: tuple[Any, ...], fix: str = "correct it") -> Any:
    """Return an argument that must be one of several values.

    Args:
        name: name of the argument, for messages.
        value: what was given.
        choices: the values.
        fix: what to do, the end of the message.

    Raises:
        LaceError: for anything else.

    Example:
        >>> require_choice("architecture", "skip", ("skip", "resnet", "orig"))
        'skip'
    """
    if not isinstance(value, (str, bool)) or value not in choices:
        _refuse(name, " or ".join(map(str, choices)), value, fix=fix)
    return value


def _refuse(name: str, required: str, value: Any, optional: bool = False, fix: str = "correct it") -> None:
    received = quoted(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    raise LaceError(
        f"The argument {name} of a generator must be {required}{' or null' if optional else ''}, received "
        f"{received if isinstance(value, str) else received.strip(chr(39))}: {fix}."
    )


def names_of(*functions: Callable[..., Any], without: Iterable[str] = ("self",)) -> tuple[str, ...]:
    """Return the names of the arguments of functions, without those that take any name.

    Args:
        functions: functions or classes.
        without: names to leave out.

    Example:
        >>> names_of(require_resolution)
        ('value',)
    """
    return tuple(
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) and name not in without
    )


def checked_table(group: str, given: Any, known: Iterable[str], ignored: Iterable[str] = ()) -> dict[str, Any]:
    """Return a table of arguments, in which every name must be known.

    Args:
        group: name of the table, for messages.
        given: the table; None for an empty one.
        known: names that there are.
        ignored: names that are left out, because they change no picture.

    Raises:
        LaceError: for an unknown name, and for what is no table.

    Example:
        >>> checked_table("mapping_kwargs", {"num_layers": 2, "w_avg_beta": 0.9}, ["num_layers"], ["w_avg_beta"])
        {'num_layers': 2}
    """
    known = list(known)
    if not isinstance(given, Mapping | None):
        _refuse(group, "a table", given, optional=True)
    table = {str(name): value for name, value in (given or {}).items()}
    for name in table:
        if name not in known and name not in ignored:
            raise LaceError(
                f"The table {group} of a generator must have the names {', '.join(known)}, received {quoted(name)}: "
                f"remove it.{suggest(name[:60], known)}"
            )
    return {name: value for name, value in table.items() if name not in ignored}


def built(kind: str, make: Callable[[], Any]) -> Any:
    """Return what a function builds; settings that no network can be built from are refused.

    Args:
        kind: kind of the network, for messages.
        make: the function.

    Raises:
        LaceError: when the function fails in any way that wrong numbers cause.

    Example:
        >>> built("StyleGAN3", lambda: 1)
        1
    """
    try:
        return make()
    except LaceError:
        raise
    except (ArithmeticError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise LaceError(
            f"The settings of a {kind} network must make a network and do not ({in_one_line(error, 100)}): correct "
            "them, or get the file again."
        ) from error
