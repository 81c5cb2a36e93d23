"""Progress of a sweep: its state is that of the files of its jobs."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

from omegaconf import OmegaConf

from lace_lightning.report import sweep_progress, sweeps
from lace_lightning.report.sweep_progress import SweepProgress

from .folders import make_run, make_sweep

KEYS = ["sampler.atol", "sampler.rtol"]


def _config(typed: list[str], given: dict[str, str], sweeper: str = "BasicSweeper") -> OmegaConf:
    node = {"overrides": {"task": typed}, "sweeper": {"_target_": f"hydra.{sweeper}", "params": given}}
    return OmegaConf.create({"hydra": node})


def test_the_state_is_that_of_the_files(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "grid")
    state = SweepProgress(folder, "grid", 12, KEYS, 0.0).look()
    assert (state.done, state.failed, state.running) == (8, 1, 0)
    # The best of those that did not fail.
    text = "8 of 12 jobs done, 0 running, 1 failed; best ACC 0.944 (atol 0.001, rtol 0.01); 30 s left"
    assert state.text(90) == text


def test_jobs_of_earlier_sweeps_do_not_count(tmp_path: Path) -> None:
    folder, now = make_sweep(tmp_path / "grid"), time.time()
    for job in (path for path in folder.iterdir() if path.is_dir()):
        for name in ("metrics.json", sweeps.SEEN):
            os.utime(job / name, (now - 100, now - 100))
    progress = SweepProgress(folder, "grid", 9, KEYS, now)
    assert progress.look().text(1) == "0 of 9 jobs done, 0 running, 0 failed"
    # A job that is skipped is done, and says nothing of the time that one takes.
    skipped = folder / "atol=0.1,rtol=0.1"
    sweeps.mark(skipped)
    assert (progress.look().done, progress.look().fresh) == (1, 0)
    started = folder / "atol=0.1,rtol=0.01"
    sweeps.mark(started)
    (started / "metrics.json").unlink()
    assert progress.look().running == 1


def test_a_line_is_printed_when_something_changes(tmp_path: Path, monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(sweep_progress, "LOOK", 0.01)
    monkeypatch.setattr(sweep_progress, "PAUSE", 0.0)
    folder = tmp_path / "grid"
    progress = SweepProgress(folder, "grid", 2, [], time.time())
    progress.begin()
    for name in ("a", "b"):
        make_run(folder / name)
        until = time.monotonic() + 5
        while f"{'ab'.index(name) + 1} of 2 jobs done" not in stream.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    progress.end()
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith(f"grid: 2 jobs in {folder}")
    assert lines[-1] == "grid: 2 of 2 jobs done, 0 running, 0 failed; best ACC 0.800"
    assert len(lines) <= 6


def test_the_number_of_jobs_and_the_order_of_settings() -> None:
    config = _config(["+experiment=x", "seed=1,2"], {"query.text": '"a == 1","b == 0"', "seed": "1,2,3"})
    assert sweeps.job_count(config) == 4
    assert sweeps.varied_keys(config) == ["seed", "query.text"]
    assert sweeps.varied_keys(_config(["seed=1"], {"seed": "1,2,3", "a": "1,2"})) == ["a"]
    assert sweeps.job_count(_config(["seed=1,2"], {}, "OptunaSweeper")) is None
