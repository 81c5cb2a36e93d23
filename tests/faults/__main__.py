"""The long version of the tests of faults; prints a table: `python -m tests.faults [--scale 1.0]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from lace_lightning.report.text import Table
from tests.faults import harness, situations


def main() -> int:
    """Try all faults, print the table, and return 1 where something was lost or false."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full numbers")
    parser.add_argument("--only", help="part of the name of the faults that are tried")
    given = parser.parse_args()
    tallies: list[harness.Tally] = []

    def number(full: int) -> int:
        return max(1, round(full * given.scale))

    def tried(name: str) -> bool:
        return given.only is None or given.only in name

    with tempfile.TemporaryDirectory() as root:
        for work in ("pairs", "statistics", "pictures", "training", "conversion", "download", "sweep"):
            if tried(f"kill {work}"):
                tallies.append(
                    _timed(
                        root,
                        f"kill {work}",
                        lambda name, folder, work=work: harness.killed_everywhere(
                            name, getattr(situations, work), folder, number(60 if work == "sweep" else 100)
                        ),
                    )
                )
        for work in ("pairs", "statistics", "pictures"):
            if tried(f"start together {work}"):
                tallies.append(
                    _timed(
                        root,
                        f"start together {work}",
                        lambda name, folder, work=work: harness.together(
                            name, getattr(situations, work), folder, number(100)
                        ),
                    )
                )
        for work, flips in (("pairs", 5000), ("statistics", 2000), ("pictures", 2000)):
            if tried(f"flip {work}"):
                tallies.append(
                    _timed(
                        root,
                        f"flip {work}",
                        lambda name, folder, work=work, flips=flips: _flips(name, work, folder, number(flips)),
                    )
                )
        if tried("flip checkpoint"):
            tallies.append(
                _timed(root, "flip checkpoint", lambda name, folder: _checkpoint(name, folder, number(1000)))
            )
    print(Table(["fault", "tried", "survived", "lost", "false"], [tally.row() for tally in tallies]).text())
    for tally in tallies:
        for note in tally.notes[:20]:
            print(f"{tally.name}: {note}")
    return int(any(tally.lost or tally.false for tally in tallies))


def _timed(root: str, name: str, run: object) -> harness.Tally:
    folder = Path(root) / name.replace(" ", "_")
    folder.mkdir()
    start = time.monotonic()
    tally: harness.Tally = run(name, folder)  # type: ignore[operator]
    print(f"{name}: {tally.survived} of {tally.tried} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return tally


def _flips(name: str, work: str, folder: Path, flips: int) -> harness.Tally:
    read = {"pairs": situations.read_pairs}.get(work, getattr(situations, work))
    read(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in harness.OF_THE_PROCESS]
    return harness.flipped(name, files, lambda: read(folder), flips)


def _checkpoint(name: str, folder: Path, flips: int) -> harness.Tally:
    return harness.flipped(name, [folder / "last.ckpt"], situations.read_checkpoint(folder), flips)


if __name__ == "__main__":
    sys.exit(main())
