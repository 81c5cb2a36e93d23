"""Run and record the tables of several systems: `python experiments/tables.py [--reuse] [name ...]`, without names all.

A table is a folder with a table.yaml: rows with the command of their runs and the name of their entry in
conf/paper.yaml. Runs that are done are not repeated. A row that fails does not stop the others. The results are written
between the marks of the folder's README (see record.py).
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..artifacts import read_json, write_json
from ..errors import LaceError
from ..stopping import run_command, stop_status
from .paper import paper_figures
from .record import HERE, KEPT, insert, jobs, machine, setting_table


def main() -> None:
    """Run the tables that are named on the command line, and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(path.parent.name for path in HERE.glob("*/table.yaml")))
    parser.add_argument("--reuse", action="store_true", help="record the results in outputs/ and run nothing")
    options = parser.parse_args()
    failed = []
    for name in options.names:
        start = 0.0 if options.reuse else time.time() - 1
        for line in () if options.reuse else commands(name):
            print(f"=== {name}: {' '.join(line)}", flush=True)
            try:
                run_command([sys.executable, "-m", "lace_lightning", *line])
            except SystemExit as error:
                if stop_status(error) is not None:
                    raise
                failed.append(" ".join(line))
        try:
            write(name, Path("outputs"), start)
        except SystemExit as error:
            failed.append(str(error))
    if failed:
        raise SystemExit(
            "These runs and tables failed; run the same command again after a correction:\n" + "\n".join(failed)
        )


def definition(name: str) -> dict[str, Any]:
    """Return the content of a table.yaml: `rows`, and the `common` overrides, the `seeds` and `paper` of all rows.

    `paper` of the table lists keys of the paper's figures; `paper` of a row names an entry of conf/paper.yaml.

    Args:
        name: Name of the table's folder.

    Returns:
        Plain containers; a row has `row`, `run` and `paper`, the paper's figures by key, and may have `seeds`, `part`
        and `trained`.

    Raises:
        SystemExit: When there is no such table, or when conf/paper.yaml lacks a name in it.
    """
    path = HERE / name / "table.yaml"
    if not path.is_file():
        raise SystemExit(
            f"There is no {path}: the tables are {', '.join(sorted(p.parent.name for p in HERE.glob('*/table.yaml')))}."
        )
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    for row in content["rows"]:
        try:
            row["paper"] = paper_figures(row["paper"], content.get("paper")) if "paper" in row else {}
        except LaceError as error:
            raise SystemExit(f"{path}, row '{row['row']}': {error}") from None
    return dict(content)


def commands(name: str) -> list[list[str]]:
    """Return the arguments of every run of a table: each row with each of its seeds.

    Args:
        name: Name of the table's folder.

    Raises:
        SystemExit: When there is no such table.
    """
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
    """Return the name of a row's folder.

    Args:
        row: The row, as table.yaml has it.

    Example:
        >>> folder_of({"part": "glasses", "row": "LACE-ODE, η = 0.1"})
        'glasses_lace_ode_0_1'
    """
    return re.sub(r"\W+", "_", f"{row.get('part', '')} {row['row']}", flags=re.ASCII).strip("_").lower()


def write(name: str, outputs: Path, since: float = 0.0) -> None:
    """Write experiments/<name>/ from the results of a table.

    A row without results keeps those that are recorded in experiments/<name>/, with its picture. Rows that were never
    made are named.

    Args:
        name: Name of the table's folder.
        outputs: Folder that runs write to.
        since: Seconds since the epoch; results of sweeps that were marked before are left out.

    Raises:
        SystemExit: When no row has results, or the README has no marks.
    """
    rows, target = definition(name)["rows"], HERE / name
    recorded = _recorded(target)
    lines: list[str] = []
    everything: list[dict[str, Any]] = []
    drawn: list[str] = []
    pictures: dict[str, Path] = {}
    for part in dict.fromkeys(row.get("part", "") for row in rows):
        of_part = [row for row in rows if row.get("part", "") == part]
        folders = {row["row"]: jobs(f"{name}/{folder_of(row)}", outputs, since) for row in of_part}
        results = [
            {**result, "row": row["row"], "part": part, "paper": row["paper"]}
            for row in of_part
            for result in [read_json(folder / "metrics.json") for folder in folders[row["row"]]]
            or recorded.get((part, row["row"]), [])
        ]
        done = {result["row"] for result in results}
        lines += [*([f"### {part}", ""] if part else []), *_table(of_part, results), ""]
        if missing := [row["row"] for row in of_part if row["row"] not in done]:
            lines += [f"Not made yet: {'; '.join(missing)}.", ""]
        for row in of_part:
            file = f"{folder_of(row)}.png"
            made = next(iter(folders[row["row"]]), None)
            source = target / file if made is None else made / "samples.png"
            if row["row"] in done and source.is_file():
                pictures[file] = source
                title = ": ".join(filter(None, (part, row["row"])))
                drawn += [f"{title}:", "", f"![{title}]({file})", ""]
        everything += results
    if not everything:
        raise SystemExit(f"No results of {name} lie in {outputs}: run the table first.")
    for old in target.glob("*.png"):
        if pictures.get(old.name) != old:
            old.unlink()
    for file, source in pictures.items():
        if source != target / file:
            shutil.copy(source, target / file)
    dates = sorted({result["date"] for result in everything})
    lines = [
        f"Run on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {machine()}. Figures are means ± standard "
        f"deviations over "
        "the seeds.",
        "",
        *lines,
        *drawn,
    ]
    write_json(target / "results.json", [{key: result[key] for key in ("row", "part", *KEPT)} for result in everything])
    insert(target / "README.md", name, "\n".join(lines).strip())


def _recorded(target: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the results in results.json of a table's folder, by part and row."""
    if not (path := target / "results.json").is_file():
        return {}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in read_json(path):
        found.setdefault((result["part"], result["row"]), []).append(result)
    return found


def _table(rows: Sequence[Mapping[str, Any]], results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of the rows with results.

    The last columns are the number of seeds, and the time of training here in words.
    """
    done = {
        row["row"]: [number for number, result in enumerate(results) if result["row"] == row["row"]] for row in rows
    }
    done = {row: numbers for row, numbers in done.items() if numbers}
    if not done:
        return []
    trained = {row["row"]: row.get("trained", "") for row in rows}
    keep = 2 if any(trained.values()) else 1
    words = [[len(numbers), trained[row]][:keep] for row, numbers in done.items()]
    table = setting_table(done, [_shared(result) for result in results])
    return table.with_columns(["seeds", "trained here"][:keep], words).markdown().splitlines()


def _shared(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without the figures that only one kind of system has."""
    alone = ("own/", "log_p", "branch/", "prior/branch/")
    return {
        **result,
        "metrics": {name: value for name, value in result["metrics"].items() if not name.startswith(alone)},
    }


if __name__ == "__main__":
    main()
