"""Fréchet distances to given statistics and to folders, and ID by a network of others, as people type them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning import cli
from lace_lightning.metrics import load_statistics
from lace_lightning.report import sweeps

from .test_cli import results

CONTROL = [
    "+experiment=portraits_glasses",
    "debug=fast",
    "logger=csv",
    "seed=1",
    "query.text=glasses == 1",
    "pairs.count=100",
    "metrics.num_samples=20",
    "sampler.atol=0.1",
    "sampler.rtol=0.1",
    "hydra.mode=RUN",
    "hydra.run.dir=out",
]
SIZE = 48


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, cache) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACE_CACHE", str(cache))
    monkeypatch.delenv("LACE_TRACEBACK", raising=False)
    monkeypatch.setattr("lace_lightning.run.nodes.BUILT", {})
    sweeps.OUTCOMES.clear()


@pytest.fixture
def inception(monkeypatch) -> None:
    """48 features in the place of Inception's 2048, whose weights are not shipped."""
    weights = torch.randn(3 * 8 * 8, SIZE, generator=torch.Generator().manual_seed(0)) / 14

    def features(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 8).flatten(1) @ weights

    monkeypatch.setattr("lace_lightning.metrics.feature_space.inception_features", lambda *_: (features, SIZE))
    monkeypatch.setattr("lace_lightning.metrics.feature_space.INCEPTION_FEATURES", SIZE)


class Embedding(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3 * 16 * 16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


def test_edits_are_compared_by_a_network_of_others(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    torch.jit.trace(Embedding(), torch.zeros(1, 3, 16, 16)).save(str(tmp_path / "faces.pt"))
    cli.main(
        [
            "+experiment=portraits_edit",
            "editing=sequential",
            "seed=1",
            "debug=fast",
            "logger=csv",
            "pairs.count=100",
            "task.edits=[glasses == 1]",
            "metrics.num_samples=10",
            "sampler.atol=0.1",
            "sampler.rtol=0.1",
            "task.identity.script=faces.pt",
            "task.identity.resolution=16",
            "task.identity.crop=ffhq_arcface",
            "metrics.fid=none",
        ]
    )
    (result,) = results(tmp_path / "outputs")
    assert 0 < result["metrics"]["edit1/id"] < 2
    assert 0 < result["metrics"]["id"] < 2
    protocol = result["protocol"]["identity"]
    assert protocol["script"] == "faces.pt"
    assert protocol["crop"] == pytest.approx([0.118, 0.120, 0.883, 0.885], abs=5e-3)
    with pytest.raises(SystemExit):
        cli.main([*CONTROL, "task=edit", "task.edits=[glasses == 1]", "task.identity=faces.pt"])
    assert "task.identity.script=faces.pt" in capsys.readouterr().err


def test_given_statistics_mean_inception_and_say_how_many_samples(tmp_path: Path, inception, capsys) -> None:
    spread = np.random.default_rng(0).normal(size=(300, SIZE))
    np.savez(tmp_path / "ffhq_clean_trainval70k_1024.npz", mu=spread.mean(0), sigma=np.cov(spread, rowvar=False))
    command = [*CONTROL, "metrics.reference=ffhq_clean_trainval70k_1024.npz"]
    cli.main(command)
    assert "48 features from 20 samples is biased" in capsys.readouterr().err
    (result,) = results(tmp_path / "out")
    assert result["metrics"]["fid_20"] > 0
    assert result["metrics"]["fid_20/unconditional"] > 0
    assert "fid" not in result["metrics"]
    frechet = result["protocol"]["frechet"]
    assert frechet["samples"] == 20
    assert frechet["reference"] == "ffhq_clean_trainval70k_1024.npz"
    assert frechet["reference_count"] == "unknown"
    assert "bicubic" in frechet["reference_resize"]
    assert frechet["network"].startswith("torch-fidelity inception")
    # The same name with another content is another reference.
    np.savez(tmp_path / "ffhq_clean_trainval70k_1024.npz", mu=spread.mean(0) + 1, sigma=np.cov(spread, rowvar=False))
    cli.main(command)
    assert results(tmp_path / "out")[0]["metrics"]["fid_20"] > result["metrics"]["fid_20"] + 10


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        (64, [], "must be of the features 'portraits_judge"),
        (64, ["metrics.fid=inception"], "are of 64 features"),
        (SIZE, ["metrics.fid=judge"], "are of 48 features"),
        (SIZE, [], "weights of torch-fidelity could not be loaded"),
    ],
)
def test_statistics_of_other_features_are_refused(
    size: int, options: list[str], words: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("lace_lightning.metrics.feature_space.INCEPTION_FEATURES", SIZE)
    monkeypatch.setattr("torch_fidelity.utils.create_feature_extractor", offline)
    np.savez(tmp_path / "x.npz", mu=np.zeros(size), sigma=np.eye(size))
    with pytest.raises(SystemExit):
        cli.main([*CONTROL, "metrics.reference=x.npz", *options])
    assert words in " ".join(capsys.readouterr().err.split())


def test_statistics_of_a_folder_are_measured_once_and_given_to_others(
    tmp_path: Path, inception, capsys, monkeypatch
) -> None:
    (tmp_path / "faces").mkdir()
    for index, array in enumerate(np.random.default_rng(0).integers(0, 256, (30, 40, 48, 3), dtype=np.uint8)):
        Image.fromarray(array).save(tmp_path / "faces" / f"{index:02d}.png")
    folder = [
        "dataset=folder",
        "dataset.name=faces",
        "dataset.module.root=faces",
        "dataset.module.resolution=32",
        "metrics.fid=inception",
    ]
    cli.main(["task=reference", "task.export=faces", *folder, "logger=csv", "hydra.run.dir=measured"])
    statistics, protocol = load_statistics(tmp_path / "measured" / "faces.safetensors")
    assert int(statistics["count"]) == 30
    assert protocol["reference"] == "faces train, 30 pictures"
    assert protocol["source"]["resize"] == "square in the middle, Lanczos to 32x32"
    cli.main([*CONTROL, *folder])
    (whole,) = results(tmp_path / "out")
    assert whole["protocol"]["frechet"]["reference"] == "faces train, 30 pictures"
    # A second time, the pictures are not read.
    for options in (folder, ["metrics.reference=measured/faces.safetensors"]):
        with monkeypatch.context() as patch:
            patch.setattr("lace_lightning.run.nodes.BUILT", {})
            patch.setattr("lace_lightning.data.folder.PictureFiles.read", None)
            cli.main([*CONTROL, *options])
        (result,) = results(tmp_path / "out")
        assert result["metrics"]["fid_20"] == pytest.approx(whole["metrics"]["fid_20"], rel=1e-6)
        assert result["protocol"]["frechet"]["reference"] == "faces train, 30 pictures"
        assert result["protocol"]["frechet"]["reference_resize"].startswith("square in the middle, Lanczos to 32x32")
    for options, words in (
        (["dataset=folder", "metrics.fid=inception"], "set dataset.module.root"),
        ([*folder, "dataset.module.resolution=16", "metrics.fid=judge"], "the generator's are 3x32x32"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*CONTROL, *options])
        assert words in " ".join(capsys.readouterr().err.split())
