"""Former names of settings and of groups, which are accepted for one version with a note."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Former key -> key.
KEYS = {
    "task.num_pairs": "pairs.count",
    "task.pairs_seed": "pairs.seed",
    "task.pairs_batch_size": "pairs.batch_size",
    "task.pairs_pictures": "pairs.pictures",
    "task.pairs_truncation": "pairs.truncation",
    "task.more_pairs": "pairs.more",
    "task.pairs_from": "pairs.source",
    "task.holdout": "pairs.holdout",
    "callbacks.pictures_per_class": "metrics.pictures_per_class",
    "callbacks.progress": "metrics.progress",
}
# Former group -> group.
GROUPS = {"network": "training", "setting": "domain"}


def note(former: str, name: str) -> None:
    """Print a note on stderr that a setting has another name now.

    Args:
        former: the name that was given.
        name: the name of today.
    """
    print(f"note: {former} is called {name} now; the former name is accepted until version 0.3.", file=sys.stderr)


def renamed_argument(argument: str) -> str:
    """Return an argument of the command line with the name of today, after a note for a former name.

    Args:
        argument: one word, such as `task.num_pairs=100`; a word without a former name is returned as it is.

    Example:
        >>> renamed_argument("pairs.count=100")
        'pairs.count=100'
    """
    match = re.match(r"^(\+{0,2}|~)([\w@.]+)(=.*)?$", argument, re.DOTALL)
    if match is None:
        return argument
    mark, key, rest = match[1], match[2], match[3] or ""
    if key in KEYS:
        note(key, KEYS[key])
        return f"{mark}{KEYS[key]}{rest}"
    group, dot, name = key.partition(".")
    if group in GROUPS:
        note(group, GROUPS[group])
        return f"{mark}{GROUPS[group]}{dot}{name}{rest}"
    return argument


def renamed_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line with the names of today, after a note for each former name.

    Args:
        arguments: words of the command line.

    Example:
        >>> renamed_arguments(["task.holdout=[0.1,0.1]", "seed=1"])
        ['pairs.holdout=[0.1,0.1]', 'seed=1']
    """
    return [renamed_argument(argument) for argument in arguments]


def rename_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the names of today, after a note for each former name.

    The value of a former name comes from a user's own file, so that it replaces the program's value of today's name.

    Args:
        content: the configuration in plain containers.

    Returns:
        A copy whose groups are copied too.

    Example:
        >>> rename_settings({"callbacks": {"progress": False}, "metrics": {"progress": True}})
        {'callbacks': {}, 'metrics': {'progress': False}}
    """
    result = {name: dict(value) if isinstance(value, Mapping) else value for name, value in content.items()}
    for former, name in KEYS.items():
        group, key = former.split(".")
        if isinstance(result.get(group), dict) and key in result[group]:
            target, entry = name.split(".")
            note(former, name)
            result.setdefault(target, {})[entry] = result[group].pop(key)
    for former, name in GROUPS.items():
        if isinstance(result.get(former), dict):
            note(former, name)
            result[name] = {**(result.get(name) or {}), **result.pop(former)}
    return result
