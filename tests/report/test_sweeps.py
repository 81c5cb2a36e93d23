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
        "print({'torch', 'numpy', 'matplotlib', 'PIL', 'torchmetrics.metric'} & set(sys.modules) or '[]')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


FAST = ["-m", "+experiment=cifar10_heun", "debug=fast", "logger=csv", "metrics.fid=none", "metrics.seed=1,2,3"]


def _basic_launcher() -> type:
    """Return Hydra's launcher: the class that it has found itself, as its first search imports the module anew."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    return next(kind for kind in Plugins.instance().discover(Launcher) if kind.__name__ == "BasicLauncher")


@pytest.mark.parametrize("returns", [False, True])
def test_a_killed_job_of_a_launcher_is_failed_and_the_others_are_recorded(
    returns: bool, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Launchers raise what killed a job (submitit, joblib), or hand it to Hydra, which raises it."""
    from hydra.core.utils import JobReturn, JobStatus

    from lace_lightning import cli

    launcher = _basic_launcher()
    original = launcher.launch
    killed = RuntimeError("Job 7 (task: 0)\nwas cancelled\nError stream produced:\n" + "-" * 40 + "\nTraceback")

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        done = [*original(self, overrides[:1], 0), *original(self, overrides[2:], 2)]
        # What a process leaves that was killed before it had any figures.
        folder = Path(self.config.hydra.sweep.dir) / sweeps.job_folder(overrides[1])
        folder.mkdir()
        sweeps.mark(folder)
        (folder / "config.yaml").write_text("metrics: {seed: 2}")
        if not returns:
            raise killed
        return [*done, JobReturn(status=JobStatus.FAILED, _return_value=killed)]

    monkeypatch.setattr(launcher, "launch", launch)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(FAST)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "error: Job 7 (task: 0) was cancelled"
    assert "Traceback" not in printed.err
    assert "2 done" in printed.out
    assert "1 failed" in printed.out
    rows = {row["metrics.seed"]: row for row in _rows(tmp_path / "outputs/sweeps/cifar10_heun/results.csv")}
    assert {seed: row["state"] for seed, row in rows.items()} == {"1": "done", "2": "failed", "3": "done"}
    assert rows["2"]["reason"] == "Job 7 (task: 0) was cancelled"
    assert rows["1"]["evaluations"]


def test_submitit_waits_for_the_jobs_behind_one_that_was_killed(tmp_path: Path, monkeypatch) -> None:
    """Its launcher asks one job after the other for its result and ends at the first error."""
    import types

    class Job:
        def __init__(self, overrides: list[str], result: Exception | None) -> None:
            self.overrides, self.result = overrides, result

        def submission(self) -> types.SimpleNamespace:
            return types.SimpleNamespace(args=(self.overrides, "hydra.sweep.dir"))

        def results(self) -> list[str]:
            if self.result is not None:
                raise self.result
            return ["result"]

    core = types.ModuleType("submitit.core.core")
    core.Job = Job  # type: ignore[attr-defined]
    for name in ("submitit", "submitit.core"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "submitit.core.core", core)
    for _ in range(2):
        sweeps._wait_for_every_job(tmp_path)
    killed = Job(["metrics.seed=1"], RuntimeError("Job 7\nhas no output\nNo error stream produced. Look at: x"))
    assert killed.results()[0].return_value is None
    assert Job(["metrics.seed=2"], None).results() == ["result"]
    (record,) = sweeps.collect(tmp_path)
    assert (record["state"], record["reason"]) == ("failed", "Job 7 has no output")
    assert record["config"] == {"metrics": {"seed": 1}}
    assert sweeps.OUTCOMES[record["folder"]] == "failed"


SQUEUE = """#!/bin/sh
case "$*" in
    *"--jobs 7_0 "*) echo 7_0 ;;
    *"--jobs 7_1 "*) ;;
    *"--jobs 7_2 "*) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
    *) echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1 ;;
esac
"""


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for squeue")
def test_slurm_s_answers_on_a_job(tmp_path: Path, monkeypatch) -> None:
    """A controller that does not answer is no reason to give a job up."""
    (tmp_path / "squeue").write_text(SQUEUE)
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert [sweeps._is_queued(f"7_{number}") for number in range(4)] == [True, False, False, None]
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert sweeps._is_queued("7_2") is None


@pytest.mark.parametrize("accounts", [False, True])
def test_a_job_that_left_slurm_s_queue_without_a_result_is_lost(accounts: bool, tmp_path: Path, monkeypatch) -> None:
    import types

    # A requeued job is out of the queue for a moment.
    answers: list[bool | None] = [True, False, True, None, False, False, False, False]
    monkeypatch.setattr(sweeps, "_is_queued", lambda job: answers.pop(0))
    monkeypatch.setattr(sweeps, "QUEUE_PAUSE", 0.0)
    ticks = iter(range(0, 1000, 10))
    monkeypatch.setattr(sweeps.time, "monotonic", lambda: float(next(ticks)))
    job = types.SimpleNamespace(
        job_id="7_1",
        paths=types.SimpleNamespace(result_pickle=tmp_path / "result.pkl"),
        watcher=types.SimpleNamespace(is_done=lambda job, mode: accounts),
    )
    if accounts:
        sweeps._wait_for_slurm(job)
    else:
        with pytest.raises(RuntimeError, match="Job 7_1 left the queue of Slurm without a result"):
            sweeps._wait_for_slurm(job)
    assert answers == []
    (tmp_path / "result.pkl").touch()
    for last in (False, None):
        # The result of an attempt that Slurm repeats is not the last one.
        answers.extend([True, True, last])
        sweeps._wait_for_slurm(job)
        assert answers == []


def test_a_launcher_that_cannot_start_has_no_report(tmp_path: Path, monkeypatch, capsys) -> None:

    from lace_lightning import cli

    def launch(self, *_: object, **__: object) -> None:
        raise RuntimeError("no srun here")

    monkeypatch.setattr(_basic_launcher(), "launch", launch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="no srun here"):
        cli.main(FAST)
    assert not list(tmp_path.rglob("results.csv"))
