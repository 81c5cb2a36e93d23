"""What W&B, TensorBoard and MLflow get of runs and sweeps, read back from their files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lace_lightning import cli, wandb_service
from lace_lightning.artifacts import read_json
from lace_lightning.callbacks import SequentialEditing
from lace_lightning.errors import LaceError
from lace_lightning.examples import tiny_labeler, tiny_lace, tiny_schema
from lace_lightning.loggers import LastingLogger, check_extra, training_names
from lace_lightning.query import parse
from lace_lightning.report import sweeps
from lace_lightning.report.paper import paper_figures
from lace_lightning.systems.editing import EditOptions

from .test_cli import _wandb_records

# Enough steps for points of the curve: one every 50 steps.
TINY = ["+experiment=cifar10_heun", "debug=fast", "trainer.max_epochs=22", "metrics.fid=none"]
# The name of a job has all of its overrides.
START = "fid=none_max_epochs=22_"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """A sweep of two jobs with three loggers; the second job finds the training of the first."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LACE_CACHE", str(folder / "cache"))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
        patch.setenv(wandb_service.OUTCOME, "")
        for name in ("WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        sweeps.OUTCOMES.clear()
        loggers = [name for name, package in (("tensorboard", "tensorboard"), ("mlflow", "mlflow")) if _has(package)]
        cli.main(["-m", *TINY, f"logger={','.join(['csv', 'wandb', *loggers])}", "metrics.seed=1,2"])
        sweeps.OUTCOMES.clear()
        yield folder


def _has(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def read_wandb(path: Path) -> SimpleNamespace:
    """Return what an offline run of W&B holds."""
    from wandb.proto import wandb_internal_pb2

    found = SimpleNamespace(run=None, config={}, rows=[], summary={}, axes={}, exit=None, artifacts={})
    for data in _wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            items = record.run.config.update
            found.config |= {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        elif kind == "config":
            for item in record.config.update:
                found.config["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "history":
            found.rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
        elif kind == "summary":
            for item in record.summary.update:
                found.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "metric":
            found.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            found.exit = record.exit.exit_code
        elif kind == "artifact":
            found.artifacts[record.artifact.name] = [entry.path for entry in record.artifact.manifest.contents]
    return found


def _jobs(home: Path) -> list[SimpleNamespace]:
    paths = sorted(home.glob("outputs/sweeps/cifar10_heun/*seed=*/wandb/offline-run-*/run-*.wandb"))
    assert len(paths) == 2
    return [read_wandb(path) for path in paths]


def _table(home: Path, run: SimpleNamespace, key: str) -> dict[str, Any]:
    entry = next(row[f"tables/{key}/path"] for row in run.rows if f"tables/{key}/path" in row)
    (path,) = home.rglob(f"*{run.run.run_id}/files/{entry}")
    return json.loads(path.read_text())


def test_wandb_names_groups_kinds_and_tags(home: Path) -> None:
    for number, job in enumerate(_jobs(home), 1):
        assert (job.run.display_name, job.run.run_group, job.run.job_type) == (
            f"{START}seed={number}",
            "cifar10_heun",
            "control",
        )
        assert set(job.run.tags) == {"domain=cifar10", "generator=cifar10", "method=Heun", "attribute=label"}
        assert job.exit == 0
    (path,) = home.glob("outputs/sweeps/cifar10_heun/wandb/offline-run-*/run-*.wandb")
    summary = read_wandb(path)
    assert (summary.run.display_name, summary.run.run_group, summary.run.job_type) == (
        "cifar10_heun summary",
        "cifar10_heun",
        "sweep",
    )
    assert "varies=metrics.seed" in summary.run.tags
    assert not any("anonymous" in path.read_text(errors="replace") for path in home.rglob("output.log"))


def test_the_curve_of_a_training_is_logged_again_where_it_is_found(home: Path) -> None:
    first, second = (
        [{k: v for k, v in row.items() if k.startswith("training/")} for row in job.rows if "training/step" in row]
        for job in _jobs(home)
    )
    (kept,) = home.glob("cache/systems/*/curve.json")
    rows = read_json(kept)["rows"]
    assert len(rows) >= 5
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert list(losses) == [49, 99, 149, 199, 249]
    # A training logs validation and steps of one step in two rows, which the kept curve joins.
    for logged in (first, second):
        seen = {row["training/step"]: row["training/loss"] for row in logged if "training/loss" in row}
        assert seen == losses
        assert any("training/val/loss" in row for row in logged)
    for job in _jobs(home):
        assert job.axes["training/loss"] == job.axes["training/val/loss"] == "training/step"
    # CSV has one folder for trainings and tests, and loses none.
    for path in home.glob("outputs/sweeps/cifar10_heun/*seed=*/csv/metrics.csv"):
        text = path.read_text()
        assert "training/loss" in text
        assert "sampling/acc" in text


def test_wandb_has_samples_results_and_the_paper(home: Path) -> None:
    for job in _jobs(home):
        table = _table(home, job, "samples")
        assert table["columns"][:4] == ["picture", "seed", "asked", "judge_label"]
        assert {"holds", "p", "evaluations", "disagrees"} <= set(table["columns"])
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert [row["seed"] for row in rows] == list(range(40))
        assert all(row["disagrees"] == (not row["holds"]) and 0 <= row["p"] <= 1 for row in rows)
        # The pictures are in the artefact of the table.
        (files,) = (files for name, files in job.artifacts.items() if "tablessamples" in name)
        assert sum(name.endswith(".png") for name in files) == 40
        assert sum(row["holds"] for row in rows) / 40 == job.summary["sampling/acc"]
        results = {row[0]: row[1:] for row in _table(home, job, "results")["data"]}
        assert results["acc"] == ["ACC", job.summary["sampling/acc"], "0.972"]
        by_class = _table(home, job, "by_class")["data"]
        assert [row[:2] for row in by_class][:2] == [["label", "all"], ["label", "airplane"]]
        assert len(by_class) == 11
        assert job.summary["paper/acc"] == paper_figures("cifar10 LACE-Heun")["acc"]
        assert "results-cifar10_heun" in job.artifacts
        assert job.config["sampler"]["atol"] > 0
        # The picture of the samples has a name of its own.
        assert job.summary["samples/_type"] == "images/separated"


def test_the_summary_of_a_sweep_has_pictures_tables_and_files(home: Path) -> None:
    (path,) = home.glob("outputs/sweeps/cifar10_heun/wandb/offline-run-*/run-*.wandb")
    summary = read_wandb(path)
    assert summary.summary["jobs/done"] == 2
    assert summary.exit == 0
    results = _table(home, summary, "results")
    assert results["columns"][:2] == ["metrics.seed", "state"]
    assert [row[0] for row in results["data"]] == [1, 2]
    best = _table(home, summary, "best")
    accs = [row[results["columns"].index("acc")] for row in results["data"]]
    assert best["data"][0][best["columns"].index("acc")] == max(accs)
    seeds = _table(home, summary, "seeds")
    assert seeds["data"][0][seeds["columns"].index("acc mean")] == pytest.approx(sum(accs) / 2)
    assert "sweep-cifar10_heun" in summary.artifacts
    folder = home / "outputs" / "sweeps" / "cifar10_heun"
    assert not (folder / "csv").exists()


def test_tensorboard_has_scalars_pictures_and_hparams(home: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for number in (1, 2):
        (folder,) = home.glob(f"outputs/sweeps/cifar10_heun/*seed={number}-*/tensorboard")
        events = EventAccumulator(str(folder))
        events.Reload()
        tags = events.Tags()
        assert [event.step for event in events.Scalars("training/loss")] == [49, 99, 149, 199, 249]
        acc = read_json(folder.parent / "metrics.json")["metrics"]["acc"]
        assert events.Scalars("sampling/acc")[0].value == pytest.approx(acc)
        assert events.Scalars("hparams/sampling/acc")[0].value == pytest.approx(acc)
        assert "samples" in tags["images"]
        assert {"tables/results/text_summary", "tables/samples/text_summary"} <= set(tags["tensors"])
        start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        assert b"sampler.atol" in start


def test_mlflow_has_params_metrics_with_steps_and_artefacts(home: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{home / 'outputs' / 'mlruns'}")
    experiment = client.get_experiment_by_name("cifar10_heun")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {f"{START}seed=1", f"{START}seed=2", "cifar10_heun summary"}
    for name in (f"{START}seed=1", f"{START}seed=2"):
        run = runs[name]
        assert run.info.status == "FINISHED"
        assert run.data.params["sampler._target_"] == "lace_lightning.samplers.Heun"
        assert run.data.tags["job_type"] == "control"
        assert run.data.tags["attribute"] == "label"
        history = client.get_metric_history(run.info.run_id, "training/loss")
        assert [metric.step for metric in history] == [49, 99, 149, 199, 249]
        assert "sampling/acc.label.ship" in run.data.metrics
        artefacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert artefacts == {"pictures", "tables", "results-cifar10_heun"}
        table = {item.path for item in client.list_artifacts(run.info.run_id, "tables/samples")}
        assert {"tables/samples/samples.csv", "tables/samples/samples_0039.png"} <= table


def test_an_interrupted_run_is_failed_in_wandb(tmp_path: Path, monkeypatch, home: Path) -> None:
    from lace_lightning.systems.lace import LACE

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(home / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(LACE, "draw", stop)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        cli.main([*TINY, "logger=wandb", "hydra.run.dir=out"])
    (path,) = tmp_path.rglob("run-*.wandb")
    # W&B's service is another process, which a busy machine lets write later.
    end = time.monotonic() + 60
    while read_wandb(path).exit is None and time.monotonic() < end:
        time.sleep(0.5)
    assert read_wandb(path).exit == 1


def test_a_missing_extra_is_refused_before_any_work(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lace_lightning.loggers.extras.find_spec", lambda name: None)
    with pytest.raises(LaceError, match=r'pip install "lace_lightning\[mlflow\]"'):
        check_extra("logger.mlflow", "lace_lightning.loggers.mlflow_runs.MLFlowLogger")
    with pytest.raises(SystemExit):
        cli.main([*TINY, "logger=tensorboard", "hydra.run.dir=out"])
    assert "logger.tensorboard needs the package tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "read"),
    [("logger=csv,wandb", "logger=[csv,wandb]"), ("logger=[csv,mlflow]", "logger=[csv,mlflow]"), ("logger=csv",) * 2],
)
def test_several_loggers_are_of_one_run(given: str, read: str) -> None:
    assert cli.normalize(["-m", "+experiment=cifar10_ode", given])[1] == read


def test_a_wrong_logger_of_a_list_is_named() -> None:
    with pytest.raises(LaceError, match=r"There is no logger 'wandbb'\. Did you mean 'wandb'"):
        cli.check_choices(["logger=[csv,wandbb]"])


def test_what_is_logged_in_a_training_is_its_curve_for_any_logger() -> None:
    from pytorch_lightning.loggers import Logger

    class Own(Logger):
        name, version = "own", 1

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.seen.append((metrics, step))

        def log_hyperparams(self, params: Any) -> None:
            """Take settings."""

    own = Own()
    logger = LastingLogger("own", own)
    with training_names([logger, object()]):
        logger.log_metrics({"train/loss": 1.0, "val/loss": 2.0}, 49)
    logger.log_metrics({"sampling/acc": 0.5}, 0)
    assert own.seen == [({"training/loss": 1.0, "training/val/loss": 2.0}, 49), ({"sampling/acc": 0.5}, 0)]


def test_edits_have_strips_and_figures_of_every_step() -> None:
    schema, lace = tiny_schema(), tiny_lace()
    edits = [parse("hat == 1", schema), parse("hat == 0", schema)]
    judge = tiny_labeler()
    editing = SequentialEditing(
        judge, edits, EditOptions(), num_samples=5, batch_size=2, strips=3, table=64, progress=False,
        identity=lambda a, b: (a - b).flatten(1).norm(dim=1),
    )  # fmt: skip
    result = editing.evaluate(lace)
    rows = result.series["editing"]
    assert [row["step"] for row in rows] == [1, 2]
    for number, row in enumerate(rows, 1):
        for name in ("acc", "des", "id"):
            assert row[name] == result.metrics[f"edit{number}/{name}"]
    table = result.tables["strips"]
    assert table.columns == ["strip", "seed", "edit 1", "holds 1", "edit 2", "holds 2"]
    assert [row[1] for row in table.rows] == [0, 1, 2]
    # Before and after each edit, side by side.
    size = lace.generator.image_shape[-1]
    assert table.rows[0][0].width == 3 * min(size, table.rows[0][0].height)
    quiet = SequentialEditing(judge, edits, EditOptions(), num_samples=2, batch_size=2, progress=False).evaluate(lace)
    assert quiet.tables == {}
    assert torch.isfinite(torch.tensor([row["des"] for row in quiet.series["editing"]])).all()
