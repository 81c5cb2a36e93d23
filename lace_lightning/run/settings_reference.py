"""The settings reference: docs/settings.md, written from the types of settings and from the classes of conf/.

`python -m lace_lightning.run.settings_reference > docs/settings.md` writes it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..configuration import config_folder
from .check import TRAININGS
from .nodes import Node, describe_type, parameters_of
from .settings import TASKS, Classifier, Identity, Metrics, Pairs, Paths, QuerySettings, Settings, Sweep

# Groups of plain settings.
PLAIN: dict[str, type[BaseModel]] = {
    "pairs": Pairs,
    "classifier": Classifier,
    "query": QuerySettings,
    "metrics": Metrics,
    "task.identity": Identity,
    "paths": Paths,
    "sweep": Sweep,
}
# Groups of classes, with the key of the class inside the group's files.
CLASSES = {"sampler": "", "corrector": "corrector", "generator": "", "labeler": "", "model": "", "dataset": "module"}
BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "at least {} entries",
}
INTRODUCTION = """\
# Settings

Every setting can be given on the command line (`metrics.num_samples=1000`) or in a YAML file of your own
(`--config-dir my_conf`). A wrong name or value is refused before anything is loaded. This page is written by
`python -m lace_lightning.run.settings_reference > docs/settings.md`, and a test fails when it is old.

Former names: [CHANGELOG](../CHANGELOG.md).
"""


def bounds_of(field: FieldInfo) -> str:
    """Return the bounds of a setting in words.

    Args:
        field: the field of a group of settings.

    Returns:
        Bounds that are joined by "and"; empty for a setting without bounds.

    Example:
        >>> bounds_of(Classifier.model_fields["fresh_share"])
        'above 0 and at most 1'
    """
    words = []
    for constraint in field.metadata:
        for name, text in BOUNDS.items():
            value = getattr(constraint, name, None)
            if value is not None:
                words.append(text.format(f"{value:g}" if isinstance(value, float) else value))
    return " and ".join(words)


def _row(key: str, kind: str, bounds: str, default: Any, meaning: str) -> str:
    shown = "" if default is inspect.Parameter.empty else f"`{yaml_value(default)}`"
    cells = (f"`{key}`", kind, bounds, shown, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def yaml_value(value: Any) -> str:
    """Return a value as YAML in one line.

    Args:
        value: a plain value, a container, or a group of settings.

    Example:
        >>> yaml_value(None), yaml_value((0.02, 0.02))
        ('null', '[0.02, 0.02]')
    """
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    result: str = text.removesuffix("...\n").strip()
    return result


def model_rows(prefix: str, kind: type[BaseModel], without: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the rows of the table of a group's settings, head included.

    Args:
        prefix: text before the names, such as "pairs.".
        kind: the group of settings.
        without: names of settings that are left out.

    Returns:
        An iterator over lines of Markdown.
    """
    yield "| setting | type | bound | default | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for name, field in kind.model_fields.items():
        if name in without:
            continue
        extra: Any = field.json_schema_extra
        unit = (extra or {}).get("unit", "")
        bounds = " ".join(filter(None, (bounds_of(field), f"({unit})" if unit else "")))
        yield _row(f"{prefix}{name}", describe_type(field.annotation), bounds, field.default, str(field.description))


def argument_meanings(target: Any) -> dict[str, str]:
    """Return the entries of the `Args:` sections of a class, its base classes, or a function.

    Args:
        target: the class or function.

    Returns:
        Meanings by name of the argument, each in one line.

    Example:
        >>> argument_meanings(yaml_value)
        {'value': 'a plain value, a container, or a group of settings.'}
    """
    result: dict[str, str] = {}
    for one in target.__mro__ if inspect.isclass(target) else [target]:
        text = inspect.getdoc(one) or ""
        match = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        for entry in re.finditer(
            r"^    (\w+): (.*?)(?=^    \w+: |\Z)", match[1] if match else "", re.MULTILINE | re.DOTALL
        ):
            result.setdefault(entry[1], " ".join(entry[2].split()))
    return result


