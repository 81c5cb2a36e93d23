"""Run experiments and write them down: `python experiments/record.py [--reuse] [name ...]`, without names the quick
ones.

An experiment's README keeps its own words; between the marks `<!-- results -->` and `<!-- end of results -->` stands
what this program writes: date, machine, the figures beside the paper's (mean ± standard deviation over the seeds),
pictures. Everything behind them goes into results.json.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf

from ..artifacts import read_json, write_json
from ..configuration import describe
from .sweeps import SEED_KEYS, SEEN
from .text import frechet_name, frechet_title, main_figures

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
# What of a run's results is written down.
KEPT = ("metrics", "paper", "protocol", "command", "date", "versions")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
NAMES = {
    "acc": "ACC",
    "holds": "query true",
    "prior/holds": "true for the generator alone",
    "des": "DES",
    "id": "ID",
    "evaluations": "evaluations",
    "seconds/sampling_per_64": "s per 64",
    "own/acc": "ACC, classifier",
    "own/holds": "query true, classifier",
    "posterior_distance": "distance to exact",
    "posterior_distance/floor": "floor",
    "log_p": "log P",
    "log_p/error": "± log P",
    "ess": "ESS share",
    "checks": "pictures checked",
    "minutes/training": "minutes of training",
    "forward": "forward passes",
}


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=QUICK)
    parser.add_argument("--reuse", action="store_true", help="write down what lies in outputs/ and run nothing")
    options = parser.parse_args()
    for name in options.names:
        # A second of grace for file systems with coarse clocks.
        start = 0.0 if options.reuse else time.time() - 1
        if not options.reuse:
            print(f"=== {name}", flush=True)
            subprocess.run([sys.executable, "-m", "lace_lightning", f"+experiment={name}"], check=True)
        record(name, Path("outputs"), start)


def record(name: str, outputs: Path, since: float = 0.0) -> None:
    """Write experiments/<name>/ from the results under `outputs` that were made, or found to be done, after `since`."""
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
        *table(settings, results),
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
    """Return the folders of an experiment's results: all jobs of its sweep in its order, or its latest run."""
    folders = [path.parent for path in (outputs / "sweeps" / name).glob("*/metrics.json")]
    seen = {folder: (folder / SEEN).stat().st_mtime if (folder / SEEN).is_file() else 0.0 for folder in folders}
    sweep = sorted(
        (folder for folder, when in seen.items() if when >= since), key=lambda folder: (seen[folder], folder)
    )
    return sweep or sorted(path.parent for path in (outputs / name).glob("*/metrics.json"))[-1:]


def grouped(configs: Sequence[Any]) -> dict[str, list[int]]:
    """Return the numbers of the runs of each setting, by what sets it apart; runs that differ in seeds alone belong
    together.
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
    # Where a group of settings has a name, the name says it all.
    named = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    keys = [key for key in keys if key.endswith(".name") or not key.startswith(named)]
    # So it is with a method, beside what is varied for one and the same.
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
    """Return {"a.b": value} for nested mappings."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flatten(child, f"{prefix}.{name}".lstrip(".")).items()
    }


def label(key: str, value: Any) -> str:
    """Return a setting in a word or two."""
    name = key.removesuffix(".name").rpartition(".")[-1]
    return f"`{value}`" if key in ("query.text", "method") or key.endswith("._target_") else f"{name} {value}"


