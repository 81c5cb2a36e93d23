"""Trainings that are killed, go on, and know how long they took."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning.callbacks import ModelCheckpoint

from lace_lightning import cli
from lace_lightning.artifacts import read_json
from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.configuration import config_folder
from lace_lightning.data.batches import TensorBatches
from lace_lightning.report.sweeps import register_resolvers
from lace_lightning.run.check import check
from lace_lightning.run.train import fit_classifier, fit_to_end
from lace_lightning.training.checkpoints import SealedCheckpoints, newest_checkpoint
from lace_lightning.training.learning_rates import with_staircase

EVERY = {"every_n_train_steps": 2}


class Slow(pl.LightningModule):
    """A step takes 10 s of the clock; the step with number `dies` is the last."""

    def __init__(self, clock: list[float], dies: int | None = None) -> None:
        super().__init__()
        self.weight, self.clock, self.dies, self.steps = torch.nn.Parameter(torch.ones(2)), clock, dies, []

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_index: int) -> torch.Tensor:
        self.clock[0] += 10
        if self.global_step == self.dies:
            raise KeyError("killed")
        self.steps.append(self.global_step)
        return (batch[0] @ self.weight).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> TensorBatches:
        return TensorBatches((torch.eye(2).repeat(6, 1),), 4, 0).within(self.trainer)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("pytorch_lightning.callbacks.timer.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def settings(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        trainer={"accelerator": "cpu", "max_epochs": 2, "enable_model_summary": False},
        callbacks={},
        metrics=SimpleNamespace(progress=False),
        paths=SimpleNamespace(output=str(tmp_path / "out")),
    )


def test_seconds_are_kept_over_resumes_and_the_end_is_found(
    settings, clock: list[float], tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "kept"
    whole = Slow(clock)
    trainer, seconds = fit_to_end(settings, whole, Data(), tmp_path / "whole", [], EVERY)
    assert (trainer.global_step, seconds) == (6, 60)
    with pytest.raises(KeyError):
        fit_to_end(settings, Slow(clock, dies=5), Data(), folder, [], EVERY)
    assert "found" not in capsys.readouterr().err
    clock[0] += 1000
    rest, last = Slow(clock), newest_checkpoint(folder)
    # What was done after the last checkpoint is done again, and counts once.
    assert fit_to_end(settings, rest, Data(), folder, [], EVERY)[1] == 60
    assert f"found {last}" in capsys.readouterr().err
    assert rest.steps == [4, 5]
    assert torch.equal(rest.weight, whole.weight)
    assert read_json(folder / "steps.json") == {"steps": 6, "seconds": 60}
    end, found = newest_checkpoint(folder), Slow(clock)
    written = end.stat().st_mtime_ns
    assert fit_to_end(settings, found, Data(), folder, [], EVERY)[1] == 60
    assert (found.steps, newest_checkpoint(folder), end.stat().st_mtime_ns) == ([], end, written)
    assert torch.equal(found.weight, whole.weight)


def test_the_end_is_kept_where_it_is_between_two_checkpoints(settings, clock: list[float], tmp_path: Path) -> None:
    first, second = Slow(clock), Slow(clock)
    for module in (first, second):
        trainer, seconds = fit_to_end(
            settings, module, Data(), tmp_path / "kept", [], {"every_n_train_steps": 4}, max_steps=5
        )
        assert (trainer.global_step, seconds) == (5, 50)
    assert (first.steps, second.steps) == ([0, 1, 2, 3, 4], [])
    assert torch.equal(first.weight, second.weight)


def test_a_training_may_take_so_much_time_and_no_more(settings, clock: list[float], tmp_path: Path) -> None:
    """Thirty seconds, of all sittings, are three steps of ten."""
    settings.trainer["max_time"] = "00:00:00:30"
    for _ in range(2):
        trainer, seconds = fit_to_end(settings, Slow(clock), Data(), tmp_path / "kept", [], EVERY)
        assert (trainer.global_step, seconds) == (3, 30)


def test_epochs_of_a_staircase_are_those_of_the_data(settings, clock: list[float], tmp_path: Path) -> None:
    """Three batches an epoch, whatever else ends the training."""

    class Stairs(Slow):
        def configure_optimizers(self) -> dict:
            return with_staircase(torch.optim.SGD(self.parameters(), 1.0), self.trainer, 0, 0.5, 1)

        def on_train_batch_end(self, *_: object) -> None:
            self.rates.append(self.optimizers().param_groups[0]["lr"])

    settings.trainer["max_epochs"] = 1000
    module = Stairs(clock)
    module.rates = []
    fit_to_end(settings, module, Data(), tmp_path / "kept", [], EVERY, max_steps=7)
    assert module.rates == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_a_checkpoint_that_says_no_seconds_goes_on(settings, clock: list[float], tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", save_last=True, save_top_k=0, every_n_train_steps=4)
    written = {"plugins": [SealedCheckpoints()], "logger": False, "enable_progress_bar": False}
    trainer = pl.Trainer(**settings.trainer, callbacks=[keep], **written)
    with pytest.raises(KeyError):
        trainer.fit(Slow(clock, dies=5), Data())
    rest = Slow(clock)
    assert fit_to_end(settings, rest, Data(), tmp_path / "kept", [], EVERY)[1] == 20
    assert rest.steps == [4, 5]


def test_control_reports_the_training_of_its_classifier(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))

    def minutes(*overrides: str) -> float | None:
        monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
        cli.main(["+experiment=cifar10_heun", "debug=fast", "logger=csv", "hydra.run.dir=out", *overrides])
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"].get("minutes/training")

    begin = time.perf_counter()
    trained = minutes("task.export=classifier")
    assert trained is not None
    assert 0 < trained < (time.perf_counter() - begin) / 60
    file = next((tmp_path / "cache" / "systems").rglob("system.safetensors"))
    classifier = AttributeClassifier.load(file)
    assert trained == classifier.metadata["seconds"] / 60
    assert not list((tmp_path / "cache" / "systems").rglob("*.ckpt"))
    assert minutes() == trained
    assert minutes(f"classifier.weights={tmp_path}/out/classifier.safetensors") is None
    # A file that was changed since is not used: the training is done once more.
    del classifier.metadata["seconds"]
    classifier.save(file)
    again = minutes()
    assert again is not None
    assert again != trained


def test_a_shorter_training_is_not_taken_from_a_longer_one(tmp_path: Path, monkeypatch) -> None:
    folders = []

    class Stop(Exception):
        pass

    def fit(settings: Any, module: Any, data: Any, folder: Path, *_: Any, **__: Any) -> None:
        folders.append(folder)
        raise Stop

    monkeypatch.setattr("lace_lightning.run.train.fit_to_end", fit)
    for overrides in (["trainer.max_steps=20"], ["trainer.max_steps=10"], ["trainer.max_epochs=3"], []):
        register_resolvers()
        paths = [f"paths.output={tmp_path}/out", f"paths.cache={tmp_path}/cache"]
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = compose("config", overrides=["+experiment=portraits_labeler", *overrides, *paths])
        with pytest.raises(Stop):
            fit_classifier(check(cfg))
    assert len(set(folders)) == 4
