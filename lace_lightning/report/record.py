"""Run experiments and record them: `python experiments/record.py [--reuse] [name ...]`, without names the quick ones.

This program writes the part of an experiment's README between the marks `<!-- results -->` and
`<!-- end of results -->`: date, machine, the figures beside the paper's (mean ± standard deviation over the seeds) and
pictures. The rest of the README stays as it is. All figures go into results.json.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..artifacts import read_json, write_json
from ..configuration import describe
from ..metrics.names import Figure, in_order
from ..stopping import run_command
from .sweeps import SEED_KEYS, SEEN, is_done
from .text import Table, mean_sd

# The folder of the records, in the folder of a checkout.
HERE = Path("experiments")
QUICK = (
    "cifar10_ode",
    "cifar10_heun",
    "cifar10_ld",
    "cifar10_edit",
    "portraits_sheet",
    "portraits_check",
    "portraits_layers",
    "portraits_glasses",
    "portraits_gender_smile_age",
    "portraits_edit",
    "portraits_edit_order",
    "portraits_zero_shot",
    "portraits_logic",
    "portraits_temperature",
    "portraits_attributes",
)
# Entries of metrics.json that are written into results.json.
KEPT = ("metrics", "paper", "protocol", "command", "date", "versions")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def main() -> None:
    """Run the experiments that are named on the command line, and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=QUICK)
    parser.add_argument("--reuse", action="store_true", help="record the results in outputs/ and run nothing")
    options = parser.parse_args()
    for name in options.names:
        # A second of grace for file systems with coarse clocks.
        start = 0.0 if options.reuse else time.time() - 1
        if not options.reuse:
            print(f"=== {name}", flush=True)
            run_command([sys.executable, "-m", "lace_lightning", f"+experiment={name}"])
        record(name, Path("outputs"), start)


def record(name: str, outputs: Path, since: float = 0.0) -> None:
    """Write experiments/<name>/ from the results of an experiment.

    Args:
        name: Name of the experiment.
        outputs: Folder that runs write to.
        since: Seconds since the epoch; results of sweeps that were marked before are left out.

    Raises:
        SystemExit: When there are no results, or the README has no marks.
    """
    folders = jobs(name, outputs, since)
    if not folders:
        raise SystemExit(f"No results of {name} lie in {outputs}: run the experiment first.")
    results = [read_json(folder / "metrics.json") for folder in folders]
    settings = grouped(
        [OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True) for folder in folders]
    )
    target = HERE / name
    target.mkdir(exist_ok=True)
    for old in (
        path
        for pattern in ("samples*", "*.csv", "acc_against_fid.png", "side_by_side.png")
        for path in target.glob(pattern)
    ):
        old.unlink()
    lines = [
        f"Run on {results[0]['date']}, {machine()}.",
        "",
        *setting_table(settings, results).markdown().splitlines(),
        "",
        *pictures(settings, folders, target),
    ]
    for extra, text in (("results.csv", "Every run"), ("seeds.csv", "Every figure over the seeds")):
        if (folders[0].parent / extra).is_file():
            shutil.copy(folders[0].parent / extra, target / extra)
            lines += [f"{text}: [{extra}]({extra})."]
    write_json(target / "results.json", [{key: result[key] for key in KEPT} for result in results])
    insert(target / "README.md", name, "\n".join(lines).strip())


def jobs(name: str, outputs: Path, since: float) -> list[Path]:
    """Return the folders of an experiment's results: all jobs of its sweep in its order, or its latest run.

    Args:
        name: Name of the experiment.
        outputs: Folder that runs write to.
        since: Seconds since the epoch; jobs that were marked before are left out, and so are failed ones.
    """
    found = (path.parent for path in (outputs / "sweeps" / name).glob("*/metrics.json"))
    folders = [folder for folder in found if is_done(folder)]
    seen = {folder: (folder / SEEN).stat().st_mtime if (folder / SEEN).is_file() else 0.0 for folder in folders}
    sweep = sorted(
        (folder for folder, when in seen.items() if when >= since), key=lambda folder: (seen[folder], folder)
    )
    return sweep or sorted(path.parent for path in (outputs / name).glob("*/metrics.json"))[-1:]


