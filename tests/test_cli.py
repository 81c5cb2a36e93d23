"""What people type: every experiment on tiny sizes, sweeps, loggers, networks of others."""

from __future__ import annotations

import csv
import json
import os
import statistics
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from lace_lightning import cli
from lace_lightning.artifacts import read_json
from lace_lightning.data.pairs import PairSet
from lace_lightning.portraits import PORTRAITS_SCHEMA
from lace_lightning.report import sweeps

pytestmark = pytest.mark.usefixtures("cli_folder")

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
# Drawn together in one test.
GRIDS = ["cifar10_ode_grid", "cifar10_ld_grid"]
SHIPPED = [name for name in EXPERIMENTS if name not in (*TRAININGS, *OTHERS, *GIVEN, *GRIDS)]
# Few samples, quick settings: enough that everything runs.
ROUGH = ["metrics.num_samples=20", "sampler.atol=0.1", "sampler.rtol=0.1"]
TINY = {
    "portraits_edit_styleflow": ["seed=1", "metrics.num_samples=20", "trainer.max_epochs=1"],
    "cifar10_ode_grid": ["sampler.atol=1e-1,1e-2", "sampler.rtol=1e-1"],
    "cifar10_ld_grid": ["sampler.num_steps=2,3", "sampler.step_size=1e-2,1e-1", "sampler.noise_std=0"],
    "cifar10_spaces": [
        "classifier=latent_z,features,pixel",
        "metrics.num_samples=4",
        "metrics.batch_size=4",
        "sampler.atol=0.1",
        "sampler.rtol=0.1",
    ],
    "cifar10_pc": ["sampler.num_steps=25,30"],
    "cifar10_euler": ["sampler.step_size=0.1,0.2"],
    "cifar10_edit": ROUGH,
    "digits_slant_thickness": ["seed=1"],
    "digits_logic": ["seed=1", "query.logic=exact"],
    "digits_edit": ["seed=1", *ROUGH],
    "portraits_glasses": ["seed=1,2", "pairs.more=30"],
    "portraits_gender_smile_age": ["seed=1"],
    "portraits_zero_shot": ["seed=1"],
    # portraits_edit_order has the other kinds of editing.
    "portraits_edit": ["seed=1", "editing=portraits_layers,posterior", *ROUGH],
    "portraits_edit_order": ["seed=1", *ROUGH],
    "portraits_logic": ["seed=1", "query.logic=exact"],
    "portraits_temperature": ["seed=1"],
    "cifar10_exact": ["method=lace_cubic,rejection", "metrics.posterior_sets=2", "metrics.num_samples=20"],
    # The sets of exact samples are those of cifar10_exact.
    "portraits_rare": [
        "method=lace_gauss_newton,auto",
        "query.text=glasses == 1 and smile == 0",
        "metrics.posterior_sets=0",
        "metrics.num_samples=20",
    ],
    "portraits_stiff": ["method=lace_cubic,lace_gauss_newton"],
    "portraits_attributes": [
        "seed=1",
        "classifier.arguments.mode=separate",
        "query.text='glasses == *','glasses == * and age == *'",
    ],
}
JOBS = {
    "portraits_edit_styleflow": 2,
    "cifar10_pc": 2,
    "cifar10_euler": 2,
    "cifar10_spaces": 3,
    "cifar10_ode_grid": 2,
    "cifar10_ld_grid": 4,
    "digits_slant_thickness": 1,
    "digits_logic": 4,
    "digits_edit": 2,
    "digits_latent_jem": 2,
    "portraits_glasses": 2,
    "portraits_gender_smile_age": 2,
    "portraits_zero_shot": 2,
    "portraits_edit": 2,
    "portraits_edit_order": 2,
    "portraits_logic": 4,
    "portraits_temperature": 2,
    "portraits_attributes": 2,
    "cifar10_exact": 2,
    "portraits_rare": 2,
    "portraits_stiff": 2,
    "cifar10_latent_jem": 2,
    "portraits_latent_jem": 2,
}


def results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("metrics.json"))]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_experiment_runs(name: str, tmp_path: Path) -> None:
    run_experiment(name, tmp_path / "outputs")


def test_two_grids_are_drawn_together(tmp_path: Path) -> None:
    for name in GRIDS:
        folder = tmp_path / "outputs" / "sweeps" / name
        run_experiment(name, folder)
        assert {"results.csv", "acc_against_fid.png", "curves.png"} <= {path.name for path in folder.iterdir()}
        assert (folder / "together.png").is_file() == (name == GRIDS[1])


