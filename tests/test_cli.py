"""What people type: every experiment on tiny sizes, messages, resuming, the loggers."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from safetensors.torch import load_file

from lace_lightning import cli
from lace_lightning.artifacts import read_json
from lace_lightning.classifiers import load_classifier
from lace_lightning.data.pairs import PairSet
from lace_lightning.errors import LaceError
from lace_lightning.portraits import PORTRAITS_SCHEMA
from lace_lightning.report import sweeps
from lace_lightning.training.checkpoints import newest_checkpoint

EXPERIMENTS = [name for name, _ in cli.describe("experiment")]
TRAININGS = [
    "cifar10_labeler",
    "cifar10_judge",
    "cifar10_generator",
    "digits_labeler",
    "digits_judge",
    "digits_generator",
    "portraits_labeler",
    "portraits_judge",
    "portraits_generator",
    "portraits_identity",
]
OTHERS = [name for name in EXPERIMENTS if name.endswith(("_reference", "_sheet", "_check", "_layers"))]
# What needs files that are not shipped: tests/test_cli_paper.py and tests/data/test_celeba.py run these on small ones.
GIVEN = [
    name
    for name in EXPERIMENTS
    if name.startswith(("ffhq_", "metfaces_", "afhq_cats_", "celeba_", "your", "pictures_"))
]
# Trained on pictures: tests/test_cli_models.py.
GIVEN += [f"cifar10_{name}{size}" for name in ("jem", "cond_ebm", "vp_sde", "ve_sde") for size in ("", "_full")]
GIVEN += ["portraits_cond_ebm", *(f"digits_{name}" for name in ("jem", "cond_ebm", "vp_sde", "ve_sde"))]
# Their features are EfficientNet-Lite0's, which take long: tests/test_cli_faces.py.
GIVEN += [name for name in EXPERIMENTS if name.startswith("faces_")]
SHIPPED = [name for name in EXPERIMENTS if name not in (*TRAININGS, *OTHERS, *GIVEN)]
# Few samples, quick settings: enough that everything runs.
TINY = {
    "portraits_edit_styleflow": ["seed=1"],
    "cifar10_ode_grid": ["sampler.atol=1e-1,1e-2", "sampler.rtol=1e-1"],
    "cifar10_ld_grid": ["sampler.num_steps=2,3", "sampler.step_size=1e-2,1e-1", "sampler.noise_std=0"],
    "cifar10_spaces": ["metrics.num_samples=10", "metrics.batch_size=10", "sampler.atol=0.1", "sampler.rtol=0.1"],
    "cifar10_pc": ["sampler.num_steps=25,30"],
    "cifar10_euler": ["sampler.step_size=0.1,0.2"],
    "digits_slant_thickness": ["seed=1"],
    "digits_logic": ["seed=1", "query.logic=exact"],
    "digits_edit": ["seed=1"],
    "portraits_glasses": ["seed=1,2", "pairs.more=30"],
    "portraits_gender_smile_age": ["seed=1"],
    "portraits_zero_shot": ["seed=1"],
    "portraits_edit": ["seed=1", "editing=sequential,portraits_layers,portraits_from_start"],
    "portraits_edit_order": ["seed=1"],
    "portraits_logic": ["seed=1", "query.logic=exact"],
    "portraits_temperature": ["seed=1"],
    "cifar10_exact": ["method=lace_cubic,annealed_controlled", "metrics.posterior_sets=2", "metrics.num_samples=20"],
    "portraits_rare": ["method=lace_gauss_newton,auto", "query.text=glasses == 1 and smile == 0"],
    "portraits_stiff": ["method=lace_cubic,lace_gauss_newton"],
    "portraits_attributes": ["seed=1", "classifier.arguments.mode=separate"],
}
JOBS = {
    "portraits_edit_styleflow": 2,
    "cifar10_pc": 2,
    "cifar10_euler": 2,
    "cifar10_spaces": 4,
    "cifar10_ode_grid": 2,
    "cifar10_ld_grid": 4,
    "digits_slant_thickness": 1,
    "digits_logic": 4,
    "digits_edit": 2,
    "digits_latent_jem": 2,
    "portraits_glasses": 2,
    "portraits_gender_smile_age": 2,
    "portraits_zero_shot": 2,
    "portraits_edit": 3,
    "portraits_edit_order": 2,
    "portraits_logic": 4,
    "portraits_temperature": 2,
    "portraits_attributes": 5,
    "cifar10_exact": 2,
    "portraits_rare": 2,
    "portraits_stiff": 2,
    "cifar10_latent_jem": 2,
    "portraits_latent_jem": 2,
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, cache) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(cache))
    monkeypatch.delenv("LACE_TRACEBACK", raising=False)
    sweeps.OUTCOMES.clear()


def results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("metrics.json"))]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_experiment_runs(name: str, tmp_path: Path) -> None:
    cli.main([f"+experiment={name}", "debug=fast", "logger=csv", *TINY.get(name, [])])
    found = results(tmp_path / "outputs")
    assert len(found) == JOBS.get(name, 1)
    for result in found:
        assert 0 <= result["metrics"].get("acc", result["metrics"].get("holds", -1)) <= 1
        assert result["metrics"]["evaluations"] + result["metrics"].get("forward", 0) > 0
        assert result["metrics"]["fd_judge"] > 0
        assert result["metrics"]["fd_judge/unconditional"] > 0
        domain = name.split("_")[0]
        count = 55_000 if domain == "digits" else 50_000
        assert result["protocol"]["frechet"]["reference"] == f"{domain} train, {count} pictures"
        assert f"experiment={name}" in result["command"] or "pytest" in result["command"]
    for picture in tmp_path.rglob("samples.png"):
        with Image.open(picture) as image:
            assert image.size[0] > 128
    if name.endswith("grid"):
        folder = tmp_path / "outputs" / "sweeps" / name
        assert {"results.csv", "acc_against_fid.png", "curves.png"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", TRAININGS)
def test_training_experiments_run_and_go_on(name: str, tmp_path: Path, request, monkeypatch, capsys) -> None:
    from lace_lightning.classifiers.embedding import IdentityEmbedding
    from lace_lightning.generators import check_generator, load_generator

    if name.startswith("cifar10"):
        monkeypatch.setenv("LACE_CIFAR10", str(request.getfixturevalue("shared_dir") / "data"))
    monkeypatch.setenv("LACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lace_lightning.data.cifar10.load_cifar10", _few_pictures)
    monkeypatch.setattr("lace_lightning.data.cifar10.SIZES", {"train": 40, "test": 10})
    monkeypatch.setenv("LACE_MNIST", str(tmp_path))
    monkeypatch.setattr("lace_lightning.data.digits.load_digits", _few_digits)
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


@pytest.mark.parametrize("name", ["portraits_check", "cifar10_check"])
def test_labeler_and_judge_are_checked(name: str, tmp_path: Path, request, monkeypatch, capsys) -> None:
    if name.startswith("cifar10"):
        monkeypatch.setenv("LACE_CIFAR10", str(request.getfixturevalue("shared_dir") / "data"))
    cli.main(
        [
            f"+experiment={name}",
            "logger=csv",
            "dataset.module.limit=500",
            "metrics.num_samples=100",
            "hydra.run.dir=out",
        ]
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    if name == "portraits_check":
        # The ground-truth check: 97 % on every discrete attribute, a mean error of at most 0.05 on every continuous
        # one.
        discrete = {a.name for a in PORTRAITS_SCHEMA if a.kind == "discrete"}
        for who in ("labeler", "judge"):
            assert all(metrics[f"{who}/{a}"] >= (0.97 if a in discrete else 0.95) for a in PORTRAITS_SCHEMA.names)
    else:
        assert min(metrics["labeler/label"], metrics["judge/label"]) > 0.8
    assert all(0 <= value <= 1 for value in metrics.values())
    assert "agreement" in capsys.readouterr().out


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


def test_style_layers_are_measured(tmp_path: Path, capsys) -> None:
    cli.main(
        [
            "+experiment=portraits_layers",
            "logger=csv",
            "metrics.num_samples=100",
            "metrics.batch_size=50",
            "hydra.run.dir=out",
        ]
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    # Where someone looks is decided in the coarse layers, not by the colours of the last.
    assert metrics["layer7/yaw"] < 0.05 < max(metrics[f"layer{i}/yaw"] for i in range(4))
    assert "layers:\n  smile: [" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(
            [
                "+experiment=portraits_layers",
                "generator=module",
                "~generator.truncation",
                "generator.module._target_=torch.nn.Tanh",
                "generator.z_dim=3072",
                "generator.reshape=[3,32,32]",
                "generator.image_shape=[3,32,32]",
                "logger=csv",
                "hydra.run.dir=none",
            ]
        )
    assert "needs a generator that has them" in capsys.readouterr().err


def test_a_sheet_of_portraits_is_drawn(tmp_path: Path) -> None:
    cli.main(["+experiment=portraits_sheet", "task.resolution=16", "logger=csv", "hydra.run.dir=out"])
    with Image.open(tmp_path / "out" / "samples.png") as image:
        assert image.size[0] > 10 * 64
        assert image.size[1] > 14 * 64
    assert results(tmp_path / "out")[0]["metrics"]["portraits"] == 140


def test_reference_statistics_are_those_of_the_pictures(tmp_path: Path, shared_dir: Path, monkeypatch) -> None:
    from lace_lightning.labelers import Labeler
    from lace_lightning.metrics import load_statistics

    monkeypatch.setenv("LACE_CIFAR10", str(shared_dir / "data"))
    monkeypatch.setattr("lace_lightning.data.cifar10.load_cifar10", _few_pictures)
    cli.main(
        ["+experiment=cifar10_reference", "logger=csv", "judge.views=1", "judge.precision=float32", "hydra.run.dir=out"]
    )
    statistics, protocol = load_statistics(tmp_path / "out" / "cifar10_reference.safetensors")
    judge = Labeler("cifar10_judge", precision="float32")
    features, _ = judge.features_and_logits(_few_pictures(None, "train", None)[0].float() / 127.5 - 1)
    torch.testing.assert_close(statistics["mean"].float(), features.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(statistics["covariance"].float(), torch.cov(features.T), atol=1e-3, rtol=1e-3)
    assert judge.digest in protocol["network"]
    assert results(tmp_path / "out")[0]["metrics"]["fd/test"] > 0


def _few_digits(root, split):
    generator = torch.Generator().manual_seed(0)
    count = 40 if split == "train" else 10
    pictures = torch.randint(0, 256, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return pictures, torch.arange(count) % 10


def _few_pictures(root, split, cache, download=False):
    count = {"train": 40, "test": 10}[split]
    pictures = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pictures, torch.arange(count) % 10


def test_a_sweep_records_failures_goes_on_and_resumes(tmp_path: Path, capsys) -> None:
    command = [
        "-m",
        "+experiment=cifar10_ode",
        "debug=fast",
        "logger=csv",
        "sampler.atol=1e-1,1e-2",
        "sampler.max_evaluations=5,1000",
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "2 done, 2 failed" in printed.out or "2 failed, 2 done" in printed.out
    assert "within 5 evaluations" in printed.err
    folder = tmp_path / "outputs" / "sweeps" / "cifar10_ode"
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    assert len(stamps) == 2
    sweeps.OUTCOMES.clear()
    with pytest.raises(SystemExit):
        cli.main(command)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")} == stamps
    assert "2 skipped" in capsys.readouterr().out
    table = (folder / "results.csv").read_text()
    assert table.startswith("sampler.atol,sampler.max_evaluations,state,")
    assert table.count("failed") == 2


def test_a_sweep_over_seeds_has_means_and_deviations(tmp_path: Path, capsys) -> None:
    cli.main(
        ["-m", "+experiment=cifar10_heun", "debug=fast", "logger=csv", "metrics.seed=1,2,3", "sampler.atol=0.05,0.5"]
    )
    folder = tmp_path / "outputs" / "sweeps" / "cifar10_heun"
    jobs = [json.loads(path.read_text())["metrics"]["acc"] for path in folder.glob("*atol=0.05*/metrics.json")]
    with (folder / "seeds.csv").open() as file:
        rows = {row["sampler.atol"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"0.05", "0.5"}
    assert rows["0.05"]["seeds"] == "3"
    assert float(rows["0.05"]["acc"]) == pytest.approx(statistics.mean(jobs))
    assert float(rows["0.05"]["acc sd"]) == pytest.approx(statistics.stdev(jobs))
    assert f"{statistics.mean(jobs):.4g} ± " in capsys.readouterr().out


def test_two_sweeps_are_drawn_together(tmp_path: Path) -> None:
    for name in ("cifar10_ode_grid", "cifar10_ld_grid"):
        cli.main([f"+experiment={name}", "debug=fast", "logger=csv", *TINY[name]])
    folder = tmp_path / "outputs" / "sweeps"
    assert (folder / "cifar10_ld_grid" / "together.png").is_file()
    assert not (folder / "cifar10_ode_grid" / "together.png").is_file()


def test_two_runs_give_the_same_figures(tmp_path: Path) -> None:
    for extra in ([], ["metrics.batch_size=20"]):
        cli.main(["+experiment=cifar10_heun", "debug=fast", "logger=csv", f"hydra.run.dir=out{len(extra)}", *extra])
    a, b = (json.loads((tmp_path / f"out{n}" / "metrics.json").read_text())["metrics"] for n in (0, 1))
    assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}


def test_wandb_offline_has_everything(tmp_path: Path, monkeypatch) -> None:
    """Read the offline run back and find configuration, figures, grid and table."""
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    cli.main(["-m", "+experiment=cifar10_ode", "debug=fast", "sampler.atol=1e-1,1e-2"])
    # One folder above them is the summary of the sweep.
    runs = sorted(tmp_path.glob("outputs/sweeps/cifar10_ode/*/wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    identities = set()
    for path in runs:
        history, config, files = {}, {}, []
        for data in _wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                identities.add(record.run.run_id)
                assert record.run.run_group == "cifar10_ode"
                for item in record.run.config.update:
                    config["/".join(item.nested_key) or item.key] = item.value_json
            for item in record.config.update:
                config["/".join(item.nested_key) or item.key] = item.value_json
            for item in record.history.item:
                history["/".join(item.nested_key) or item.key] = item.value_json
            files += [item.path for item in record.files.files]
        assert any(key.startswith("sampler") for key in config)
        assert "sampling/acc" in history
        assert any("samples" in name and name.endswith(".png") for name in files) or "samples" in history
        assert any("results" in key for key in history)
    assert len(identities) == 2


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """Read the log of an offline run: after 7 bytes, blocks of 32 KiB with fragments (checksum 4, length 2, kind 1,
    bytes).
    """
    assert data.startswith(b":W&B")
    place, record = 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield record
            record = b""


def test_a_broken_wandb_stops_nothing(tmp_path: Path) -> None:
    cli.main(["+experiment=cifar10_ode", "debug=fast", "logger.wandb._target_=nowhere.Logger"])
    assert len(results(tmp_path)) == 1
    assert next(tmp_path.rglob("csv/metrics.csv")).read_text().count("sampling/acc") >= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=cifar10_od"], "Did you mean 'cifar10_ode'"),
        (["+experiment=cifar10_ode", "sampler=langevine"], "Did you mean 'langevin'"),
        (["+experiment=cifar10_ode", "query.text=labl == ship"], "Did you mean 'label'"),
        (["+experiment=cifar10_ode", "query.text=label == shop"], "Did you mean 'ship'"),
        (["+experiment=cifar10_ode", "query.text=label =="], "could not be understood"),
        (["+experiment=cifar10_ode", "sampler.method=dopri6"], "The ODE methods are"),
        (["+experiment=cifar10_ode", "sampler.atool=1"], "atool"),
        (["+experiment=cifar10_ode", "generator.name=cifar11"], "shipped weights are"),
        (["+experiment=cifar10_ode", "judge.classifier=/nowhere/x.safetensors"], "do not exist"),
        (["+experiment=cifar10_ode", "judge.classifier=cifar10_reference"], "must be a classifier"),
        (["+experiment=cifar10_ode", "query.logic=exakt"], "exact, paper"),
        (["+experiment=cifar10_ode", "metrics.fid=inceptoin"], "Did you mean 'inception'"),
        (
            ["+experiment=cifar10_ode", "generator.truncation=0.5", "classifier.weights=cifar10_labeler"],
            "is for space x",
        ),
        (["+experiment=cifar10_ode", "metrics.distance_codes=pair"], "one of same, pairs"),
        (["+experiment=cifar10_edit", "task.edits=[]"], "needs edits"),
        (["+experiment=cifar10_edit", "task.edits=[label == shop]"], "Did you mean 'ship'"),
        (["+experiment=cifar10_edit", "task.edits=[label == ship and label == truck]"], "can never be true"),
        (["+experiment=cifar10_edit", "editing.layers={label: [99]}"], "style layers of 'label' must lie in 0 to"),
        (["+experiment=cifar10_edit", "editing.layers={lable: [1]}"], "Did you mean 'label'"),
        (["+experiment=cifar10_edit", "classifier.space=x"], "a classifier of latents"),
        (["+experiment=cifar10_ode", "pairs.truncation=0.5", "classifier=latent_z"], "a classifier of w"),
        (["+experiment=portraits_glasses", "seed=1", "query=glasses == 1 and glasses == 0"], "can never be true"),
        (["+experiment=portraits_glasses", "seed=1", "query=age == 0.1 and age == 0.9"], "can never be true"),
        (["+experiment=portraits_glasses", "seed=1", "query=age == 1.5"], "values from 0 to 1, received '1.5'"),
        (["+experiment=portraits_glasses", "seed=1", "query=glases == 1"], "Did you mean 'glasses'"),
        (
            ["+experiment=portraits_glasses", "seed=1", "generator=cifar10", "classifier.weights=cifar10_classifier"],
            "knows label",
        ),
        (
            ["+experiment=portraits_glasses", "seed=1", "classifier.attributes=[smile]"],
            "the classifier knows smile alone",
        ),
        (["+experiment=portraits_glasses", "seed=1", "classifier.attributes=[smle]"], "Did you mean 'smile'"),
        (
            ["+experiment=portraits_edit", "seed=1", "editing=sequential", "edits=age == 2"],
            "values from 0 to 1, received '2'",
        ),
        (
            ["+experiment=portraits_edit", "seed=1", "editing=sequential", "edits=age == 0.1 and age == 0.9"],
            "can never be true",
        ),
        (
            ["+experiment=portraits_edit", "seed=1", "editing=sequential", "edits=label == ship"],
            "has the attributes smile",
        ),
        (["+experiment=portraits_temperature", "seed=1", "query=beard == *"], "leaves beard free"),
        (["+experiment=portraits_temperature", "seed=1", "query=beard == 1", "task.temperatures=[1,0]"], "above 0"),
        (
            ["+experiment=cifar10_ode", "classifier=pixel", "classifier.fresh_pairs=10"],
            "must be 0 for a classifier of pictures",
        ),
        (
            ["+experiment=cifar10_ode", "classifier.fresh_pairs=10", "classifier.fresh_share=0"],
            "'classifier.fresh_share' must be above 0",
        ),
        (
            ["+experiment=cifar10_ode", "classifier.calibrate=true", "pairs.holdout=[0,0.02]"],
            "pairs.holdout leaves none",
        ),
        (["+experiment=cifar10_ode", "hydra.run.dir=/proc/nowhere"], "/proc"),
        (["+experiment=cifar10_labeler", "dataset.module.root=/nowhere"], "do not exist"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys, monkeypatch) -> None:
    monkeypatch.delenv("LACE_CIFAR10", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "debug=fast", "logger=csv"] if "labeler" not in arguments[0] else arguments)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert sum(line.startswith("error:") for line in message.splitlines()) == 1


@pytest.mark.parametrize(("signal_name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_killed_training_is_no_success_and_goes_on(
    tmp_path: Path, cache: Path, signal_name: str, status: int
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
        if csv.is_file() and list(cache.glob("systems/*/.owner")):
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(getattr(signal, signal_name))
    _, printed = process.communicate(timeout=60)
    assert process.returncode == status
    assert "the same command goes on" in printed
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert not any(path.stat().st_mtime > csv.stat().st_ctime for path in cache.rglob("system.safetensors"))
    cli.main([*command[3:], "trainer.max_epochs=1"])
    assert len(results(tmp_path / "out")) == 1


def test_debug_goes_last() -> None:
    assert cli.normalize(["debug=fast", "experiment=a", "x=1"]) == ["+experiment=a", "x=1", "+debug=fast"]
    assert cli.normalize(["--config-dir", "c", "-m", "a=1", "--cfg", "job", "~b"]) == [
        "a=1",
        "~b",
        "--config-dir",
        "c",
        "-m",
        "--cfg",
        "job",
    ]
    assert cli.normalize(["query=label == ship", "query=label", "query.text=label == *"]) == [
        'query.text="label == ship"',
        "query=label",
        'query.text="label == *"',
    ]
    assert cli.normalize(["edits=a == 1, b == 0.5", "task.edits=[a == 1]", 'edits=["a == 1"]', "task.edits=[]"]) == [
        'task.edits=["a == 1","b == 0.5"]',
        'task.edits=["a == 1"]',
        'task.edits=["a == 1"]',
        "task.edits=[]",
    ]
    with pytest.raises(LaceError):
        cli.check_choices(["+experiment=none_such"])


def test_overview_names_everything(capsys) -> None:
    cli.main([])
    text = capsys.readouterr().out
    for name in (*EXPERIMENTS, "heun", "langevin", "annealed_checked", "hmc", "ModuleGenerator"[:6]):
        assert name.lower() in text.lower()
    groups = ("experiment", "sampler", "corrector", "method", "generator")
    assert all(description for group in groups for _, description in cli.describe(group))


def test_shell_completion_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lace_lightning", "--shell-completion", "install=bash"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert "complete" in done.stdout


def test_folders_of_jobs_are_stable() -> None:
    a = sweeps.job_folder(["+experiment=x", "sampler.atol=0.1", "sampler.rtol=0.2"])
    assert a == sweeps.job_folder(["sampler.rtol=0.2", "+experiment=x", "sampler.atol=0.1"])
    assert a.startswith("atol=0.1_rtol=0.2-")
    assert a != sweeps.job_folder(["+experiment=x", "sampler.atol=0.1", "sampler.rtol=0.3"])


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_a_published_pickle_is_a_generator_like_any_other(kind: str, tmp_path: Path) -> None:
    import numpy as np

    from lace_lightning.generators import StyleGAN2Network

    from .foreign_files import nvidia_pickle

    torch.manual_seed(0)
    if kind == "stylegan2":
        config = {
            "z_dim": 8,
            "w_dim": 8,
            "c_dim": 0,
            "img_resolution": 32,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": 2},
            "synthesis_kwargs": {"channels": {4: 8, 8: 8, 16: 8, 32: 8}},
        }
        state = StyleGAN2Network(**config).state_dict()
    else:
        with np.load(Path(__file__).parent / "generators" / "data" / "stylegan3_t.npz", allow_pickle=False) as file:
            config = json.loads(str(file["init_json"]))
            state = {key[6:]: torch.from_numpy(file[key]) for key in file.files if key.startswith("param/")}
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(state, config))
    cli.main(["+experiment=cifar10_heun", "debug=fast", "logger=csv", f"generator={kind}", "generator.name=n.pkl"])
    cli.main(["convert", "n.pkl", "n.safetensors"])
    cli.main(
        [
            "+experiment=cifar10_heun",
            "debug=fast",
            "logger=csv",
            f"generator={kind}",
            "generator.name=n.safetensors",
            "hydra.run.dir=outputs/converted",
        ]
    )
    first, second = (result["metrics"] for result in results(tmp_path / "outputs"))
    assert first["acc"] == second["acc"]
    assert first["fd_judge"] == pytest.approx(second["fd_judge"])


def test_a_labeler_may_abstain_in_an_experiment(tmp_path: Path) -> None:
    for confidence in (0, 0.8):
        cli.main(
            [
                "+experiment=cifar10_heun",
                "debug=fast",
                "logger=csv",
                f"labeler.confidence={confidence}",
                "hydra.run.dir=out",
            ]
        )
    known = {
        PairSet(path.parent).labels().known.float().mean().item()
        for path in Path(os.environ["LACE_CACHE"]).rglob("pairs/*/meta.json")
        if read_json(path)["schema"]["name"] == "cifar10"
    }
    assert max(known) == 1
    assert min(known) < 1


def test_published_weights_label_pairs(tmp_path: Path) -> None:
    from lace_lightning.classifiers.published import WideResNetCIFAR

    torch.manual_seed(0)
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in WideResNetCIFAR(depth=10, widen=1).state_dict().items()}},
        tmp_path / "w.pth",
    )
    cli.main(
        [
            "+experiment=cifar10_heun",
            "debug=fast",
            "logger=csv",
            "labeler=published",
            "labeler.network=wide_resnet_cifar",
            "labeler.weights=w.pth",
            "+labeler.arguments.depth=10",
            "+labeler.arguments.widen=1",
            "hydra.run.dir=out",
        ]
    )
    assert results(tmp_path / "out")[0]["metrics"]["evaluations"] > 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("""query=breed == "cat's eye\"""", """breed == "cat's eye\""""),
        ("query=breed == 'british shorthair'", "breed == 'british shorthair'"),
        ('query="breed == cat"', "breed == cat"),
        ("query.text='breed == cat'", "breed == cat"),
        ('edits=breed == "british shorthair", age == 0.5', ['breed == "british shorthair"', "age == 0.5"]),
        ("edits=breed == 'a, b', age == 0.5", ["breed == 'a, b'", "age == 0.5"]),
        ('edits="label == cat or label == dog"', ["label == cat or label == dog"]),
        ('edits=[breed == "a b"]', ['breed == "a b"']),
        ("edits=['a == 1', 'b == 1']", ["a == 1", "b == 1"]),
        ("task.edits=[]", []),
        ("query=haircolor in (red, blond)", "haircolor in (red, blond)"),
        ("query='facial hair' == 'long beard'", "'facial hair' == 'long beard'"),
        ("""query="facial hair" in ('a, b', "c")""", """"facial hair" in ('a, b', "c")"""),
        ("query=0.3<=возраст<0.5", "0.3<=возраст<0.5"),
        ("query.text=null", None),
        (
            "edits=at least 2 of (a == 1, b in (x, y)), 0.3 < c < 0.5",
            ["at least 2 of (a == 1, b in (x, y))", "0.3 < c < 0.5"],
        ),
        ("edits='x y' == 'a', 'x y' == 'b'", ["'x y' == 'a'", "'x y' == 'b'"]),
    ],
)
def test_classes_and_conditions_may_be_quoted(argument: str, value: object) -> None:
    (text,) = cli.normalize([argument])
    assert OverridesParser.create().parse_override(text).value() == value