def grouped(configs: Sequence[Any]) -> dict[str, list[int]]:
    """Return the numbers of the runs of each setting, by the values that differ between settings.

    Args:
        configs: Configuration of every run, as plain containers.

    Returns:
        Numbers of runs by setting; runs that differ in seeds alone have one setting.

    Example:
        >>> grouped([{"seed": 1, "tau": 1.0}, {"seed": 2, "tau": 1.0}, {"seed": 1, "tau": 2.0}])
        {'tau 1.0': [0, 1], 'tau 2.0': [2]}
    """
    flat = [flatten(config) for config in configs]
    ignored = ("paths", "hydra", "logger", "paper")
    keys = [
        key
        for key in dict.fromkeys(key for config in flat for key in config)
        if key.split(".")[0] not in ignored
        and key.rsplit(".")[-1] != "seed"
        and key not in SEED_KEYS
        and len({str(config.get(key)) for config in flat}) > 1
    ]
    # A group of settings that has a name is represented by its name.
    named = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    keys = [key for key in keys if key.endswith(".name") or not key.startswith(named)]
    # A method represents its settings, except those that are varied within one method.
    if "method" in keys:
        same = [
            [config for config in flat if config["method"] == method]
            for method in dict.fromkeys(c["method"] for c in flat)
        ]
        keys = [
            key for key in keys if key == "method" or any(len({str(c.get(key)) for c in group}) > 1 for group in same)
        ]
    result: dict[str, list[int]] = {}
    for number, config in enumerate(flat):
        result.setdefault(", ".join(label(key, config.get(key)) for key in keys), []).append(number)
    return result


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their paths.

    Args:
        node: Nested mappings, or a value.
        prefix: Path of the node.

    Example:
        >>> flatten({"a": {"b": 1}, "c": 2})
        {'a.b': 1, 'c': 2}
    """
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flatten(child, f"{prefix}.{name}".lstrip(".")).items()
    }


def label(key: str, value: Any) -> str:
    """Return a short text for a setting, for a row of a table.

    Args:
        key: Path of the setting.
        value: Its value.

    Example:
        >>> label("sampler.atol", 0.1), label("query.text", "label == ship")
        ('atol 0.1', '`label == ship`')
    """
    name = key.removesuffix(".name").rpartition(".")[-1]
    return f"`{value}`" if key in ("query.text", "method") or key.endswith("._target_") else f"{name} {value}"


def setting_table(settings: Mapping[str, Sequence[int]], results: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of an experiment's figures, with a row for each setting and columns of the paper's figures.

    Args:
        settings: Numbers of the runs of each setting, as `grouped` returns them.
        results: Content of metrics.json of every run, with `metrics` and `paper`.

    Returns:
        A table of mean ± standard deviation over the runs of a setting, or the table of `matrix` for figures that are
        not of samples of a query. A column that is empty or equal to the one before is left out.
    """
    metrics = [result["metrics"] for result in results]
    names = list(dict.fromkeys(name for m in metrics for name in m))
    if not {"acc", "holds"} & set(names):
        return matrix({name: mean_sd([m[name] for m in metrics if name in m]) for name in names})
    in_paper = {name for result in results for name in result["paper"]}
    columns: list[tuple[str, list[str]]] = []
    for figure in _columns(names, metrics):
        values = [[metrics[n][figure.name] for n in runs if figure.name in metrics[n]] for runs in settings.values()]
        columns.append((figure.column, [mean_sd(value) for value in values]))
        if (key := figure.paper[0]) in in_paper:
            theirs = [str(results[runs[0]]["paper"].get(key, "")) for runs in settings.values()]
            columns.append((f"*{'FID, ' if 'fid' in key else ''}paper*", theirs))
    kept = [("setting", list(settings))] if any(settings) else []
    before: list[str] = []
    for head, cells in columns:
        ours = not head.startswith("*")
        if any(cells) and not (ours and cells == before):
            kept.append((head, cells))
        before = cells if ours else before
    return Table([head for head, _ in kept], list(zip(*(cells for _, cells in kept), strict=True)))