def table(settings: Mapping[str, Sequence[int]], results: Sequence[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: a row a setting, the paper's figures in columns of their own beside ours."""
    metrics = [result["metrics"] for result in results]
    names = list(dict.fromkeys(name for m in metrics for name in m))
    if not {"acc", "holds"} & set(names):
        return matrix({name: spread([m[name] for m in metrics if name in m]) for name in names})
    frechet = frechet_name(names)
    columns = [*main_figures(names), *([f"{frechet}/unconditional"] if f"{frechet}/unconditional" in names else [])]
    if "posterior_distance" in names:
        # Diagnoses that only a comparison with exact samples makes worth a column; of what queries' own attributes say,
        # what all have.
        columns = [name for name in columns if not name.startswith("acc/") or all(name in m for m in metrics)]
        columns += [name for name in ("predicted", "confidence", "log_p/error", "ess") if name in names]
    columns += [
        name for name in names if name.startswith(("branch/", "prior/branch/")) or name.endswith("/probability")
    ]
    # Most samplers never ask for the energy alone.
    columns = [name for name in columns if name != "forward" or any(m.get(name) for m in metrics)]
    in_paper = {name for result in results for name in result["paper"]}
    # Distances on other features stand beside the paper's FID; FID of fewer samples beside that of as many.
    theirs = frechet if frechet is not None and frechet.startswith("fid_") else "fid"
    theirs_of = {
        str(frechet): theirs,
        f"{frechet}/unconditional": f"{theirs}/unconditional",
        "seconds/sampling_per_64": "seconds",
    }
    paper = {name: theirs_of.get(name, name) for name in columns}
    head, rows = ["setting"] if any(settings) else [], []
    for name in columns:
        head += [
            title(name, frechet),
            *([f"*{'FID, ' if 'fid' in paper[name] else ''}paper*"] if paper[name] in in_paper else []),
        ]
    for setting, numbers in settings.items():
        row = [setting] if any(settings) else []
        for name in columns:
            row.append(spread([metrics[n][name] for n in numbers if name in metrics[n]]))
            if paper[name] in in_paper:
                row.append(f"{results[numbers[0]]['paper'].get(paper[name], '')}")
        rows.append(row)
    # A column that says the same as its neighbour, or nothing, is left out.
    before = {c: max((b for b in range(c) if not head[b].startswith("*")), default=0) for c in range(len(head))}
    keep = [
        c
        for c in range(len(head))
        if any(row[c] for row in rows)
        and (c == 0 or head[c].startswith("*") or any(row[c] != row[before[c]] for row in rows))
    ]
    return ["| " + " | ".join(row[c] for c in keep) + " |" for row in ([head, ["---"] * len(head), *rows])]


def matrix(figures: Mapping[str, str]) -> list[str]:
    """Return a Markdown table of figures "a/b", a column each a and a row each b; of figures with other names, a row
    each.
    """
    if not all(name.count("/") == 1 for name in figures):
        return ["| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())]
    columns, rows = (list(dict.fromkeys(name.split("/")[side] for name in figures)) for side in (0, 1))
    return [
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {row} | " + " | ".join(figures.get(f"{column}/{row}", "") for column in columns) + " |" for row in rows),
    ]


def title(name: str, frechet: str | None) -> str:
    """Return what a figure is called in a table."""
    if frechet and name.startswith(frechet):
        what = frechet_title(frechet) if frechet.startswith("fid") else "distance"
        return f"{what}{' of the generator alone' if name.endswith('unconditional') else ''}"
    if name.startswith("acc/"):
        return name.removeprefix("acc/")
    if name.startswith("tau"):
        return f"probability at τ = {name[3:].split('/')[0]}"
    if "branch/" in name:
        return f"of these {name.split('branch/')[1]}{' (generator alone)' if name.startswith('prior/') else ''}"
    return NAMES.get(name, name)


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation (n - 1)."""
    if not values:
        return ""
    digits = 3 if abs(mean(values)) < 10 else 1
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def pictures(settings: Mapping[str, Sequence[int]], folders: Sequence[Path], target: Path) -> list[str]:
    """Copy the picture of the first run of every setting, and return the lines that show them."""
    # Where methods stand side by side, that picture says it all.
    if (beside := folders[0].parent / "side_by_side.png").is_file():
        shutil.copy(beside, target / beside.name)
        return [f"![Side by side]({beside.name})", ""]
    lines = []
    for count, (setting, numbers) in enumerate(settings.items(), 1):
        name = "samples" if len(settings) == 1 else f"samples_{count}"
        # Moving pictures are large: one an experiment.
        for kind in ("png", "gif") if count == 1 else ("png",):
            if (source := folders[numbers[0]] / f"samples.{kind}").is_file():
                shutil.copy(source, target / f"{name}.{kind}")
        if (target / f"{name}.png").is_file():
            lines += [
                *([f"{setting}:", ""] if setting else []),
                f"![{setting.replace('`', '') or 'Samples'}]({name}.png)",
                "",
            ]
        if (target / f"{name}.gif").is_file():
            lines += [f"The way from edit to edit: [{name}.gif]({name}.gif)", ""]
    return lines


def machine() -> str:
    """Return the processor in a few words."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''}, {device}"


def insert(readme: Path, name: str, text: str) -> None:
    """Put `text` between the marks of a README, which is begun where there is none."""
    if not readme.is_file():
        about = dict(describe("experiment")).get(name, "")
        readme.write_text(
            f"# {name}\n\n{about}\n\n```\npython -m lace_lightning +experiment={name}\n```\n\n{BEGIN}\n{END}\n"
        )
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{readme} must have the marks {BEGIN} and {END}: write them where the results belong.")
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
