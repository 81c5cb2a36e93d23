"""Files of a run as reports read them: settings, results, and short names of both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..artifacts import read_json
from .paper import class_name


def results_of(folder: Path) -> dict[str, Any]:
    """Return the content of metrics.json, empty where there is none or it is damaged.

    Args:
        folder: the folder of a run.
    """
    try:
        return dict(read_json(folder / "metrics.json"))
    except (OSError, ValueError, TypeError):
        return {}


def config_of(folder: Path) -> dict[str, Any]:
    """Return the settings of config.yaml in plain containers, empty where there are none.

    Args:
        folder: the folder of a run.
    """
    import yaml

    try:
        # The loader in C is ten times as fast, and not everywhere.
        content = yaml.load(text_of(folder / "config.yaml"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def date_of(folder: Path, results: Mapping[str, Any]) -> str:
    """Return day and time of a run, or the day alone where the time is not known.

    Args:
        folder: the folder of the run.
        results: content of metrics.json.
    """
    for name in ("metrics.json", "config.yaml", "failed.json"):
        if (folder / name).is_file():
            written = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / name).stat().st_mtime))
            # A copied folder has another time than its run.
            return written if written.startswith(str(results.get("date") or written[:10])) else str(results["date"])
    return ""


def named(node: Any) -> str:
    """Return a short name of a part of the configuration: its name, its networks, or its class.

    Args:
        node: a node of the configuration.

    Example:
        >>> named({"_target_": "lace_lightning.generators.load_generator", "name": "faces"}), named({"_target_": "a.B"})
        ('faces', 'B')
    """
    if not isinstance(node, Mapping):
        return "" if node is None else str(node)
    return str(
        next((node[key] for key in ("name", "networks", "path", "file") if node.get(key)), class_name(node) or "")
    )


def query_of(config: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    """Return the query or the edits of a run as text.

    Args:
        config: the configuration in plain containers.
        protocol: how its figures were measured.

    Example:
        >>> query_of({"query": {"text": "smile == 1"}}, {})
        'smile == 1'
        >>> query_of({"task": {"edits": ["age == 0.5", "hat == 1"]}}, {})
        'age == 0.5, then hat == 1'
    """
    task, query = config.get("task"), config.get("query")
    if isinstance(task, Mapping) and task.get("edits"):
        return ", then ".join(map(str, task["edits"]))
    text = protocol.get("query") or (query.get("text") if isinstance(query, Mapping) else query)
    return "" if text is None else str(text)


def text_of(path: Path) -> str:
    """Return the content of a text file, empty where it cannot be read.

    Args:
        path: the file.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