def _columns(names: Sequence[str], metrics: Sequence[Mapping[str, float]]) -> list[Figure]:
    """Return the figures of a record in the order of its columns."""
    figures = in_order(names)
    in_all = {name for name in names if all(name in m for m in metrics)}
    compared = "posterior_distance" in names
    # Diagnostics have columns only beside exact samples, and ACC of an attribute only where all runs have it.
    places = ("main", "beside", *(["exact"] if compared else []), "last")
    chosen = [figure for place in places for figure in figures if figure.known and figure.place == place]
    chosen += [figure for figure in figures if not figure.known]
    return [
        figure
        for figure in chosen
        if not (compared and figure.name.startswith("acc/") and figure.name not in in_all)
        and (not figure.hide_zero or any(m.get(figure.name) for m in metrics))
    ]


def matrix(figures: Mapping[str, str]) -> Table:
    """Return figures "a/b" as a table with a column for each a and a row for each b, else with a row for each figure.

    Args:
        figures: Values as text, by name.

    Example:
        >>> matrix({"labeler/age": "0.900", "judge/age": "0.800"}).rows
        [['age', '0.900', '0.800']]
    """
    if not all(name.count("/") == 1 for name in figures):
        return Table(("figure", "value"), list(figures.items()))
    columns, rows = (list(dict.fromkeys(name.split("/")[side] for name in figures)) for side in (0, 1))
    return Table(["", *columns], [[row, *(figures.get(f"{column}/{row}") for column in columns)] for row in rows])


def pictures(settings: Mapping[str, Sequence[int]], folders: Sequence[Path], target: Path) -> list[str]:
    """Copy the picture of the first run of every setting into the record.

    Args:
        settings: Numbers of the runs of each setting.
        folders: Folders of the runs.
        target: Folder of the record.

    Returns:
        Lines of Markdown that show the pictures.
    """
    # A picture of methods side by side contains all the others.
    if (beside := folders[0].parent / "side_by_side.png").is_file():
        shutil.copy(beside, target / beside.name)
        return [f"![Side by side]({beside.name})", ""]
    lines = []
    for count, (setting, numbers) in enumerate(settings.items(), 1):
        name = "samples" if len(settings) == 1 else f"samples_{count}"
        # Animations are large: one for each experiment.
        for kind in ("png", "webp") if count == 1 else ("png",):
            if (source := folders[numbers[0]] / f"samples.{kind}").is_file():
                shutil.copy(source, target / f"{name}.{kind}")
        if (target / f"{name}.png").is_file():
            lines += [
                *([f"{setting}:", ""] if setting else []),
                f"![{setting.replace('`', '') or 'Samples'}]({name}.png)",
                "",
            ]
        if (target / f"{name}.webp").is_file():
            lines += [f"The way from edit to edit: [{name}.webp]({name}.webp)", ""]
    return lines


def machine() -> str:
    """Return the number of threads and the name of the GPU, or of the processor's architecture, in words."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''}, {device}"


def insert(readme: Path, name: str, text: str) -> None:
    """Write text between the marks of a README, which is created where there is none.

    Args:
        readme: The file.
        name: Name of the experiment.
        text: Markdown.

    Raises:
        SystemExit: When the file has no marks.
    """
    if not readme.is_file():
        about = dict(describe("experiment")).get(name, "")
        readme.write_text(
            f"# {name}\n\n{about}\n\n```\npython -m lace_lightning +experiment={name}\n```\n\n{BEGIN}\n{END}\n",
            encoding="utf-8",
        )
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{readme} must have the marks {BEGIN} and {END}: write them where the results belong.")
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
