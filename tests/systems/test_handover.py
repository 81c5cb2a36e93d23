"""Folders of samples: the files, going on after a stop, damage, other commands, full disks."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning.errors import LaceError
from lace_lightning.pictures.convert import from_bytes
from lace_lightning.systems import handover
from lace_lightning.systems.handover import SampleFolder, Samples

RECIPE = {"query": "hat == 1", "seeds": "0-9"}
FILES = ["contact.png", "latents.npz", "report.json", "samples.csv"]


def batch(first: int, rows: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[dict[str, object]]]:
    """Samples that are functions of their position."""
    number = torch.arange(first, first + rows)
    images = (number[:, None, None, None] * torch.ones(1, 3, 8, 8)).byte()
    latents = {"z": number[:, None].float().expand(-1, 4), "ws": number[:, None, None].float().expand(-1, 2, 5)}
    table = [{"seed": int(n), "asked": "hat == 1", "holds": bool(n % 2), "p": n / 10} for n in number]
    return images, latents, table


def write(folder: Path, count: int = 10, size: int = 3, until: int | None = None, **settings: object) -> list[int]:
    """Write what is missing in batches, up to a position; return the first positions of the batches made."""
    made = []
    with SampleFolder(folder, count, RECIPE, **settings) as out:  # type: ignore[arg-type]
        for first in range(0, count, size):
            rows = min(size, count - first)
            if (until is None or first < until) and not out.has(first, rows):
                out.write(first, *batch(first, rows))
                made.append(first)
        if until is None:
            out.finish({"query": "hat == 1"})
    return made


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_a_folder_holds_pictures_latents_table_and_report(tmp_path: Path) -> None:
    write(tmp_path)
    assert sorted(read(tmp_path)) == [f"{n:04}.png" for n in range(10)] + FILES
    assert all((pixels(tmp_path / f"{n:04}.png") == n).all() for n in range(10))
    with np.load(tmp_path / "latents.npz") as latents:
        assert sorted(latents) == ["ws", "z"]
        assert latents["z"].tolist() == [[n] * 4 for n in range(10)]
        assert latents["ws"].shape == (10, 2, 5)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "samples.csv").read_text())))
    assert rows[3] == {"file": "0003.png", "seed": "3", "asked": "hat == 1", "holds": "true", "p": "0.3"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["query"], report["count"], report["holds"]) == ("hat == 1", 10, 0.5)
    assert Image.open(tmp_path / "contact.png").width > 80
    # What was needed to go on does not hold the latents a second time.
    assert not list((tmp_path / ".samples").glob("*.npy"))


def test_a_stopped_folder_goes_on_and_becomes_the_same(tmp_path: Path) -> None:
    write(tmp_path / "once")
    assert write(tmp_path / "twice", until=6) == [0, 3]
    assert write(tmp_path / "twice") == [6, 9]
    assert read(tmp_path / "once") == read(tmp_path / "twice")
    assert write(tmp_path / "twice") == []


@pytest.mark.parametrize("damage", ["remove", "cut", "ledger"])
def test_damaged_samples_are_made_again(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    before = read(tmp_path)
    if damage == "remove":
        (tmp_path / "0004.png").unlink()
    elif damage == "cut":
        (tmp_path / "0004.png").write_bytes(before["0004.png"][:20])
    else:
        (ledger,) = (tmp_path / ".samples").glob("rows-*.jsonl")
        text = ledger.read_text()
        ledger.write_text(text.replace('"seed": 4', '"seed": 5'))
    if damage == "ledger":
        assert write(tmp_path) == [3]
    else:
        with pytest.warns(UserWarning, match="3 samples in .* are missing or damaged: they are made again"):
            assert write(tmp_path) == [3]
    assert read(tmp_path) == before


def test_damaged_latents_are_made_again(tmp_path: Path) -> None:
    write(tmp_path)
    before = read(tmp_path)
    (tmp_path / "latents.npz").write_bytes(before["latents.npz"][:-5])
    with pytest.warns(UserWarning, match="10 samples"):
        assert write(tmp_path) == [0, 3, 6, 9]
    assert read(tmp_path) == before


def test_another_command_is_refused_with_the_difference(tmp_path: Path) -> None:
    write(tmp_path, until=3)
    before = read(tmp_path)
    with pytest.raises(LaceError) as error, SampleFolder(tmp_path, 10, {**RECIPE, "seeds": "0-99"}):
        pass
    assert str(error.value) == (
        f"The folder '{tmp_path}' holds samples of another command (seeds is '0-9' there and '0-99' here): choose "
        "another folder, or remove this one."
    )
    assert read(tmp_path) == before


def test_pictures_of_others_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "0000.png").write_text("mine")
    with (
        pytest.raises(LaceError, match=r"has '0000.png', which this command would write over"),
        SampleFolder(tmp_path, 10, RECIPE),
    ):
        pass
    assert read(tmp_path) == {"0000.png": b"mine"}


def test_a_full_disk_leaves_what_was_made(tmp_path: Path, monkeypatch) -> None:
    renamed = os.replace

    def full(source: str, target: str) -> None:
        if "0006" in os.fspath(target):
            raise OSError(errno.ENOSPC, "No space left on device", target)
        renamed(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(handover.os, "replace", full)
        with pytest.raises(LaceError, match=r"could not be written \(No space left on device\): free space"):
            write(tmp_path)
    assert 6 in write(tmp_path)
    write(tmp_path / "once")
    assert {n: c for n, c in read(tmp_path).items() if n != "once"} == read(tmp_path / "once")


def test_a_folder_without_all_its_samples_is_not_finished(tmp_path: Path) -> None:
    with SampleFolder(tmp_path, 10, RECIPE) as out:
        out.write(0, *batch(0, 3))
        with pytest.raises(LaceError, match="must hold 10 samples and holds 3 from the first on"):
            out.finish({})
    assert not (tmp_path / "report.json").exists()


def test_rows_and_channels_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    images, latents, table = batch(0, 3)
    with SampleFolder(tmp_path, 3, RECIPE) as out:
        with pytest.raises(LaceError, match="needs 3 pictures and as many rows of the table, received 3 and 2"):
            out.write(0, images, latents, table[:2])
        with pytest.raises(LaceError, match="has 1 to 4 channels, received 6"):
            out.write(0, images.repeat(1, 2, 1, 1), latents, table)
    with pytest.raises(LaceError, match="at least 1 sample, received 0"):
        SampleFolder(tmp_path, 0, RECIPE)


def test_names_grow_with_the_count() -> None:
    assert SampleFolder("folder", 10_000, RECIPE).names(7) == ["0007.png"]
    assert SampleFolder("folder", 10_001, RECIPE).names(7) == ["00007.png"]


def test_processes_write_one_folder(tmp_path: Path) -> None:
    for rank in (1, 0):
        with SampleFolder(tmp_path / "two", 10, RECIPE, rank=rank) as out:
            for first in range(3 * rank, 10, 6):
                out.write(first, *batch(first, min(3, 10 - first)))
    with SampleFolder(tmp_path / "two", 10, RECIPE) as out:
        out.finish({"query": "hat == 1"})
    write(tmp_path / "one")
    assert read(tmp_path / "one") == read(tmp_path / "two")


def test_steps_have_a_picture_and_a_row_each(tmp_path: Path) -> None:
    images = torch.arange(4, dtype=torch.uint8).reshape(2, 2, 1, 1, 1).expand(-1, -1, 1, 6, 6)
    table = [{"seed": seed, "step": step, "holds": step == 1} for seed in (7, 8) for step in (0, 1)]
    with SampleFolder(tmp_path, 2, RECIPE, steps=["before", "hat == 1"]) as out:
        out.write(0, images, {"ws": torch.zeros(2, 2, 3, 4)}, table)
        report = out.finish({})
    assert [int(pixels(tmp_path / f"000{i}_{k}.png")[0, 0]) for i in (0, 1) for k in (0, 1)] == [0, 1, 2, 3]
    assert (tmp_path / "samples.csv").read_text().splitlines()[2] == "0000_1.png,7,1,true"
    assert report["holds"] == 1.0
    with np.load(tmp_path / "latents.npz") as latents:
        assert latents["ws"].shape == (2, 2, 3, 4)


def test_samples_are_saved_as_the_same_files(tmp_path: Path) -> None:
    images, latents, table = batch(0, 10)
    samples = Samples(from_bytes(images), z=latents["z"], ws=latents["ws"], seeds=range(10), table=table)
    samples.report = {"query": "hat == 1"}
    samples.save(tmp_path / "saved")
    write(tmp_path / "written")
    saved = {name: content for name, content in read(tmp_path / "saved").items() if name != ".lock"}
    assert saved == read(tmp_path / "written")
    samples.save(tmp_path / "saved")
    samples.table[0]["seed"] = 77
    with pytest.raises(LaceError, match="holds samples of another command"):
        samples.save(tmp_path / "saved")
