"""Every script of examples/ runs, at a small size."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
# Arguments of a small run, folders that it writes, and what it prints.
SMALL = {
    "own_module": (["--pairs=100"], ["."], r"\d+ of 100 pictures are red"),
    "own_vae": (["--epochs=6", "--pictures=500", "--pairs=100"], ["digits", "eights"], r"in \d+ of 100 pictures"),
    "cifar10": (["--count=10"], ["ships_controlled", "two_ships", "pets"], r"all ten classes: ACC [01]\.\d+"),
    "portraits": (["--pairs=100", "--count=2"], ["0", "4"], r"in force: smile == yes, age == 0.8"),
    "reward": (["--count=1"], ["plain", "dark"], r"dark: mean brightness -"),
}


def test_every_script_has_a_small_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SMALL)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SMALL)
def test_a_script_runs(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    arguments, folders, words = SMALL[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, "--output=out"])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert re.search(words, capsys.readouterr().out)
    assert all((tmp_path / "out" / folder / "contact.png").is_file() for folder in folders)
