"""Figures of the paper from conf/paper.yaml, selected by the configuration of a run or by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from ..configuration import config_folder
from ..errors import LaceError, suggest

# Keys of an entry that are not figures.
_KEYS = ("name", "of", "when")


@cache
def paper_entries() -> list[dict[str, Any]]:
    """Return the entries of conf/paper.yaml.

    Returns:
        Tables with the figures, `of` (experiment, system, sampler) and `when` (settings and their values).
    """
    text = (config_folder() / "paper.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text))


def paper_row(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the paper's figures for a run.

    Args:
        config: the resolved configuration of the run, in plain containers.

    Returns:
        The figures of the first entry of `paper`, or of conf/paper.yaml, that agrees with the configuration; empty
        where none does. An entry agrees where its experiment, system and sampler (of LACE) are those of the run, and
        every setting under `when` has the value given there.

    Example:
        >>> paper_row({"name": "mine", "paper": [{"when": {"seed": 1}, "acc": 0.9}], "seed": 1})
        {'acc': 0.9}
    """
    for entry in [*(config.get("paper") or []), *paper_entries()]:
        if _agrees(entry, config):
            return _figures(entry)
    return {}


def paper_figures(name: Any, figures: Sequence[str] | None = None) -> dict[str, float]:
    """Return the paper's figures of an entry of conf/paper.yaml.

    Args:
        name: `name` of the entry.
        figures: keys of the figures to return, in this order; those that the entry does not have are left out. None
            returns all.

    Returns:
        Figures by key.

    Raises:
        LaceError: when there is no such entry, or when no entry has one of `figures`.

    Example:
        >>> paper_figures("cifar10 LACE-ODE", ["acc", "acc/smile", "fid"])
        {'acc': 0.972, 'fid': 6.63}
    """
    entries = {entry["name"]: _figures(entry) for entry in paper_entries()}
    known = list(dict.fromkeys(key for entry in entries.values() for key in entry))
    for wrong in [key for key in figures or () if key not in known][:1]:
        raise LaceError(f"No entry of conf/paper.yaml has a figure '{wrong}'.{_nearest(wrong, known)}")
    if not isinstance(name, str) or name not in entries:
        raise LaceError(f"There is no entry '{name}' in conf/paper.yaml.{_nearest(name, entries)}")
    return {key: entries[name][key] for key in (entries[name] if figures is None else figures) if key in entries[name]}


def _nearest(name: Any, options: Collection[str]) -> str:
    return suggest(name, options) or f" Choose one of {', '.join(options)}."


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in entry.items() if key not in _KEYS}


def _agrees(entry: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    of = entry.get("of") or {}
    system = class_name(config.get("model"))
    actual = {
        "experiment": config.get("name"),
        "system": system or "LACE",
        "sampler": None if system else class_name(config.get("sampler")),
    }
    is_of = all(actual[name] in (value if isinstance(value, list) else [value]) for name, value in of.items())
    return is_of and all(_value(config, key) == value for key, value in (entry.get("when") or {}).items())


def class_name(node: Any) -> str | None:
    """Return the name of the class of a node of the configuration.

    Args:
        node: a mapping with `_target_`, or any other value.

    Returns:
        The name without its module; None for a value without `_target_`.

    Example:
        >>> class_name({"_target_": "lace_lightning.samplers.Heun"})
        'Heun'
    """
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return None if target is None else str(target).rpartition(".")[2]


def _value(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
