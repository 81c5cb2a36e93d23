"""Former names of settings and of groups, which are accepted for one version with a note."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
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
# Former choice of a group -> choice.
CHOICES = {
    "labeler=faces": "labeler=ffhq",
    "judge=faces": "judge=ffhq",
    "editing=faces_layers": "editing=ffhq_layers",
    "editing=faces_layers_code": "editing=ffhq_layers_code",
    "editing=faces_layers_styleflow": "editing=ffhq_layers_styleflow",
    "editing=styleflow_v2_faces": "editing=styleflow_v2_ffhq",
    "style_layers=faces": "style_layers=ffhq",
    "style_layers=faces_code": "style_layers=ffhq_code",
    "style_layers=faces_styleflow": "style_layers=ffhq_styleflow",
}
# Former group -> group.
GROUPS = {"network": "training", "setting": "domain"}

# What other programs call a setting -> its name here.
SYNONYMS = {"lr": "learning_rate", "from": "source", "num": "count", "n": "count"}
# Settings of the same name that are listed at most, and how near a name must be.
MOST, NEAR = 6, 0.6


def suggest_setting(key: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for a setting that does not exist, or the settings that stand beside it.

    A former name and a name of other programs are looked up first, then the same name in other groups, then names
    beside it.

    Args:
        key: the dotted name that was given.
        known: dotted names of all settings and groups.

    Example:
        >>> names = ["seed", "pairs", "pairs.count", "pairs.seed", "metrics", "metrics.num_samples"]
        >>> suggest_setting("pairs.num_pairs", names), suggest_setting("metrics.samples", names)
        (" Did you mean 'pairs.count'?", " Did you mean 'metrics.num_samples'?")
        >>> suggest_setting("num_samples", names), suggest_setting("pairs.foo", names)
        (" Did you mean 'metrics.num_samples'?", ' Known in pairs: count, seed.')
        >>> suggest_setting("pairs", names)
        " It is added with a plus sign: '+pairs=...'."
    """
    names = list(known)
    if key in names:
        # A group of which the experiment has no choice, such as method.
        return f" It is added with a plus sign: '+{key}=...'."
    group, _, last = key.rpartition(".")
    prefix = f"{group}." if group else ""
    beside = [name[len(prefix) :] for name in names if name.rpartition(".")[0] == group]
    former = [name for old, name in KEYS.items() if old.rpartition(".")[2] == last and name in names]
    last = SYNONYMS.get(last, last)
    near = difflib.get_close_matches(last, beside, n=1, cutoff=NEAR)
    if not near:
        # The words of a name: `epochs` is near `max_epochs`.
        near = [name for name in beside if set(last.split("_")) <= set(name.split("_"))]
    same = [name for name in names if "." in name and name.rpartition(".")[2] == last]
    elsewhere = [] if last in beside else same
    # Where the parts before the last one exist, only the last part is compared.
    whole = [] if group and beside else difflib.get_close_matches(key, names, n=1, cutoff=NEAR)
    found = former or elsewhere or [f"{prefix}{name}" for name in near] or whole
    if found:
        *others, end = [f"'{name}'" for name in dict.fromkeys(found[:MOST])]
        return f" Did you mean {', '.join(others)}{' or ' if others else ''}{end}?"
    return f" Known in {group}: {', '.join(beside)}." if group and beside else ""


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
        >>> import contextlib, io
        >>> renamed_argument("pairs.count=100")
        'pairs.count=100'
        >>> with contextlib.redirect_stderr(io.StringIO()):  # the note
        ...     renamed_argument("judge=faces")
        'judge=ffhq'
    """
    match = re.match(r"^(\+{0,2}|~)([\w@.]+)(=.*)?$", argument, re.DOTALL)
    if match is None:
        return argument
    mark, key, rest = match[1], match[2], match[3] or ""
    if key in KEYS:
        note(key, KEYS[key])
        return f"{mark}{KEYS[key]}{rest}"
    if key + rest in CHOICES:
        note(key + rest, CHOICES[key + rest])
        return mark + CHOICES[key + rest]
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


def former_folder_advice(group: str, name: str, folders: Sequence[Path]) -> str | None:
    """Return what to change where a user's own file of a group is in a folder with the group's former name.

    Args:
        group: the group.
        name: name of the file, without `.yaml`.
        folders: the user's own folders of configuration.

    Returns:
        A sentence; None where there is no such file.
    """
    for former in (former for former, today in GROUPS.items() if today == group):
        for folder in folders:
            if (folder / former / f"{name}.yaml").is_file():
                return (
                    f"The group '{former}' is called '{group}' now: rename the folder '{folder / former}' to "
                    f"'{folder / group}'."
                )
    return None


def former_group_advice(message: str, folders: Sequence[Path]) -> str | None:
    """Return what to change where Hydra refuses a former group in the `defaults` of a user's own file.

    Args:
        message: Hydra's error.
        folders: the user's own folders of configuration.

    Returns:
        A sentence with the name of today, the file and the line of every former group in the file that Hydra refuses.
        None where the error is about something else.
    """
    if not any(re.search(rf"'{former}['/@]", message) for former in GROUPS):
        return None
    refused = re.search(r"In '([^']+)'", message)
    paths = [folder / f"{refused[1]}.yaml" for folder in folders] if refused else []
    found = [(path, *line) for path in paths if path.is_file() for line in _former(path)]
    if not found:
        return None
    names = dict.fromkeys(former for _, _, former, _ in found)
    renamed = " and ".join(f"the group '{former}' is called '{GROUPS[former]}'" for former in names)
    lines = dict.fromkeys((number, text) for _, number, _, text in found)
    changes = " and ".join(f"'{text}' in line {number}" for number, text in lines)
    return f"{renamed[0].upper()}{renamed[1:]} now: in '{found[0][0]}' write {changes}."


def _former(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, former group and new text of the lines of a file whose `defaults` have a former group."""
    import yaml

    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return
    lines = text.splitlines()
    for key, defaults in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value != "defaults" or not isinstance(defaults, yaml.SequenceNode):
            continue
        for item in defaults.value:
            node = item.value[0][0] if isinstance(item, yaml.MappingNode) and item.value else item
            group = re.match(r"(?:(?:override|optional) +)*/?(\w+)", str(node.value))
            if group is not None and group[1] in GROUPS:
                number = node.start_mark.line
                pattern = rf"(?<![\w/.-])(/?)({'|'.join(GROUPS)})(?=[/@:\s'\"])"
                line = re.sub(pattern, lambda match: match[1] + GROUPS[match[2]], lines[number].partition(" #")[0])
                yield number + 1, group[1], line.strip()
