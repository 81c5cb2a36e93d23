"""What people type: trainings that are killed, that go on, and that are taken from the cache."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lace_lightning import cli
from lace_lightning.classifiers import load_classifier
from lace_lightning.errors import LaceError
from lace_lightning.training.checkpoints import newest_checkpoint

from .test_cli import TRAININGS, few_digits, few_pictures, results

pytestmark = pytest.mark.usefixtures("cli_folder")


@pytest.mark.parametrize("name", TRAININGS)
def test_training_experiments_run_and_go_on(name: str, tmp_path: Path, request, monkeypatch, capsys) -> None:
    from lace_lightning.classifiers.embedding import IdentityEmbedding
    from lace_lightning.generators import check_generator, load_generator

    if name.startswith("cifar10"):
        monkeypatch.setenv("LACE_CIFAR10", str(request.getfixturevalue("shared_dir") / "data"))
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lace_lightning.data.cifar10.load_cifar10", few_pictures)
    monkeypatch.setattr("lace_lightning.data.cifar10.SIZES", {"train": 40, "test": 10})
    monkeypatch.setenv("LACE_MNIST", str(tmp_path))
    monkeypatch.setattr("lace_lightning.data.digits.load_digits", few_digits)
    monkeypatch.setattr("lace_lightning.data.digits.VALIDATION", 10)
    dataset, kind = name.split("_")
    size = {
        "generator": [
            "training.discriminator.channels=[8,8,8,8]",
            "training.generator.synthesis_kwargs.channels={4:8,8:8,16:8,32:8}",
        ],
        "labeler": ["training.arguments={widths: [4, 4, 8]}"],
        "judge": ["training.arguments.width=4"],
        "identity": ["training.arguments.width=4"],
    }[kind]
    if name in ("portraits_judge", "digits_judge"):
        size = ["training.arguments={widths: [4, 4, 8], blocks: 1}"]
    size = ["training.arguments.width=4"] if name == "digits_labeler" else size
    size += ["training.start=null"] if name == "portraits_generator" else []
    command = [f"+experiment={name}", "debug=fast_training", "logger=csv", "task.checkpoint_steps=1", *size]
    cli.main(command)
    exported = next(tmp_path.rglob(f"outputs/**/{name}.safetensors"))
    if kind == "generator":
        check_generator(load_generator(exported))
    elif kind == "identity":
        vectors = IdentityEmbedding.load(exported)(torch.rand(2, 3, 32, 32))
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    else:
        classifier = load_classifier(exported)
        assert classifier.schema.name == dataset
        assert classifier(torch.zeros(2, 3, 32, 32)).shape == (2, classifier.schema.num_logits)
    folder = next((tmp_path / "cache" / "training").rglob("last.ckpt")).parent
    steps = torch.load(newest_checkpoint(folder), weights_only=True)["global_step"]
    cli.main(command)
    assert torch.load(newest_checkpoint(folder), weights_only=True)["global_step"] == steps


def test_a_classifier_does_not_depend_on_what_is_already_there(tmp_path: Path, monkeypatch) -> None:
    """More pairs are steered by a first classifier, which lies in the cache or is trained in the same process."""
    states = []
    for cache, seeds in (("found", (1, 2)), ("trained", (2,))):
        monkeypatch.setenv("LACE_CACHE", str(tmp_path / cache))
        for seed in seeds:
            monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
            cli.main(
                [
                    "+experiment=portraits_glasses",
                    "debug=fast",
                    "pairs.more=30",
                    f"seed={seed}",
                    "sampler=heun",
                    "logger=csv",
                    "hydra.mode=RUN",
                    "task.export=classifier",
                    f"hydra.run.dir={cache}{seed}",
                ]
            )
        states.append(load_file(tmp_path / f"{cache}2" / "classifier.safetensors"))
    assert all(torch.equal(values, states[1][name]) for name, values in states[0].items())


def test_a_killed_training_on_pairs_goes_on_at_its_last_epoch(tmp_path: Path, monkeypatch) -> None:
    from lace_lightning.training.latent_classifier import LatentClassifier

    command = ["+experiment=cifar10_heun", "debug=fast", "trainer.max_epochs=5", "logger=csv", "hydra.run.dir=out"]
    original, epochs = LatentClassifier.training_step, []

    def dying(self, batch, index: int):
        epochs.append(self.current_epoch)
        if len(epochs) > 1 and epochs[-2:] == [2, 3]:
            raise LaceError("killed")
        return original(self, batch, index)

    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
    monkeypatch.setattr(LatentClassifier, "training_step", dying)
    with pytest.raises(SystemExit):
        cli.main(command)
    assert sorted(set(epochs)) == [0, 1, 2, 3]
    epochs.clear()
    cli.main(command)
    assert sorted(set(epochs)) == [3, 4]
    assert not list((tmp_path / "cache").rglob("*.ckpt"))


def test_a_killed_training_on_fresh_pairs_goes_on_with_those_it_would_have_had(tmp_path: Path, monkeypatch) -> None:
    from lace_lightning.data import FreshBatches

    command = [
        "+experiment=cifar10_heun",
        "debug=fast",
        "classifier=distilled",
        "classifier.fresh_pairs=40",
        "classifier.min_steps=0",
        "pairs.holdout=[0.2,0.2]",
        "logger=csv",
        "task.export=classifier",
    ]
    original, made, states = FreshBatches.pairs, [], []

    def dying(self, first: int):
        made.append(first)
        if len(made) == 14:
            raise LaceError("killed")
        return original(self, first)

    monkeypatch.setattr(FreshBatches, "pairs", dying)
    for name in ("whole", "killed"):
        monkeypatch.setenv("LACE_CACHE", str(tmp_path / name))
        monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
        if name == "killed":
            with pytest.raises(SystemExit):
                cli.main([*command, f"hydra.run.dir=out/{name}"])
            monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
        cli.main([*command, f"hydra.run.dir=out/{name}"])
        states.append(load_file(tmp_path / "out" / name / "classifier.safetensors"))
        metrics = results(tmp_path / "out" / name)[0]["metrics"]
        assert 0 <= metrics["classifier/ece/label"] <= 1
        assert metrics["classifier/nll/label"] > 0
        assert 0.1 <= metrics["calibration/temperature/label"] <= 10
        saved = load_classifier(tmp_path / "out" / name / "classifier.safetensors").metadata
        assert saved["calibration"]["temperature"]["label"] == pytest.approx(metrics["calibration/temperature/label"])
    assert made == [*range(0, 40, 4), *range(0, 16, 4), *range(12, 40, 4)]
    assert all(torch.equal(values, states[1][name]) for name, values in states[0].items())


# tests/test_stopping.py sends both signals to every phase of a run, and goes on with a stopped training.
@pytest.mark.parametrize(
    ("signal_name", "status"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)]
)
def test_a_killed_training_is_no_success_and_goes_on(
    tmp_path: Path, cli_cache: Path, signal_name: str, status: int
) -> None:
    command = [
        sys.executable,
        "-m",
        "lace_lightning",
        "+experiment=cifar10_heun",
        "debug=fast",
        "logger=csv",
        f"seed={status}",
        "hydra.run.dir=out",
    ]
    process = subprocess.Popen([*command, "trainer.max_epochs=100000"], stderr=subprocess.PIPE, text=True)
    csv = tmp_path / "out" / "csv" / "metrics.csv"
    for _ in range(600):
        # A training holds the lock of its folder, and its log is written after the first epochs.
        if csv.is_file() and list(cli_cache.glob("systems/*/.owner")):
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(getattr(signal, signal_name))
    _, printed = process.communicate(timeout=60)
    assert process.returncode == status
    assert "the same command goes on" in printed
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert not any(path.stat().st_mtime > csv.stat().st_ctime for path in cli_cache.rglob("system.safetensors"))
    cli.main([*command[3:], "trainer.max_epochs=1"])
    assert len(results(tmp_path / "out")) == 1
