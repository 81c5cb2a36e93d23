"""Shell completion of experiments, groups, their choices and settings, from the text of the YAML files alone."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from .configuration import choices, config_folder, own_folders
from .errors import LaceError

# Bash replaces the text after the last '=' where '=' divides words, and the whole word elsewhere.
_BASH = r"""_lace_lightning()
{
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    export COMP_LINE COMP_POINT
    COMPREPLY=($(lace-lightning --shell-completion query=bash 2>/dev/null))
    case "$COMP_WORDBREAKS" in
        *=*) case "$word" in *=*) COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}");; esac;;
    esac
}
complete -o nospace -o default -F _lace_lightning lace-lightning
"""
_ZSH = r"""_lace_lightning()
{
    local -a found
    found=(${(f)"$(COMP_LINE="$BUFFER" COMP_POINT="$CURSOR" lace-lightning --shell-completion query=zsh 2>/dev/null)"})
    (( ${#found} )) && compadd -Q -S '' -- $found || _files
}
compdef _lace_lightning lace-lightning
"""
_FISH = """complete -c lace-lightning -a \
'(env COMP_LINE=(commandline -cp) lace-lightning --shell-completion query=fish 2>/dev/null)'
"""
INSTALL = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
UNINSTALL = {
    "bash": "complete -r lace-lightning\nunset -f _lace_lightning\n",
    "zsh": "compdef -d lace-lightning\nunfunction _lace_lightning\n",
    "fish": "complete -e -c lace-lightning\n",
}
OPTIONS = ("--help", "--version", "--cfg", "--config-dir", "--multirun", "--shell-completion")


def shell_completion(arguments: Sequence[str], commands: Sequence[str]) -> str:
    """Return the output of `--shell-completion install=SHELL`, `uninstall=SHELL` or `query=SHELL`.

    Args:
        arguments: words of the command line without the name of the program; SHELL is bash, zsh or fish.
        commands: names of the commands that start no experiment.

    Returns:
        A script for the shell, or for a query the words that complete the line in COMP_LINE.

    Raises:
        LaceError: without such an argument.

    Example:
        >>> shell_completion(["uninstall=fish"], []).strip()
        'complete -e -c lace-lightning'
    """
    for argument in arguments:
        action, _, shell = argument.lstrip("+").partition("=")
        if shell in INSTALL and action in ("install", "uninstall", "query"):
            if action != "query":
                return (INSTALL if action == "install" else UNINSTALL)[shell]
            line = os.environ.get("COMP_LINE", "")
            point = os.environ.get("COMP_POINT", "")
            return "\n".join(complete(line[: int(point)] if point.isdigit() else line, commands))
    raise LaceError(
        "--shell-completion needs install=SHELL or uninstall=SHELL with bash, zsh or fish: write for example "
        'eval "$(lace-lightning --shell-completion install=bash)".'
    )


def complete(line: str, commands: Sequence[str]) -> list[str]:
    """Return the words that complete a command line.

    Args:
        line: the command line up to the cursor, with the name of the program.
        commands: names of the commands that start no experiment.

    Returns:
        Words in alphabetical order that begin with the last, unfinished word of the line; none inside of quotes, where
        a condition is written.

    Example:
        >>> complete("lace-lightning conv", ["convert", "models"])
        ['convert']
    """
    try:
        words = shlex.split(line)[1:]
    except ValueError:
        # An open quote: a condition is being written, and its words are no settings.
        return []
    current = "" if not words or line[-1:].isspace() else words.pop()
    if not line.endswith(current):
        return []
    if words[-1:] and words[-1] in ("--config-dir", "-cd"):
        return []
    found: list[str] = []
    key, equals, value = current.partition("=")
    group = key.lstrip("+")
    if words[:1] == ["list"]:
        found = _groups(words)
    elif words[:1] and words[0] in commands:
        return []
    elif equals:
        before = value.rpartition(",")
        found = [f"{key}={before[0]}{before[1]}{name}" for name in choices(group.partition("@")[0], words)]
    elif current.startswith("-"):
        found = list(OPTIONS)
    else:
        extra = ("experiment", "method", "debug")
        found = [("+" if name in extra[:2] else "") + name + "=" for name in _groups(words)]
        found += [name + "=" for name in extra[:2]]
        found += [f"{name}=" for name in settings(words) if "." not in name or "." in current]
        found += [] if words else list(commands)
    return sorted({word for word in found if word.startswith(current)})


def _groups(arguments: Sequence[str]) -> list[str]:
    folders = [config_folder(), *own_folders(arguments)]
    return sorted({path.parent.name for folder in folders for path in folder.glob("*/*.yaml")})


def settings(arguments: Sequence[str]) -> list[str]:
    """Return the dotted names of the settings, for the groups that the arguments choose.

    Args:
        arguments: words of the command line without the name of the program.

    Returns:
        Names in alphabetical order.

    Example:
        >>> "sampler.atol" in settings(["sampler=ode"])
        True
    """
    root = config_folder()
    chosen = dict(_defaults(root / "config.yaml"))
    asked = [argument.lstrip("+").partition("=")[::2] for argument in arguments if "=" in argument]
    files: list[tuple[str, Path]] = [("", root / "config.yaml")]
    for group, name in asked:
        if group in ("experiment", "debug", "method"):
            path = _file(group, name, arguments)
            files.append(("", path))
            chosen.update(_defaults(path))
    chosen.update({group: name for group, name in asked if (root / group).is_dir()})
    files += [(f"{group}.", _file(group, name, arguments)) for group, name in chosen.items()]
    return sorted({prefix + key for prefix, path in files for key in _keys(path)})


def _file(group: str, name: str, arguments: Sequence[str]) -> Path:
    paths = [folder / group / f"{name}.yaml" for folder in (*own_folders(arguments), config_folder())]
    return next((path for path in paths if path.is_file()), paths[-1])


def _defaults(path: Path) -> Iterator[tuple[str, str]]:
    for line in _text(path):
        match = re.match(r"\s*- (?:override )?/?([\w]+): ([\w-]+)\s*$", line)
        if match is not None:
            yield match[1], match[2]


def _keys(path: Path) -> Iterator[str]:
    stack: list[tuple[int, str]] = []
    for line in _text(path):
        match = re.match(r"( *)([A-Za-z_][\w-]*):(?: |$)", line)
        if match is None:
            continue
        indent = len(match[1])
        stack = [entry for entry in stack if entry[0] < indent] + [(indent, match[2])]
        names = [name for _, name in stack]
        if names[0] not in ("defaults", "hydra") and not any(name.startswith("_") for name in names):
            yield ".".join(names)


def _text(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