def class_rows(key: str, target: Any, without: tuple[str, ...] = ("schema", "w_dim")) -> Iterator[str]:
    """Yield the rows of the table of a class's or function's arguments, head included.

    Args:
        key: dotted key of the node in the configuration.
        target: the class or function.
        without: names of arguments that the program gives, which are left out.

    Returns:
        An iterator over lines of Markdown.
    """
    meanings = argument_meanings(target)
    yield "| setting | type | default | meaning and bound |"
    yield "| --- | --- | --- | --- |"
    for name, (parameter, hint) in parameters_of(target)[0].items():
        if name in without:
            continue
        default = parameter.default
        shown = "" if default is parameter.empty or not _is_yaml(default) else f"`{yaml_value(default)}`"
        kind = describe_type(hint) if hint is not Any else ""
        cells = (f"`{key}.{name}`", kind, shown, meanings.get(name, ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _summary(target: Any) -> str:
    """Return the first paragraph of a docstring in one line."""
    return (inspect.getdoc(target) or "").split("\n\n")[0].replace("\n", " ")


def _is_yaml(value: Any) -> bool:
    return isinstance(value, (int, float, str, bool, list, tuple, dict, type(None)))


def choices(group: str) -> dict[str, list[str]]:
    """Return the files of a group by the class that they name, in the file itself or in its `defaults`.

    Args:
        group: a key of `CLASSES`.

    Returns:
        Names of files by dotted name of the class.

    Example:
        >>> "heun" in choices("sampler")["lace_lightning.samplers.Heun"]
        True
    """
    folder = config_folder() / group
    result: dict[str, list[str]] = {}
    files = sorted(folder.glob("*.yaml"))
    for path in files:
        target = _target(path, CLASSES[group])
        if target is not None:
            result.setdefault(target, []).append(path.stem)
    return result


def _target(path: Path, inner: str) -> str | None:
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    node = content.get(inner) if inner else content
    if isinstance(node, dict) and node.get("_target_"):
        return str(node["_target_"])
    for entry in content.get("defaults") or []:
        if isinstance(entry, str) and entry != "_self_" and (path.parent / f"{entry}.yaml").is_file():
            return _target(path.parent / f"{entry}.yaml", inner)
    return None


def page() -> str:
    """Return the text of docs/settings.md."""
    parts = [INTRODUCTION]
    top = tuple(name for name in Settings.model_fields if name not in ("name", "method", "seed", "threads"))
    parts += ["## The run\n", "\n".join(model_rows("", Settings, top)), ""]
    parts.append("## Tasks (`task=`)\n")
    for name, kind in TASKS.items():
        parts += [
            f"### `task={name}`\n",
            f"{_summary(kind)}\n",
            "\n".join(model_rows("task.", kind, ("name", "identity"))),
            "",
        ]
    for group, settings in PLAIN.items():
        parts += [f"## `{group}`\n", f"{_summary(settings)}\n", "\n".join(model_rows(f"{group}.", settings)), ""]
    parts.append("## `trainer`\n")
    parts.append("Arguments of Lightning's `Trainer`, which checks them itself.\n")
    for group, inner in CLASSES.items():
        parts.append(f"## `{group}`\n")
        key = "sampler.corrector" if group == "corrector" else ".".join(filter(None, (group, inner)))
        for target, names in choices(group).items():
            node = Node(group, {"_target_": target}).object()
            values = ", ".join(f"`{group}={name}`" for name in names)
            parts += [f"### {values}\n", f"`{target}`. {_summary(node)}\n", "\n".join(class_rows(key, node)), ""]
    parts.append("## `training`\n")
    for task, target in TRAININGS.items():
        node = Node("training", {"_target_": target}).object()
        parts += [f"### With `task={task}`\n", f"`{target}`\n", "\n".join(class_rows("training", node)), ""]
    parts.append("## `editing`\n")
    for target in (
        "lace_lightning.systems.editing.EditOptions",
        "lace_lightning.systems.styleflow.editing.FlowOptions",
    ):
        node = Node("editing", {"_target_": target}).object()
        parts += [f"### `{target.rpartition('.')[2]}`\n", "\n".join(class_rows("editing", node)), ""]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
