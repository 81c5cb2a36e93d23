"""The folder of YAML files and the descriptions of its groups."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from .errors import LaceError

USAGE = """\
lace_lightning: control a frozen image generator by attribute.

  python -m lace_lightning +experiment=<name> [key=value ...]   run an experiment
  python -m lace_lightning -m +experiment=<name> key=a,b        sweep over values; the same command resumes
  python -m lace_lightning +experiment=<name> --cfg job         show its configuration
  debug=fast                                                    shrink any experiment to seconds
  --config-dir my_conf labeler=cats                             with YAML files of your own: my_conf/labeler/cats.yaml
  LACE_TRACEBACK=1                                              show tracebacks of errors
  LACE_OFFLINE=1                                                download no network; say where to put its file by hand

  lace-lightning draw "label == ship" --seeds 0-99,250          pictures, latents and a table into a folder
  lace-lightning edit LATENTS "smile == 1" --experiment NAME     edit z, w or w+ of others, out again as they came
  lace-lightning project photo.jpg --generator portraits         latents of photographs; --edit "smile == 1"
  lace-lightning demo [generator=portraits]                     a page with sliders, in a browser
  lace-lightning export FILE.onnx [--query "label == ship"]      a generator, classifier or flow for other programs
  lace-lightning convert IN OUT.safetensors [G_ema|G|g_ema|...]  another program's generator, read as data
  lace-lightning report [FOLDER]                                reports in HTML again, and a page over all runs
  lace-lightning list GROUP                                     experiments, samplers, ... with their descriptions
  lace-lightning help | --version | COMMAND --help              this text, versions, the arguments of a command
  eval "$(lace-lightning --shell-completion install=bash)"      TAB completes (bash, zsh, fish)
  lace-lightning models                                         networks: shipped, published, here
  lace-lightning download NAME [--sha256 HEX | --trust-first]   a published generator, checked, for generator=NAME
"""


def config_folder() -> Path:
    """Return the folder of YAML files.

    It lies inside the package (a wheel), or beside it (a checkout or an editable install).

    Raises:
        LaceError: when neither folder exists.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise LaceError(
        f"The configuration was required in '{package / 'conf'}' and is not there: install the package again."
    )


def describe(group: str, folder: Path | None = None) -> list[tuple[str, str]]:
    """Return the name and the description of every file of a configuration group.

    Args:
        group: name of the group, such as "sampler".
        folder: folder of configuration; None for the folder of this program.

    Returns:
        Pairs of the name and the first line of comment, in alphabetical order; empty for an unknown group.

    Example:
        >>> "heun" in dict(describe("sampler"))
        True
    """
    result = []
    for path in sorted(((folder or config_folder()) / group).glob("*.yaml")):
        lines = [line[1:].strip() for line in _lines(path) if line.startswith("#")]
        result.append((path.stem, next((line for line in lines if not line.startswith(("@", "needs:"))), "")))
    return result


def needs(experiment: str) -> tuple[str, ...]:
    """Return the resources that an experiment needs, from the line `# needs:` of its file.

    Args:
        experiment: name of the experiment.

    Returns:
        Keys of `NEEDS`; () for a file without the line.

    Example:
        >>> needs("cifar10_ode")
        ('nothing',)
    """
    for line in _lines(config_folder() / "experiment" / f"{experiment}.yaml"):
        if line.startswith("# needs:"):
            return tuple(word.strip() for word in line.partition(":")[2].split(","))
    return ()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the user's own folders of configuration (--config-dir).

    Args:
        arguments: words of the command line.

    Example:
        >>> [str(folder) for folder in own_folders(["--config-dir", "my_conf", "labeler=cats"])]
        ['my_conf']
    """
    joined = "\0".join(arguments)
    return [Path(folder) for folder in re.findall(r"(?:^|\0)(?:--config-dir|-cd)[=\0]([^\0]+)", joined)]


def choices(group: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the names of the files of a group, including those of the user's own folders (--config-dir).

    Args:
        group: name of the group, such as "sampler".
        arguments: words of the command line.

    Example:
        >>> "heun" in choices("sampler")
        True
    """
    return [name for folder in (None, *own_folders(arguments)) for name, _ in describe(group, folder)]


def overview(arguments: Sequence[str] = ()) -> str:
    """Return the help text: usage, experiments by the resources that they need, and names of the other groups.

    Args:
        arguments: words of the command line; files of the user's own folders (--config-dir) are listed too.

    Returns:
        Text of several lines.
    """
    parts = [USAGE]
    experiments = describe("experiment")
    for need, title in NEEDS.items():
        entries = [(name, text) for name, text in experiments if _strongest(name) == need]
        if need == "nothing":
            width = max((len(name) for name, _ in entries), default=0)
            lines = [
                textwrap.shorten(f"{name} {text}", 114 - width + len(name), placeholder=" ...")
                for name, text in entries
            ]
            lines = [
                f"  {name:<{width}}  {line[len(name) + 1 :]}" for (name, _), line in zip(entries, lines, strict=True)
            ]
        else:
            lines = _wrapped([name for name, _ in entries])
        parts.append("\n".join([f"Experiments that need {title}:", *lines]) + "\n")
    lines = []
    for group, title in GROUPS.items():
        if group != "experiment":
            lines += _wrapped([name for name, _ in describe(group)], f"{title}: ")
    parts.append("\n".join(["Descriptions: lace-lightning list GROUP, for example list experiment.", *lines]) + "\n")
    for folder in own_folders(arguments):
        own = [(path.name, describe(path.name, folder)) for path in sorted(folder.iterdir()) if path.is_dir()]
        rows = [f"  {group}={name}  {text}".rstrip() for group, entries in own for name, text in entries]
        parts.append("\n".join([f"Yours, in {folder}:", *(rows or ["  no GROUP/NAME.yaml"])]) + "\n")
    return "\n".join(parts)


def _strongest(experiment: str) -> str:
    found = needs(experiment)
    return next((need for need in reversed(NEEDS) if need in found), "nothing")


def _wrapped(names: Sequence[str], start: str = "") -> list[str]:
    return textwrap.wrap(
        start + ", ".join(names), 116, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )


# In the order of the list; an experiment is listed under the last resource that it needs.
NEEDS = {
    "nothing": "nothing",
    "time": "nothing but time, and make again or check what is shipped",
    "network": "a published network (lace-lightning models)",
    "data": "data of yours, pictures or a network",
    "gpu": "a GPU",
}
GROUPS = {
    "experiment": "Experiments (+experiment=...)",
    "sampler": "Samplers (sampler=...)",
    "corrector": "Correctors of flows (corrector=...)",
    "method": "Methods (+method=...)",
    "generator": "Generators (generator=...)",
    # The groups labeler and judge have the same names.
    "labeler": "Labelers and judges (labeler=..., judge=...)",
    "classifier": "Classifiers (classifier=...)",
    "energy": "Energies and rewards beside the query (energy=...)",
    "editing": "Editing (editing=...)",
    "model": "Systems beside LACE (model=...)",
    "score_sampler": "Samplers of scores (score_sampler@model.sampler=...)",
    "dataset": "Data sets (dataset=...)",
    "training": "Trainings of image networks (training=...)",
    "task": "Tasks (task=...)",
    "logger": "Loggers (logger=...)",
}