def run_experiment(name: str, folder: Path) -> None:
    """Run an experiment on tiny sizes, and check its results in the folder."""
    cli.main([f"+experiment={name}", "debug=fast", "logger=csv", *TINY.get(name, [])])
    found = results(folder)
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
    for picture in folder.rglob("samples.png"):
        with Image.open(picture) as image:
            assert image.size[0] > 128


@pytest.mark.parametrize("name", ["portraits_check", "cifar10_check"])
def test_labeler_and_judge_are_checked(name: str, tmp_path: Path, request, monkeypatch, capsys) -> None:
    if name.startswith("cifar10"):
        # Some of the pictures: those of all archives take ten seconds to decode.
        sizes = {"train": 10, "test": 500}
        monkeypatch.setattr("lace_lightning.data.cifar10.SIZES", sizes)
        for split, count in sizes.items():
            shared = request.getfixturevalue("shared_dir") / "data" / f"cifar10-{split}.zip"
            copy_evenly(shared, tmp_path / shared.name, count)
        monkeypatch.setenv("LACE_CIFAR10", str(tmp_path))
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


def copy_evenly(source: Path, target: Path, count: int) -> None:
    """Write an archive of `count` of the files of another, at equal distances."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as few:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        for name in names[:: len(names) // count]:
            few.writestr(name, archive.read(name))


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
    monkeypatch.setattr("lace_lightning.data.cifar10.load_cifar10", few_pictures)
    cli.main(
        ["+experiment=cifar10_reference", "logger=csv", "judge.views=1", "judge.precision=float32", "hydra.run.dir=out"]
    )
    statistics, protocol = load_statistics(tmp_path / "out" / "cifar10_reference.safetensors")
    judge = Labeler("cifar10_judge", precision="float32")
    features, _ = judge.features_and_logits(few_pictures(None, "train", None)[0].float() / 127.5 - 1)
    torch.testing.assert_close(statistics["mean"].float(), features.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(statistics["covariance"].float(), torch.cov(features.T), atol=1e-3, rtol=1e-3)
    assert judge.digest in protocol["network"]
    assert results(tmp_path / "out")[0]["metrics"]["fd/test"] > 0


def few_digits(root, split):
    generator = torch.Generator().manual_seed(0)
    count = 40 if split == "train" else 10
    pictures = torch.randint(0, 256, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return pictures, torch.arange(count) % 10


def few_pictures(root, split, cache, download=False):
    count = {"train": 40, "test": 10}[split]
    pictures = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pictures, torch.arange(count) % 10


def test_a_sweep_records_failures_goes_on_and_resumes(tmp_path: Path, capsys) -> None:
    command = [
        "-m",
        "+experiment=cifar10_ode",
        "debug=fast",
        "logger=csv",
        "sampler.max_evaluations=5,1000",
        "sampler.atol=1e-1",
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "1 done, 1 failed" in printed.out or "1 failed, 1 done" in printed.out
    assert "within 5 evaluations" in printed.err
    folder = tmp_path / "outputs" / "sweeps" / "cifar10_ode"
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    assert len(stamps) == 1
    sweeps.OUTCOMES.clear()
    with pytest.raises(SystemExit):
        cli.main(command)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")} == stamps
    assert "1 skipped" in capsys.readouterr().out
    table = (folder / "results.csv").read_text()
    assert table.startswith("sampler.max_evaluations,state,")
    assert table.count("failed") == 1


def test_a_sweep_over_seeds_has_means_and_deviations(tmp_path: Path, capsys) -> None:
    cli.main(
        ["-m", "+experiment=cifar10_heun", "debug=fast", "logger=csv", "metrics.seed=1,2", "sampler.atol=0.05,0.5"]
    )
    folder = tmp_path / "outputs" / "sweeps" / "cifar10_heun"
    jobs = [json.loads(path.read_text())["metrics"]["acc"] for path in folder.glob("*atol=0.05*/metrics.json")]
    with (folder / "seeds.csv").open() as file:
        rows = {row["sampler.atol"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"0.05", "0.5"}
    assert rows["0.05"]["seeds"] == "2"
    assert float(rows["0.05"]["acc"]) == pytest.approx(statistics.mean(jobs))
    assert float(rows["0.05"]["acc sd"]) == pytest.approx(statistics.stdev(jobs))
    assert f"{statistics.mean(jobs):.4g} ± " in capsys.readouterr().out


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
