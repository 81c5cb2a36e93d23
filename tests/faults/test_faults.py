"""The short version of `make faults`: kills, concurrent starts, flips and full disks leave no false result."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lace_lightning.errors import LaceError
from tests.faults import harness, situations

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")


@pytest.mark.parametrize("work", ["pairs", "statistics", "pictures", "conversion", "download"])
def test_a_killed_process_leaves_nothing_false(work: str, tmp_path: Path) -> None:
    tally = harness.killed_everywhere(work, getattr(situations, work), tmp_path, most=12)
    assert tally.survived == tally.tried > 0, tally.notes


def test_a_killed_training_goes_on_from_a_whole_checkpoint(tmp_path: Path) -> None:
    tally = harness.killed_everywhere("training", situations.training, tmp_path, most=8)
    assert tally.survived == tally.tried > 0, tally.notes


def test_two_processes_that_start_together_make_one_set_of_pairs(tmp_path: Path) -> None:
    tally = harness.together("pairs", situations.pairs, tmp_path, rounds=5)
    assert tally.survived == tally.tried == 5, tally.notes


def test_flipped_bits_are_found_and_the_files_are_made_again(tmp_path: Path) -> None:
    for name in ("pairs", "statistics", "pictures"):
        folder = tmp_path / name
        read = {"pairs": situations.read_pairs}.get(name, getattr(situations, name))
        read(folder)
        files = [path for path in folder.rglob("*") if path.is_file() and path.name not in harness.OF_THE_PROCESS]
        tally = harness.flipped(name, files, lambda read=read, folder=folder: read(folder), 40)
        assert tally.survived == tally.tried > 0, tally.notes


def test_a_damaged_checkpoint_leaves_the_one_before(tmp_path: Path) -> None:
    read = situations.read_checkpoint(tmp_path)
    tally = harness.flipped("checkpoint", [tmp_path / "last.ckpt"], read, 30)
    assert tally.survived == tally.tried == 30, tally.notes


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(tmp_path: Path) -> None:
    try:
        with harness.small_disk(tmp_path / "disk", "200k") as disk:
            with pytest.raises(LaceError, match=r"could not be written \(No space left on device\)"):
                situations.pairs(disk, 2000)
            assert not harness.leftovers(disk)
            assert len(situations.pairs(disk, 40)) == 40
    except OSError as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
