"""Run and write down the tables of systems side by side: `python experiments/tables.py [--reuse] [name ...]`, without
names all of them.

A table is a folder with a table.yaml: rows with the command that makes them and the paper's figures. What has been done
is found and not done again, so this one command makes whatever is missing; a row that cannot be made leaves the others
alone. The results stand between the marks of the folder's README (see record.py).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..artifacts import read_json, write_json
from .record import HERE, KEPT, insert, jobs, machine, table


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(path.parent.name for path in HERE.glob("*/table.yaml")))
    parser.add_argument("--reuse", action="store_true", help="write down what lies in outputs/ and run nothing")
    options = parser.parse_args()
    failed = []
    for name in options.names:
        start = 0.0 if options.reuse else time.time() - 1
        for line in () if options.reuse else commands(name):
            print(f"=== {name}: {' '.join(line)}", flush=True)
            if subprocess.run([sys.executable, "-m", "lace_lightning", *line]).returncode:
                failed.append(" ".join(line))
        try:
            write(name, Path("outputs"), start)
        except SystemExit as error:
            failed.append(str(error))
    if failed:
        raise SystemExit("These did not succeed:\n" + "\n".join(failed))


def definition(name: str) -> dict[str, Any]:
    """Return what table.yaml says: rows {row, run, seeds, part, paper, trained}, and `common` overrides and `seeds` of
    all rows.
    """
    path = HERE / name / "table.yaml"
    if not path.is_file():
        raise SystemExit(
            f"There is no {path}: the tables are {', '.join(sorted(p.parent.name for p in HERE.glob('*/table.yaml')))}."
        )
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    return dict(content)


def commands(name: str) -> list[list[str]]:
    """Return the arguments of every run of a table: each row with each of its seeds."""
    about = definition(name)
    return [
        [
            *about.get("common", []),
            *row["run"],
            *seed.split(),
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir=outputs/sweeps/{name}/{folder_of(row)}",
        ]
        for row in about["rows"]
        for seed in about["seeds"][: row.get("seeds")]
    ]


def folder_of(row: Mapping[str, Any]) -> str:
    """Return the name of a row's folder."""
    return re.sub(r"\W+", "_", f"{row.get('part', '')} {row['row']}", flags=re.ASCII).strip("_").lower()


def write(name: str, outputs: Path, since: float = 0.0) -> None:
    """Write experiments/<name>/ from what lies under `outputs` and was made, or found, after `since`; rows without
    results are named.
    """
    rows, target = definition(name)["rows"], HERE / name
    lines: list[str] = []
    everything: list[dict[str, Any]] = []
    shown: list[str] = []
    pictures: dict[str, Path] = {}
    for part in dict.fromkeys(row.get("part", "") for row in rows):
        of_part = [row for row in rows if row.get("part", "") == part]
        folders = {row["row"]: jobs(f"{name}/{folder_of(row)}", outputs, since) for row in of_part}
        results = [
            {**read_json(folder / "metrics.json"), "row": row["row"], "part": part, "paper": row.get("paper", {})}
            for row in of_part
            for folder in folders[row["row"]]
        ]
        lines += [*([f"### {part}", ""] if part else []), *_table(of_part, results), ""]
        if missing := [row for row, found in folders.items() if not found]:
            lines += [f"Not made yet: {'; '.join(missing)}.", ""]
        for row in of_part:
            if (source := next(iter(folders[row["row"]]), target) / "samples.png").is_file():
                pictures[f"{folder_of(row)}.png"] = source
                title = ": ".join(filter(None, (part, row["row"])))
                shown += [f"{title}:", "", f"![{title}]({folder_of(row)}.png)", ""]
        everything += results
    if not everything:
        raise SystemExit(f"No results of {name} lie in {outputs}: run the table first.")
    for old in target.glob("*.png"):
        old.unlink()
    for file, source in pictures.items():
        shutil.copy(source, target / file)
    dates = sorted({result["date"] for result in everything})
    lines = [
        f"Run on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {machine()}. Figures are means ± standard "
        f"deviations over "
        "the seeds.",
        "",
        *lines,
        *shown,
    ]
    write_json(target / "results.json", [{key: result[key] for key in ("row", "part", *KEPT)} for result in everything])
    insert(target / "README.md", name, "\n".join(lines).strip())


def _table(rows: Sequence[Mapping[str, Any]], results: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of rows with results; its last columns: how many seeds there are, and how long it was trained
    here, in words.
    """
    done = {
        row["row"]: [number for number, result in enumerate(results) if result["row"] == row["row"]] for row in rows
    }
    done = {row: numbers for row, numbers in done.items() if numbers}
    if not done:
        return []
    trained = {row["row"]: row.get("trained", "") for row in rows}
    extra = [
        ["seeds", "trained here"],
        ["---", "---"],
        *([str(len(numbers)), trained[row]] for row, numbers in done.items()),
    ]
    keep = 2 if any(trained.values()) else 1
    lines = table(done, [_shared(result) for result in results])
    return [f"{line} {' | '.join(words[:keep])} |" for line, words in zip(lines, extra, strict=True)]


def _shared(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without the figures that one kind of system alone has."""
    alone = ("own/", "log_p", "branch/", "prior/branch/")
    return {
        **result,
        "metrics": {name: value for name, value in result["metrics"].items() if not name.startswith(alone)},
    }


if __name__ == "__main__":
    main()
