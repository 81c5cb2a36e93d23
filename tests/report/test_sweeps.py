"""Reports of sweeps: figures are those of the latest attempt of every job."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lace_lightning.report import sweeps
from lace_lightning.report.record import jobs


@pytest.fixture(autouse=True)
def _no_outcomes() -> Iterator[None]:
    sweeps.OUTCOMES.clear()
    yield
    sweeps.OUTCOMES.clear()


def _job(folder: Path, seed: int, acc: float | None, method: str = "ode") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sweeps.mark(folder)
    (folder / "config.yaml").write_text(
        json.dumps({"metrics": {"seed": seed}, "method": method, "query": {"text": "a == 1"}})
    )
    if acc is not None:
        (folder / "metrics.json").write_text(json.dumps({"metrics": {"acc": acc, "fid": 2.0, "brightness": 0.5}}))
        Image.new("RGB", (4, 4)).save(folder / "samples.png")


def _fail(folder: Path) -> None:
    (folder / "failed.json").write_text(json.dumps({"error": "too few evaluations", "kind": "LaceError"}))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _three(folder: Path) -> None:
    for seed in (1, 2, 3):
        _job(folder / f"seed={seed}", seed, seed / 10)


def test_a_metric_of_one_s_own_is_a_column(tmp_path: Path) -> None:
    _three(tmp_path)
    text = sweeps.summarize(tmp_path, ["metrics.seed"], [], "title")
    assert text.startswith("title: 3 done\n")
    assert "0.2 ± 0.1" in text
    assert [row["brightness"] for row in _rows(tmp_path / "results.csv")] == ["0.5"] * 3
    assert (tmp_path / "acc_against_fid.png").is_file()
    (row,) = _rows(tmp_path / "seeds.csv")
    assert (row["seeds"], float(row["acc"])) == ("3", pytest.approx(0.2))


def test_a_job_that_fails_has_no_old_figures(tmp_path: Path) -> None:
    _three(tmp_path)
    _fail(tmp_path / "seed=3")
    text = sweeps.summarize(tmp_path, ["metrics.seed"], [], "title")
    assert "2 done, 1 failed" in text
    assert "seed=3: too few evaluations" in text
    row = _rows(tmp_path / "results.csv")[2]
    assert (row["state"], row["acc"], row["reason"]) == ("failed", "", "too few evaluations")
    assert _rows(tmp_path / "seeds.csv")[0]["seeds"] == "2"
    assert [folder.name for folder in jobs(tmp_path.name, _as_outputs(tmp_path), 0.0)] == ["seed=1", "seed=2"]


def _as_outputs(folder: Path) -> Path:
    """Return a folder of outputs whose sweep of the same name is `folder`."""
    outputs = folder / "outputs"
    (outputs / "sweeps").mkdir(parents=True)
    (outputs / "sweeps" / folder.name).symlink_to(folder)
    return outputs


def test_a_job_that_was_stopped_has_no_old_figures(tmp_path: Path) -> None:
    _three(tmp_path)
    config = tmp_path / "seed=2" / "config.yaml"
    os.utime(config, ns=(0, (tmp_path / "seed=2" / "metrics.json").stat().st_mtime_ns + 1))
    assert [record["state"] for record in sweeps.collect(tmp_path)] == ["done", "unfinished", "done"]
    assert sweeps.collect(tmp_path)[1]["metrics"] == {}
    # What this process has found to be done is done.
    sweeps.OUTCOMES["seed=2"] = "skipped"
    assert sweeps.collect(tmp_path)[1]["metrics"]["acc"] == 0.2


def test_a_failure_of_this_process_counts_without_a_file(tmp_path: Path) -> None:
    _three(tmp_path)
    sweeps.OUTCOMES["seed=1"] = "failed"
    record = sweeps.collect(tmp_path)[0]
    assert (record["state"], record["metrics"]) == ("failed", {})


def test_a_job_that_starts_anew_has_no_old_failure(tmp_path: Path) -> None:
    _three(tmp_path)
    _fail(tmp_path / "seed=1")
    sweeps.mark(tmp_path / "seed=1")
    assert sweeps.is_done(tmp_path / "seed=1")
    assert not sweeps.is_done(tmp_path / "nothing")


def test_pictures_side_by_side_are_of_jobs_that_are_done(tmp_path: Path) -> None:
    for number, method in enumerate(("ode", "heun")):
        _job(tmp_path / method, number, 0.5, method)
    _fail(tmp_path / "heun")
    sweeps.draw_side_by_side(tmp_path, ["ode", "heun"])
    assert not (tmp_path / "side_by_side.png").exists()
    sweeps.mark(tmp_path / "heun")
    sweeps.draw_side_by_side(tmp_path, ["ode", "heun"])
    assert Image.open(tmp_path / "side_by_side.png").size == (8, 4)


def test_sweeps_together_leave_out_failures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _job(tmp_path / name / "job", 1, 0.5)
    _fail(tmp_path / "b" / "job")
    sweeps.draw_together(tmp_path / "a", [tmp_path / "b"])
    assert not (tmp_path / "a" / "together.png").exists()
    (tmp_path / "b" / "job" / "failed.json").unlink()
    sweeps.draw_together(tmp_path / "a", [tmp_path / "b"])
    assert (tmp_path / "a" / "together.png").is_file()


def test_importing_loads_neither_arrays_nor_plots() -> None:
    code = (
        "import sys, lace_lightning.report.sweeps; "
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'PIL', 'torchmetrics') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
